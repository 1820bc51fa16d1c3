//! The Rollback Coordinator's transactions: rulings on failed units, and the registering of undos.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::rollback::{Decision, OutcomeClass};
use dat_plan::{PlanKey, PlanState, StepState, UnitKey, UnitKind};

use crate::account::{Ledger, held_accounts};
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::event_log;
use crate::finish::{self, start_rollback};
use crate::plan_row::{self, Contended, LockedPlan};
use crate::pool::Store;
use crate::seal::SEAL_BROKEN;
use crate::unit_columns::unit_columns;

/// A failed unit that waits for a ruling.
#[derive(Debug, Clone)]
pub struct FailedRow {
    /// The unit.
    pub unit: UnitKey,
    /// The step's key.
    pub step_key: String,
    /// How the last attempt ended.
    pub last: OutcomeClass,
    /// Attempts started.
    pub attempts: i32,
    /// Of these, those that count: neither lost nor before an operator let the undo be tried anew.
    pub counted: i32,
    /// Of these, lost, since an operator let the undo be tried anew.
    pub lost: i32,
    /// What the outside system asked to wait.
    pub retry_after: TimeDelta,
    /// When the first attempt was claimed; when it failed, where nothing was.
    pub since: DateTime<Utc>,
    /// What went wrong, for people.
    pub detail: String,
    /// Whether the plan still runs forward.
    pub plan_goes_on: bool,
}

/// What the coordinator decided about a failed unit.
#[derive(Debug, Clone)]
pub struct Ruling {
    /// The unit as it was looked at: if it moved since, the ruling is void.
    pub failed: FailedRow,
    /// The decision.
    pub decision: Decision,
}

/// A step that ran, as the coordinator sees it when a rollback begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RanStep {
    /// Its index in the document.
    pub index: i32,
    /// Whether it completed; else it failed after being sent.
    pub completed: bool,
}

/// An undo to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUndo {
    /// The step's index, or the place in `rollback.steps`.
    pub index: i32,
    /// The key.
    pub key: String,
    /// The connector.
    pub connector: String,
    /// The action.
    pub action: String,
    /// How many undos it waits for.
    pub waits_for: i32,
    /// Which undos wait for it.
    pub unlocks: Vec<i32>,
}

/// Says which undos a rollback consists of, given what ran.
pub struct RollbackStart<'a> {
    /// The plan.
    pub plan: PlanKey,
    /// Pure, from the document.
    pub undos: &'a (dyn Fn(&[RanStep]) -> Vec<NewUndo> + Send + Sync),
}

/// What the coordinator's transaction did.
#[derive(Debug, Default)]
pub struct CoordinateReport {
    /// Units that became ready: ring `step.dispatch`.
    pub ready: Vec<UnitKey>,
    /// When the first unit that waits to be tried again is due.
    pub next_due: Option<DateTime<Utc>>,
    /// Plans that were changed: their live state is to be refreshed.
    pub touched: Vec<PlanKey>,
    /// Rulings that unwind their plan: the coordinator is due again.
    pub rolling_back: usize,
    /// Units that are to be tried again.
    pub retries: usize,
    /// Units that are stuck.
    pub stuck: usize,
    /// Plans that ended, all of them aborted.
    pub ended: Vec<PlanKey>,
}

impl Store {
    /// Failed units that wait for a ruling, oldest first.
    pub async fn undecided(&self, limit: i64, now: DateTime<Utc>) -> Result<Vec<FailedRow>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key,
                    s.last_outcome AS "last_outcome!", s.attempts, s.retry_after_ms,
                    s.attempts - s.lost - s.forgiven AS "counted!", s.lost - s.forgiven_lost AS "lost!",
                    coalesce(s.detail, '') AS "detail!",
                    coalesce((SELECT a.started_at FROM step_attempt a
                              WHERE a.plan_id = s.plan_id AND a.plan_version = s.plan_version AND a.kind = s.kind
                                AND a.step_index = s.step_index AND a.attempt = 1), s.not_before) AS "since!",
                    (p.state IN ('executing', 'paused') AND p.revoked_at IS NULL
                     AND coalesce(p.deadline > $1, true) AND coalesce(p.approval_expires_at > $1, true))
                        AS "goes_on!"
             FROM execution_step s JOIN execution_plan p USING (plan_id, plan_version)
             WHERE s.needs_decision AND s.state = 'failed'
               -- What is not what was approved is looked at again, but not at every look.
               AND NOT (s.not_before > $1 AND coalesce(starts_with(s.wait_reason, $3), false))
             ORDER BY s.not_before LIMIT $2"#,
            now,
            limit,
            SEAL_BROKEN,
        )
        .fetch_all(self.pool())
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(FailedRow {
                    unit: UnitKey {
                        plan: PlanKey::new(row.plan_id, row.plan_version),
                        kind: row.kind.parse()?,
                        index: row.step_index,
                    },
                    step_key: row.step_key,
                    last: row.last_outcome.parse()?,
                    attempts: row.attempts,
                    counted: row.counted,
                    lost: row.lost,
                    retry_after: TimeDelta::milliseconds(row.retry_after_ms),
                    since: row.since,
                    detail: row.detail,
                    plan_goes_on: row.goes_on,
                })
            })
            .collect()
    }

    /// Carries rulings out. One whose unit moved meanwhile is void. One transaction.
    pub async fn rule(&self, rulings: &[Ruling], now: DateTime<Utc>) -> Result<CoordinateReport, StoreError> {
        let mut tx = self.begin().await?;
        let keys = rulings.iter().map(|r| r.failed.unit.plan);
        let mut plans = plan_row::lock(&mut tx, keys, Contended::Skip).await?;
        let mut report = CoordinateReport::default();
        let mut events = Vec::new();
        for ruling in rulings {
            let Some(plan) = plans.get_mut(&ruling.failed.unit.plan) else { continue };
            rule_one(&mut tx, plan, ruling, &mut events, &mut report, now).await?;
        }
        plan_row::write(&mut tx, &plans).await?;
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("rule", tx.commit()).await?;
        report.touched = plans.into_keys().collect();
        Ok(report)
    }

    /// Plans that are rolling back and whose undos are not registered yet.
    pub async fn rollbacks_due(&self, limit: i64, now: DateTime<Utc>) -> Result<Vec<PlanKey>, StoreError> {
        Ok(sqlx::query!(
            "SELECT plan_id, plan_version FROM execution_plan
             WHERE wake_at <= $1 AND state = 'rolling_back' AND NOT undo_begun
             ORDER BY wake_at LIMIT $2",
            now,
            limit,
        )
        .fetch_all(self.pool())
        .await?
        .into_iter()
        .map(|row| PlanKey::new(row.plan_id, row.plan_version))
        .collect())
    }

    /// Registers the undos of plans in which nothing is in flight any more; a plan with nothing to undo is aborted.
    /// One transaction.
    pub async fn begin_undo(
        &self,
        starts: &[RollbackStart<'_>],
        now: DateTime<Utc>,
    ) -> Result<CoordinateReport, StoreError> {
        let mut tx = self.begin().await?;
        let mut plans = plan_row::lock(&mut tx, starts.iter().map(|s| s.plan), Contended::Skip).await?;
        let held = held_accounts(&mut tx, plans.keys().copied()).await?;
        let mut ledger = Ledger::open(&mut tx, plans.keys().copied(), &[], &held, now).await?;
        let mut events = Vec::new();
        let mut report = CoordinateReport::default();
        for start in starts {
            let Some(plan) = plans.get_mut(&start.plan) else { continue };
            if plan.state != PlanState::RollingBack || plan.undo_begun {
                continue;
            }
            let Some(ran) = ran_steps(&mut tx, plan).await? else {
                // Something is in flight: its settlement wakes the coordinator, and so does a lost lease.
                plan.wait_reason = Some("steps in flight end before the rollback begins".to_owned());
                plan.wake(Some(now + TimeDelta::seconds(1)));
                continue;
            };
            let undos = (start.undos)(&ran);
            plan.undo_begun = true;
            plan.undos_open = i32::try_from(undos.len()).unwrap_or(i32::MAX);
            plan.wake(None);
            plan.wait_reason = None;
            if undos.is_empty() {
                let event = finish::end(&mut tx, &mut ledger, plan, PlanState::Aborted, now).await?;
                events.append(&mut ledger.events);
                events.push(event);
                report.ended.push(plan.key);
            } else {
                report.ready.extend(register(&mut tx, plan, &undos, &mut events, now).await?);
            }
        }
        ledger.write(&mut tx).await?;
        plan_row::write(&mut tx, &plans).await?;
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("undo.begin", tx.commit()).await?;
        report.touched = plans.into_keys().collect();
        Ok(report)
    }
}

async fn rule_one(
    conn: &mut PgConnection,
    plan: &mut LockedPlan,
    ruling: &Ruling,
    events: &mut Vec<NewEvent>,
    report: &mut CoordinateReport,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let failed = &ruling.failed;
    let goes_on =
        matches!(plan.state, PlanState::Executing | PlanState::Paused) && plan.stopped(now).is_none();
    let decision = match (failed.unit.kind, ruling.decision) {
        // The plan stopped since it was looked at.
        (UnitKind::Action, Decision::Retry { .. } | Decision::Pause) if !goes_on => Decision::RollBack,
        (_, decision) => decision,
    };
    let (state, at) = match decision {
        Decision::Retry { at } => (StepState::Failed.to(StepState::Ready)?, at),
        Decision::Stuck => (StepState::Failed.to(StepState::Stuck)?, now),
        Decision::RollBack | Decision::Pause => (StepState::Failed, now),
    };
    let reason = if failed.detail.is_empty() { failed.last.as_str() } else { &failed.detail };
    let wait = format!("attempt {} failed ({reason}); tried again", failed.attempts);
    let changed = sqlx::query!(
        "UPDATE execution_step
         SET state = $6, needs_decision = false, not_before = $7,
             ready_at = CASE WHEN $6 = 'ready' THEN $8 ELSE ready_at END,
             ended_at = CASE WHEN $6 = 'ready' THEN NULL ELSE ended_at END,
             wait_reason = CASE WHEN $6 = 'ready' THEN $9 END
         WHERE plan_id = $1 AND plan_version = $2 AND kind = $3 AND step_index = $4
           AND state = 'failed' AND needs_decision AND attempts = $5",
        failed.unit.plan.plan_id,
        failed.unit.plan.plan_version,
        failed.unit.kind.as_str(),
        failed.unit.index,
        failed.attempts,
        state.as_str(),
        at,
        now,
        wait,
    )
    .execute(&mut *conn)
    .await?;
    if changed.rows_affected() == 0 {
        return Ok(());
    }
    let why = format!("step {} failed: {reason}", failed.step_key);
    match decision {
        Decision::Retry { at } => {
            let kind = match failed.unit.kind {
                UnitKind::Action => EventKind::Step(StepState::Ready),
                UnitKind::Undo => EventKind::Undo(StepState::Ready),
            };
            events.push(
                plan.event(kind, now)
                    .step(&failed.step_key, failed.attempts)
                    .with("not_before", at.to_rfc3339())
                    .because(&wait),
            );
            report.retries += 1;
            report.ready.push(failed.unit);
            report.next_due = Some(report.next_due.map_or(at, |due| due.min(at)));
        }
        Decision::RollBack => {
            if matches!(plan.state, PlanState::Executing | PlanState::Paused) {
                let why = plan.stopped(now).unwrap_or(why);
                start_rollback(conn, plan, &why, events, now).await?;
            }
            report.rolling_back += 1;
        }
        Decision::Pause => {
            if plan.state == PlanState::Executing {
                events.push(plan.enter(PlanState::Paused, &why, now)?);
                plan.wait_reason = Some(format!("{why}; its rollback is manual: resume or abort it"));
                plan.wake(plan.next_bound());
            }
        }
        Decision::Stuck => {
            stuck(conn, plan, failed, &why, events, now).await?;
            report.stuck += 1;
        }
    }
    Ok(())
}

async fn stuck(
    conn: &mut PgConnection,
    plan: &mut LockedPlan,
    failed: &FailedRow,
    why: &str,
    events: &mut Vec<NewEvent>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    events.push(
        plan.event(EventKind::Undo(StepState::Stuck), now)
            .step(&failed.step_key, failed.attempts)
            .because(&failed.detail),
    );
    let forward = sqlx::query!(
        "UPDATE execution_step SET state = 'stuck', wait_reason = $5
         WHERE plan_id = $1 AND plan_version = $2 AND kind = 'action' AND step_index = $3 AND step_key = $4
           AND state = 'compensating'
         RETURNING attempts",
        plan.key.plan_id,
        plan.key.plan_version,
        failed.unit.index,
        failed.step_key,
        why,
    )
    .fetch_optional(conn)
    .await?;
    if let Some(row) = forward {
        events.push(
            plan.event(EventKind::Step(StepState::Stuck), now)
                .step(&failed.step_key, row.attempts)
                .because(why),
        );
    }
    if plan.state == PlanState::RollingBack {
        events.push(plan.enter(PlanState::Stuck, why, now)?);
        plan.wait_reason = Some(format!("the undo of {} cannot finish: {why}", failed.step_key));
    }
    Ok(())
}

/// The steps that ran, or nothing while one of them is in flight.
async fn ran_steps(conn: &mut PgConnection, plan: &LockedPlan) -> Result<Option<Vec<RanStep>>, StoreError> {
    let rows = sqlx::query!(
        "SELECT step_index, state FROM execution_step
         WHERE plan_id = $1 AND plan_version = $2 AND kind = 'action' AND sent
            OR plan_id = $1 AND plan_version = $2 AND kind = 'action' AND state IN ('running', 'unknown')
         ORDER BY step_index",
        plan.key.plan_id,
        plan.key.plan_version,
    )
    .fetch_all(conn)
    .await?;
    let mut ran = Vec::with_capacity(rows.len());
    for row in rows {
        match row.state.parse()? {
            state @ (StepState::Completed | StepState::Failed) => {
                ran.push(RanStep { index: row.step_index, completed: state == StepState::Completed });
            }
            _ => return Ok(None),
        }
    }
    Ok(Some(ran))
}

async fn register(
    conn: &mut PgConnection,
    plan: &LockedPlan,
    undos: &[NewUndo],
    events: &mut Vec<NewEvent>,
    now: DateTime<Utc>,
) -> Result<Vec<UnitKey>, StoreError> {
    let mut ready = Vec::new();
    for undo in undos {
        let state = if undo.waits_for == 0 { StepState::Ready } else { StepState::Pending };
        sqlx::query!(
            "INSERT INTO execution_step (plan_id, plan_version, kind, step_index, step_key, connector, action,
                 tenant, priority, state, waits_for, unlocks, not_before, ready_at)
             VALUES ($1, $2, 'undo', $3, $4, $5, $11, $6, 10, $7::text, $8, $9, $10::timestamptz,
                     CASE WHEN $7::text = 'ready' THEN $10::timestamptz END)",
            plan.key.plan_id,
            plan.key.plan_version,
            undo.index,
            undo.key,
            undo.connector,
            plan.tenant,
            state.as_str(),
            undo.waits_for,
            &undo.unlocks,
            now,
            undo.action,
        )
        .execute(&mut *conn)
        .await?;
        if state == StepState::Ready {
            events.push(plan.event(EventKind::Undo(state), now).step(&undo.key, 0));
            ready.push(UnitKey { plan: plan.key, kind: UnitKind::Undo, index: undo.index });
        }
    }
    let units: BTreeMap<UnitKey, &str> = undos
        .iter()
        .map(|u| (UnitKey { plan: plan.key, kind: UnitKind::Action, index: u.index }, u.key.as_str()))
        .collect();
    let (ids, versions, _, indexes) = unit_columns(units.keys());
    let keys: Vec<String> = units.values().map(|key| (*key).to_owned()).collect();
    let compensating = sqlx::query!(
        "UPDATE execution_step AS s SET state = 'compensating', needs_decision = false
         FROM UNNEST($1::uuid[], $2::integer[], $3::integer[], $4::text[])
              AS k (plan_id, plan_version, step_index, step_key)
         WHERE s.plan_id = k.plan_id AND s.plan_version = k.plan_version AND s.kind = 'action'
           AND s.step_index = k.step_index AND s.step_key = k.step_key AND s.state IN ('completed', 'failed')
         RETURNING s.step_key, s.attempts",
        &ids,
        &versions,
        &indexes,
        &keys,
    )
    .fetch_all(conn)
    .await?;
    for row in compensating {
        let event = plan.event(EventKind::Step(StepState::Compensating), now);
        events.push(event.step(&row.step_key, row.attempts));
    }
    Ok(ready)
}
