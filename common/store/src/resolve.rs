//! Resolving: an operator settles what nobody could tell, or an undo that cannot finish.
//!
//! **Owns** the way out of `unknown` and `stuck` by hand. It goes through the same settlement as a worker's outcome:
//! the operator takes the unit's lease, and what is found is written with its money, its events and what it unlocked,
//! in one transaction with the act's own event. **Must never** take a lease that someone holds.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::event::{ControlAct, EventKind, NewEvent};
use dat_plan::{PlanKey, PlanState, StepState, UnitKey, UnitKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::error::StoreError;
use crate::event_log;
use crate::lease::Lease;
use crate::operator::Operator;
use crate::plan_row::{self, Contended, LockedPlan};
use crate::pool::Store;
use crate::settle::{Finding, Settlement, settle_in};
use crate::two_person::{self, Requested};
use crate::unit_columns::unit_columns;

/// What an operator found out, or wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "resolution")]
pub enum Resolution {
    /// Of what is unknown: the effect happened.
    Done {
        /// The result; `{}` where there is none.
        result: Value,
        /// What it cost, smallest unit.
        cost: i64,
        /// What came back.
        refund: i64,
    },
    /// Of what is unknown: it had no effect and never will, as after a probe that sealed the key.
    NoEffect,
    /// Of a stuck undo: someone undid it by hand.
    Undone {
        /// What that cost, smallest unit.
        cost: i64,
        /// What came back.
        refund: i64,
    },
    /// Of a stuck undo: it is tried again, its attempts anew.
    Retry,
}

impl Resolution {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Done { .. } => "done",
            Self::NoEffect => "no_effect",
            Self::Undone { .. } => "undone",
            Self::Retry => "retry",
        }
    }

    /// The state of the units that it is for.
    const fn applies_to(&self) -> StepState {
        match self {
            Self::Done { .. } | Self::NoEffect => StepState::Unknown,
            Self::Undone { .. } | Self::Retry => StepState::Stuck,
        }
    }
}

/// One unit that is resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolve {
    /// The unit. Of a stuck undo, the undo and not its step.
    pub unit: UnitKey,
    /// How.
    pub resolution: Resolution,
    /// An action: the steps that need it, by index, from the document.
    pub successors: Vec<i32>,
}

/// Why a unit is not resolved. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotResolved {
    /// There is no such unit.
    #[error("the plan has no such step or undo")]
    NotThere,
    /// It is in another state than the resolution is for.
    #[error("{unit} is {state} and not {wanted}: there is nothing to resolve in that way")]
    NotSo {
        /// The unit, for people.
        unit: String,
        /// Where it stands.
        state: StepState,
        /// Where it would have to stand.
        wanted: StepState,
    },
    /// A worker asks the outside system about it right now.
    #[error("{unit} is being probed by {worker}, whose lease holds until {until}: try again then")]
    Held {
        /// The unit, for people.
        unit: String,
        /// Who holds the lease.
        worker: String,
        /// Until when.
        until: DateTime<Utc>,
    },
    /// A step is resolved as done, an undo as undone.
    #[error("{unit} is no undo: only an undo is undone by hand or tried again here")]
    NoUndo {
        /// The unit, for people.
        unit: String,
    },
}

/// What came of resolving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// It is in force.
    Done {
        /// Where the plan stands now.
        plan: PlanState,
        /// How many undos of it are stuck still.
        stuck: i64,
    },
    /// It takes a second operator: nothing is changed yet.
    Requested(Requested),
    /// It cannot be resolved so.
    Refused(NotResolved),
}

struct Row {
    step_key: String,
    state: StepState,
    attempts: i32,
    epoch: i64,
    lease_until: Option<DateTime<Utc>>,
    worker: Option<String>,
}

impl Row {
    fn name(&self, unit: UnitKey) -> String {
        match unit.kind {
            UnitKind::Action => format!("step {}", self.step_key),
            UnitKind::Undo => format!("the undo of {}", self.step_key),
        }
    }
}

/// How long the operator's own lease would hold; it is used in the same transaction.
const LEASE: TimeDelta = TimeDelta::minutes(1);

impl Store {
    /// Resolves units of one plan, all of them or none, in one transaction. A stuck plan goes on when nothing of it is
    /// stuck any more. (The states and arrows are `dat-plan`'s.)
    pub async fn resolve(
        &self,
        plan: PlanKey,
        units: &[Resolve],
        actor: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<Resolved, StoreError> {
        let mut tx = self.begin().await?;
        let resolved = resolve_in(&mut tx, plan, units, &Operator::alone(actor, reason), now).await?;
        if !matches!(resolved, Resolved::Refused(_)) {
            tx.commit().await?;
        }
        Ok(resolved)
    }
}

pub(crate) async fn resolve_in(
    conn: &mut PgConnection,
    key: PlanKey,
    units: &[Resolve],
    operator: &Operator,
    now: DateTime<Utc>,
) -> Result<Resolved, StoreError> {
    let mut plans = plan_row::lock(&mut *conn, [key], Contended::Wait).await?;
    let Some(plan) = plans.get_mut(&key) else { return Ok(Resolved::Refused(NotResolved::NotThere)) };
    let rows = rows(&mut *conn, units).await?;
    for one in units {
        let Some(row) = rows.get(&one.unit).filter(|_| one.unit.plan == key) else {
            return Ok(Resolved::Refused(NotResolved::NotThere));
        };
        if let Err(refused) = admissible(one, row, now) {
            return Ok(Resolved::Refused(refused));
        }
    }
    let subject = key.plan_id.to_string();
    let about = ("plan", subject.as_str());
    let payload = json!({"plan": key, "units": units});
    if let Some(request) =
        two_person::ask(&mut *conn, ControlAct::Resolve, about, Some(payload), operator, now).await?
    {
        return Ok(Resolved::Requested(request));
    }
    let mut events = Vec::new();
    let mut settlements = Vec::new();
    for one in units {
        let Some(row) = rows.get(&one.unit) else { continue };
        let finding = match &one.resolution {
            Resolution::Done { result, cost, refund } => {
                take_over(&mut *conn, one.unit, row, operator, now).await?;
                Finding::Done { result: result.clone(), cost: *cost, refund: *refund }
            }
            Resolution::NoEffect => {
                take_over(&mut *conn, one.unit, row, operator, now).await?;
                Finding::Sealed
            }
            Resolution::Undone { cost, refund } => {
                unstick(&mut *conn, plan, one.unit, row, operator, &mut events, now).await?;
                attempt(&mut *conn, plan, one.unit, row, operator, &mut events, now).await?;
                Finding::Done { result: json!({}), cost: *cost, refund: *refund }
            }
            Resolution::Retry => {
                unstick(&mut *conn, plan, one.unit, row, operator, &mut events, now).await?;
                continue;
            }
        };
        let lease = Lease { unit: one.unit, epoch: row.epoch + 1, until: now + LEASE };
        settlements.push(Settlement { lease, finding, successors: one.successors.clone(), decision: None });
    }
    let stuck = stuck(&mut *conn, key).await?;
    if plan.state == PlanState::Stuck {
        if stuck == 0 {
            let why = format!("resolved by {}: {}", operator.names(), operator.reason);
            events
                .push(plan.enter(PlanState::RollingBack, &why, now)?.with("actor", operator.actor.as_str()));
        } else {
            plan.wait_reason = Some(format!("{stuck} undos cannot finish"));
            plan.dirty = true;
        }
    }
    for one in units {
        let Some(row) = rows.get(&one.unit) else { continue };
        events.push(said(one, row, &subject, operator, now));
    }
    plan_row::write(&mut *conn, &plans).await?;
    if settlements.is_empty() {
        event_log::append(&mut *conn, &events).await?;
    } else {
        settle_in(&mut *conn, &settlements, events, Some(operator), now).await?;
    }
    let state = sqlx::query_scalar!(
        "SELECT state FROM execution_plan WHERE plan_id = $1 AND plan_version = $2",
        key.plan_id,
        key.plan_version,
    )
    .fetch_one(conn)
    .await?;
    Ok(Resolved::Done { plan: state.parse()?, stuck })
}

fn admissible(one: &Resolve, row: &Row, now: DateTime<Utc>) -> Result<(), NotResolved> {
    let (unit, wanted) = (row.name(one.unit), one.resolution.applies_to());
    if wanted == StepState::Stuck && one.unit.kind == UnitKind::Action {
        return Err(NotResolved::NoUndo { unit });
    }
    if row.state != wanted {
        return Err(NotResolved::NotSo { unit, state: row.state, wanted });
    }
    match row.lease_until {
        Some(until) if now < until => {
            let worker = row.worker.clone().unwrap_or_default();
            Err(NotResolved::Held { unit, worker, until })
        }
        _ => Ok(()),
    }
}

/// The act's own event, in the control stream.
fn said(one: &Resolve, row: &Row, subject: &str, operator: &Operator, now: DateTime<Utc>) -> NewEvent {
    let mut event = NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::Control(ControlAct::Resolve), now)
        .with("scope", "plan")
        .with("subject", subject)
        .with("version", one.unit.plan.plan_version)
        .with("unit", one.unit.kind.as_str())
        .with("resolved_step", row.step_key.as_str())
        .with("resolution", one.resolution.as_str());
    if let Resolution::Done { cost, refund, .. } | Resolution::Undone { cost, refund } = &one.resolution {
        event = event.with("cost", *cost).with("refund", *refund);
    }
    operator.sign(event)
}

/// The units' rows, locked in key order.
async fn rows(conn: &mut PgConnection, units: &[Resolve]) -> Result<BTreeMap<UnitKey, Row>, StoreError> {
    let (ids, versions, kinds, indexes) = unit_columns(units.iter().map(|one| &one.unit));
    let rows = sqlx::query!(
        "SELECT s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.state, s.attempts,
                s.lease_epoch, s.lease_until, s.worker
         FROM execution_step s
         JOIN UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[])
              AS k (plan_id, plan_version, kind, step_index)
           USING (plan_id, plan_version, kind, step_index)
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
                worker: row.worker,
            };
            Ok((unit, row))
        })
        .collect()
}

/// Takes the lease of a unit whose outcome is unknown, as a probe would.
async fn take_over(
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
async fn unstick(
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
async fn attempt(
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
async fn stuck(conn: &mut PgConnection, plan: PlanKey) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM execution_step
         WHERE plan_id = $1 AND plan_version = $2 AND kind = 'undo' AND state || '' = 'stuck'"#,
        plan.plan_id,
        plan.plan_version,
    )
    .fetch_one(conn)
    .await?)
}
