//! The rows of units that an operator resolves: locked, read and brought to where the ordinary settlement takes over.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::{PlanKey, StepState, UnitKey, UnitKind};

use super::Resolve;
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::operator::Operator;
use crate::plan_row::{self, LockedPlan};
use crate::unit_columns::unit_columns;

/// How long the operator's own lease would hold; it is used in the same transaction.
pub(super) const LEASE: TimeDelta = TimeDelta::minutes(1);

/// A unit as it stands under the lock.
pub(super) struct Row {
    pub(super) step_key: String,
    pub(super) state: StepState,
    pub(super) attempts: i32,
    pub(super) epoch: i64,
    pub(super) lease_until: Option<DateTime<Utc>>,
    /// The request of its last attempt left before this, or never.
    pub(super) send_before: Option<DateTime<Utc>>,
    pub(super) worker: Option<String>,
}

impl Row {
    /// Its name, for people.
    pub(super) fn name(&self, unit: UnitKey) -> String {
        match unit.kind {
            UnitKind::Action => format!("step {}", self.step_key),
            UnitKind::Undo => format!("the undo of {}", self.step_key),
        }
    }
}

/// The units' rows, locked in key order.
pub(super) async fn rows(
    conn: &mut PgConnection,
    units: &[Resolve],
) -> Result<BTreeMap<UnitKey, Row>, StoreError> {
    let (ids, versions, kinds, indexes) = unit_columns(units.iter().map(|one| &one.unit));
    let rows = sqlx::query!(
        "SELECT s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.state, s.attempts,
                s.lease_epoch, s.lease_until, s.worker, coalesce(a.send_before, a.started_at) AS send_before
         FROM execution_step s
         JOIN UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[])
              AS k (plan_id, plan_version, kind, step_index)
           USING (plan_id, plan_version, kind, step_index)
         LEFT JOIN step_attempt a ON a.plan_id = s.plan_id AND a.plan_version = s.plan_version
           AND a.kind = s.kind AND a.step_index = s.step_index AND a.attempt = s.attempts
         ORDER BY s.plan_id, s.plan_version, s.kind, s.step_index
         FOR NO KEY UPDATE OF s",
        &ids,
        &versions,
        &kinds,
        &indexes,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let plan = PlanKey::new(row.plan_id, row.plan_version);
            let unit = UnitKey { plan, kind: row.kind.parse()?, index: row.step_index };
            let row = Row {
                step_key: row.step_key,
                state: row.state.parse()?,
                attempts: row.attempts,
                epoch: row.lease_epoch,
                lease_until: row.lease_until,
                send_before: row.send_before,
                worker: row.worker,
            };
            Ok((unit, row))
        })
        .collect()
}

/// Takes the lease of a unit whose outcome is unknown, as a probe would.
pub(super) async fn take_over(
    conn: &mut PgConnection,
    unit: UnitKey,
    row: &Row,
    operator: &Operator,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let taken = sqlx::query!(
        "UPDATE execution_step SET lease_epoch = lease_epoch + 1, lease_until = $6, worker = $7
         WHERE plan_id = $1 AND plan_version = $2 AND kind = $3 AND step_index = $4 AND state = 'unknown'
           AND lease_epoch = $5",
        unit.plan.plan_id,
        unit.plan.plan_version,
        unit.kind.as_str(),
        unit.index,
        row.epoch,
        now + LEASE,
        holder(operator),
    )
    .execute(conn)
    .await?;
    plan_row::assert_rows(taken.rows_affected(), 1, "step")
}

/// Takes a stuck undo to `ready`, its attempts anew, and its step from `stuck` to `compensating`.
pub(super) async fn unstick(
    conn: &mut PgConnection,
    plan: &LockedPlan,
    unit: UnitKey,
    row: &Row,
    operator: &Operator,
    events: &mut Vec<NewEvent>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let ready = row.state.to(StepState::Ready)?;
    let changed = sqlx::query!(
        "UPDATE execution_step
         SET state = $5, ready_at = $6, not_before = $6, ended_at = NULL, wait_reason = NULL, retry_after_ms = 0,
             forgiven = attempts - lost, forgiven_lost = lost
         WHERE plan_id = $1 AND plan_version = $2 AND kind = 'undo' AND step_index = $3 AND state = 'stuck'
           AND attempts = $4",
        unit.plan.plan_id,
        unit.plan.plan_version,
        unit.index,
        row.attempts,
        ready.as_str(),
        now,
    )
    .execute(&mut *conn)
    .await?;
    plan_row::assert_rows(changed.rows_affected(), 1, "undo")?;
    let event = plan.event(EventKind::Undo(ready), now).step(&row.step_key, row.attempts);
    events.push(operator.sign(event));
    let compensating = StepState::Stuck.to(StepState::Compensating)?;
    // A step of the plan's own rollback list undoes no step.
    let step = sqlx::query!(
        "UPDATE execution_step SET state = $5, wait_reason = NULL
         WHERE plan_id = $1 AND plan_version = $2 AND kind = 'action' AND step_index = $3 AND step_key = $4
           AND state = 'stuck'
         RETURNING attempts",
        unit.plan.plan_id,
        unit.plan.plan_version,
        unit.index,
        row.step_key,
        compensating.as_str(),
    )
    .fetch_optional(conn)
    .await?;
    if let Some(step) = step {
        let event = plan.event(EventKind::Step(compensating), now).step(&row.step_key, step.attempts);
        events.push(operator.sign(event));
    }
    Ok(())
}

/// What an operator did by hand is an attempt of the undo like any other: with a number, a holder and an end.
pub(super) async fn by_hand(
    conn: &mut PgConnection,
    plan: &LockedPlan,
    unit: UnitKey,
    row: &Row,
    operator: &Operator,
    events: &mut Vec<NewEvent>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let running = StepState::Ready.to(StepState::Running)?;
    let changed = sqlx::query!(
        "UPDATE execution_step
         SET state = $5, attempts = attempts + 1, sent = true, started_at = $6, lease_epoch = lease_epoch + 1,
             lease_until = $7, worker = $8
         WHERE plan_id = $1 AND plan_version = $2 AND kind = 'undo' AND step_index = $3 AND state = 'ready'
           AND lease_epoch = $4",
        unit.plan.plan_id,
        unit.plan.plan_version,
        unit.index,
        row.epoch,
        running.as_str(),
        now,
        now + LEASE,
        holder(operator),
    )
    .execute(&mut *conn)
    .await?;
    plan_row::assert_rows(changed.rows_affected(), 1, "undo")?;
    sqlx::query!(
        "INSERT INTO step_attempt (plan_id, plan_version, kind, step_index, attempt, worker, lease_epoch,
             idempotency_key, started_at)
         VALUES ($1, $2, 'undo', $3, $4, $5, $6, 'by hand', $7)",
        unit.plan.plan_id,
        unit.plan.plan_version,
        unit.index,
        row.attempts + 1,
        holder(operator),
        row.epoch + 1,
        now,
    )
    .execute(conn)
    .await?;
    let event = plan.event(EventKind::Undo(running), now).step(&row.step_key, row.attempts + 1);
    events.push(operator.sign(event.with("worker", holder(operator))));
    Ok(())
}

/// How rows call the operator who holds a lease.
fn holder(operator: &Operator) -> String {
    format!("operator {}", operator.actor)
}

/// How many undos of a plan are stuck.
pub(super) async fn stuck(conn: &mut PgConnection, plan: PlanKey) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM execution_step
         WHERE plan_id = $1 AND plan_version = $2 AND kind = 'undo' AND state || '' = 'stuck'"#,
        plan.plan_id,
        plan.plan_version,
    )
    .fetch_one(conn)
    .await?)
}
