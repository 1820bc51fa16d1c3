//! Settling: what came of attempts and probes, written with its spend, its events and what it unlocked, in one
//! transaction a group.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::rollback::OutcomeClass;
use dat_plan::{PlanKey, PlanState, StepState, UnitKey, UnitKind};
use serde_json::Value;
use sqlx::PgConnection;

use crate::account::{AccountView, Ledger, held_accounts};
use crate::claim::unit_columns;
use crate::error::StoreError;
use crate::event_log;
use crate::finish;
use crate::lease::Lease;
use crate::plan_row::{self, Contended, LockedPlan};
use crate::pool::Store;

/// What was found out about an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// The effect happened.
    Done {
        /// The answer; `{}` where it had none.
        result: Value,
        /// What it cost.
        cost: i64,
        /// What came back.
        refund: i64,
    },
    /// A definite answer without effect, that may be tried again.
    Error {
        /// What it cost all the same.
        cost: i64,
        /// For people.
        detail: String,
        /// What the outside system asked to wait, milliseconds.
        retry_after_ms: i64,
    },
    /// A definite answer without effect, for good; or an answer that cannot be stored.
    Refused {
        /// What it cost all the same.
        cost: i64,
        /// For people.
        detail: String,
    },
    /// The effect happened, and its answer cannot be used: it breaks a postcondition, or cannot be stored.
    Unusable {
        /// What it cost.
        cost: i64,
        /// What came back.
        refund: i64,
        /// For people.
        detail: String,
    },
    /// Certainly nothing left this worker.
    NotSent {
        /// For people.
        detail: String,
    },
    /// The request may have left and no answer came.
    Unanswered {
        /// For people.
        detail: String,
    },
    /// A probe: the key has had no effect and never will.
    Sealed,
    /// A probe could not tell.
    CannotTell {
        /// For people.
        detail: String,
        /// When to ask again.
        again_at: DateTime<Utc>,
    },
    /// Nobody can tell, and the plan's `on_unknown` says to roll back: charged its `max_cost`.
    GivenUp {
        /// What is charged.
        charge: i64,
    },
}

/// What came of one attempt, with the right to write it.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The right to write it; consumed.
    pub lease: Lease,
    /// What was found.
    pub finding: Finding,
    /// An action: the steps that need it, by index, from the document.
    pub successors: Vec<i32>,
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Written; the unit is in this state now.
    Written(StepState),
    /// The lease was lost: nothing was changed.
    Fenced,
}

/// What a group of settlements did.
#[derive(Debug, Default)]
pub struct SettleReport {
    /// In the order asked.
    pub settled: Vec<Settled>,
    /// Units that became ready: ring `step.dispatch`.
    pub ready: Vec<UnitKey>,
    /// Units that need the coordinator: ring `step.failed`.
    pub undecided: usize,
    /// Plans that ended, and how.
    pub ended: Vec<(PlanKey, PlanState)>,
    /// The accounts as they are now, for the live copies.
    pub accounts: Vec<AccountView>,
}

impl Store {
    /// Writes what came of attempts and probes. A lease that was lost changes nothing and says so. One transaction.
    pub async fn settle(
        &self,
        settlements: &[Settlement],
        now: DateTime<Utc>,
    ) -> Result<SettleReport, StoreError> {
        let mut tx = self.begin().await?;
        let keys = settlements.iter().map(|s| s.lease.unit.plan);
        let plans = plan_row::lock(&mut tx, keys, Contended::Wait).await?;
        let rows = leased_rows(&mut tx, settlements).await?;
        let steps: Vec<(PlanKey, i32)> = rows.keys().map(|u| (u.plan, u.index)).collect();
        // A plan that may end closes what other steps still hold, whose accounts are locked here with the rest.
        let ending = plans.values().filter(|plan| may_end(plan, &rows)).map(|plan| plan.key);
        let held = held_accounts(&mut tx, ending).await?;
        let ledger = Ledger::open(&mut tx, plans.keys().copied(), &steps, &held, now).await?;
        let mut group = Group {
            plans,
            rows,
            ledger,
            events: Vec::new(),
            writes: Vec::new(),
            unlocked: BTreeMap::new(),
            undone: Vec::new(),
            report: SettleReport::default(),
            now,
        };
        for settlement in settlements {
            let settled = group.settle(settlement)?;
            group.report.settled.push(settled);
        }
        group.write(&mut tx).await?;
        tx.commit().await?;
        group.report.accounts = group.ledger.views();
        Ok(group.report)
    }
}

/// A unit's row under its lease.
#[derive(Debug, Clone)]
struct Row {
    epoch: i64,
    step_key: String,
    connector: String,
    action: String,
    state: StepState,
    attempts: i32,
    lost: i32,
    key_number: i32,
    probes: i32,
    last_outcome: Option<String>,
    ready_at: Option<DateTime<Utc>>,
    started_at: Option<DateTime<Utc>>,
    cost: i64,
    refund: i64,
    unlocks: Option<Vec<i32>>,
}

/// What a row becomes.
#[derive(Debug)]
struct Write {
    unit: UnitKey,
    attempt: i32,
    state: StepState,
    sent: bool,
    needs_decision: bool,
    outcome: OutcomeClass,
    lost: i32,
    key_number: i32,
    probes: i32,
    cost: i64,
    attempt_cost: i64,
    refund: i64,
    result: Option<Value>,
    detail: Option<String>,
    wait_reason: Option<String>,
    not_before: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    retry_after_ms: i64,
}

struct Group {
    plans: BTreeMap<PlanKey, LockedPlan>,
    rows: BTreeMap<UnitKey, Row>,
    ledger: Ledger,
    events: Vec<NewEvent>,
    writes: Vec<Write>,
    /// How many of its needs each unit lost in this group.
    unlocked: BTreeMap<UnitKey, i32>,
    /// Undos that completed.
    undone: Vec<UnitKey>,
    report: SettleReport,
    now: DateTime<Utc>,
}

impl Group {
    fn settle(&mut self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let unit = settlement.lease.unit;
        // A group may hold a stale lease of a unit beside its present one: each writes for itself alone.
        if self.rows.get(&unit).is_none_or(|row| row.epoch != settlement.lease.epoch) {
            return Ok(Settled::Fenced);
        }
        let Some(row) = self.rows.remove(&unit) else { return Ok(Settled::Fenced) };
        let Some(mut plan) = self.plans.remove(&unit.plan) else { return Ok(Settled::Fenced) };
        let write = self.decide(&mut plan, unit, &row, settlement)?;
        let state = write.state;
        self.writes.push(write);
        if !state.is_in_flight() && plan.state == PlanState::RollingBack && !plan.undo_begun {
            // What the rollback waits for may be over: the coordinator is due.
            plan.wake(Some(self.now));
            self.report.undecided += 1;
        }
        self.plans.insert(unit.plan, plan);
        Ok(Settled::Written(state))
    }

    fn decide(
        &mut self,
        plan: &mut LockedPlan,
        unit: UnitKey,
        row: &Row,
        settlement: &Settlement,
    ) -> Result<Write, StoreError> {
        let now = self.now;
        let mut write = Write {
            unit,
            attempt: row.attempts,
            state: row.state,
            sent: true,
            needs_decision: false,
            outcome: OutcomeClass::Ok,
            lost: row.lost,
            key_number: row.key_number,
            probes: 0,
            cost: row.cost,
            attempt_cost: 0,
            refund: row.refund,
            result: None,
            detail: None,
            wait_reason: None,
            not_before: now,
            ended_at: None,
            retry_after_ms: 0,
        };
        match &settlement.finding {
            Finding::Done { result, cost, refund } => {
                write.state = row.state.to(StepState::Completed)?;
                write.result = Some(result.clone());
                write.ended_at = Some(now);
                self.spend(plan, unit, row, &mut write, *cost, *refund)?;
            }
            Finding::Error { cost, detail, retry_after_ms } => {
                write.outcome = OutcomeClass::Error;
                write.retry_after_ms = *retry_after_ms;
                self.fail(plan, unit, row, &mut write, (*cost, 0), detail)?;
            }
            Finding::Refused { cost, detail } => {
                write.outcome = OutcomeClass::Refused;
                self.fail(plan, unit, row, &mut write, (*cost, 0), detail)?;
            }
            Finding::Unusable { cost, refund, detail } => {
                write.outcome = OutcomeClass::Refused;
                self.fail(plan, unit, row, &mut write, (*cost, *refund), detail)?;
            }
            Finding::NotSent { detail } => {
                // Not the step's fault: it does not count among its attempts, and keeps its key.
                write.outcome = OutcomeClass::Lost;
                write.lost += 1;
                write.sent = false;
                self.fail(plan, unit, row, &mut write, (0, 0), detail)?;
            }
            Finding::Unanswered { detail } => {
                write.state = row.state.to(StepState::Unknown)?;
                write.outcome = OutcomeClass::Unknown;
                write.needs_decision = true;
                write.detail = Some(detail.clone());
                write.wait_reason = Some(format!("the outcome is unknown ({detail}); it is probed"));
            }
            Finding::Sealed => {
                let lost = row.last_outcome.as_deref() == Some(OutcomeClass::Lost.as_str());
                write.outcome = if lost { OutcomeClass::Lost } else { OutcomeClass::TimedOut };
                write.lost += i32::from(lost);
                write.key_number += 1;
                self.fail(plan, unit, row, &mut write, (0, 0), "no answer came; the probe sealed the key")?;
            }
            Finding::CannotTell { detail, again_at } => {
                write.outcome = row.last_outcome.as_deref().unwrap_or("unknown").parse()?;
                write.needs_decision = true;
                write.probes = row.probes + 1;
                write.not_before = *again_at;
                write.detail = Some(detail.clone());
                write.wait_reason =
                    Some(format!("the outcome is unknown; the probe could not tell: {detail}"));
                return Ok(write); // no change of state: no event
            }
            Finding::GivenUp { charge } => {
                write.outcome = OutcomeClass::Refused;
                let detail = format!("nobody can tell the outcome; charged its max_cost {charge}");
                self.fail(plan, unit, row, &mut write, (*charge, 0), &detail)?;
            }
        }
        self.say(plan, unit, row, &write);
        if write.state == StepState::Completed {
            self.completed(plan, unit, row, &settlement.successors);
        }
        self.report.undecided += usize::from(write.needs_decision);
        Ok(write)
    }

    fn fail(
        &mut self,
        plan: &LockedPlan,
        unit: UnitKey,
        row: &Row,
        write: &mut Write,
        (cost, refund): (i64, i64),
        detail: &str,
    ) -> Result<(), StoreError> {
        write.state = row.state.to(StepState::Failed)?;
        write.needs_decision = true;
        write.ended_at = Some(self.now);
        write.detail = Some(detail.to_owned());
        self.spend(plan, unit, row, write, cost, refund)?;
        if !write.sent && unit.kind == UnitKind::Action {
            // Nothing left: there is nothing of this attempt to undo. One that was sent before holds its own room.
            self.ledger.release_undo_of(plan, (unit.index, &row.step_key), row.attempts)?;
            self.events.append(&mut self.ledger.events);
        }
        Ok(())
    }

    fn spend(
        &mut self,
        plan: &LockedPlan,
        unit: UnitKey,
        row: &Row,
        write: &mut Write,
        cost: i64,
        refund: i64,
    ) -> Result<(), StoreError> {
        write.attempt_cost = cost;
        write.cost += cost;
        write.refund += refund;
        let step = (unit.index, row.step_key.as_str());
        let (plan_account, _) = self.ledger.plan_account(plan.key)?;
        let over = match unit.kind {
            UnitKind::Action => self.ledger.settle_action(plan, step, row.attempts, cost)?,
            UnitKind::Undo => {
                let over = self.ledger.settle_undo(plan, step, row.attempts, cost, &[plan_account])?;
                if write.state == StepState::Completed {
                    self.ledger.release_undo(plan, step)?;
                }
                over
            }
        };
        if refund > 0 {
            self.ledger.refund(plan, unit, &row.step_key, row.attempts, refund, &[plan_account])?;
        }
        self.events.append(&mut self.ledger.events);
        if over > 0 {
            self.events.push(
                plan.event(EventKind::BudgetOverrun, self.now)
                    .step(&row.step_key, row.attempts)
                    .with("amount", over)
                    .with("currency", plan.currency.as_str())
                    .because("it cost more than was reserved"),
            );
        }
        Ok(())
    }

    fn say(&mut self, plan: &LockedPlan, unit: UnitKey, row: &Row, write: &Write) {
        let kind = match unit.kind {
            UnitKind::Action => EventKind::Step(write.state),
            UnitKind::Undo => EventKind::Undo(write.state),
        };
        let since = |from: Option<DateTime<Utc>>, to: DateTime<Utc>| {
            from.map_or(0, |from| (to - from).num_milliseconds().max(0))
        };
        let mut event = plan
            .event(kind, self.now)
            .step(&row.step_key, row.attempts)
            .with("connector", row.connector.as_str())
            .with("action", row.action.as_str())
            .with("outcome", write.outcome.as_str())
            .with("duration_ms", since(row.started_at, self.now))
            .with("queued_ms", since(row.ready_at, row.started_at.unwrap_or(self.now)))
            .with("attempts", row.attempts)
            .with("cost", write.attempt_cost);
        if let Some(result) = &write.result {
            event = event.with("result", result.clone());
        }
        self.events.push(event.because(write.detail.as_deref().unwrap_or_default()));
    }

    fn completed(&mut self, plan: &mut LockedPlan, unit: UnitKey, row: &Row, successors: &[i32]) {
        plan.dirty = true;
        match unit.kind {
            UnitKind::Action => {
                plan.steps_done += 1;
                // A plan that is being unwound skipped what came after.
                if matches!(plan.state, PlanState::Executing | PlanState::Paused) {
                    for index in successors {
                        let next = UnitKey { index: *index, ..unit };
                        *self.unlocked.entry(next).or_default() += 1;
                    }
                }
            }
            UnitKind::Undo => {
                plan.undos_open -= 1;
                for index in row.unlocks.iter().flatten() {
                    let next = UnitKey { index: *index, ..unit };
                    *self.unlocked.entry(next).or_default() += 1;
                }
                self.undone.push(unit);
            }
        }
    }

    async fn write(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        write_rows(conn, &self.writes).await?;
        write_attempts(conn, &self.writes, self.now).await?;
        self.roll_back_forward_rows(conn).await?;
        self.unlock(conn).await?;
        let ended: Vec<(PlanKey, PlanState)> = self
            .plans
            .values()
            .filter_map(|plan| match plan.state {
                PlanState::Executing if plan.steps_done == plan.steps_total => {
                    Some((plan.key, PlanState::Completed))
                }
                PlanState::RollingBack if plan.undo_begun && plan.undos_open == 0 => {
                    Some((plan.key, PlanState::Aborted))
                }
                _ => None,
            })
            .collect();
        for (key, state) in ended {
            let Some(plan) = self.plans.get_mut(&key) else { continue };
            let event = finish::end(conn, &mut self.ledger, plan, state, self.now).await?;
            self.events.append(&mut self.ledger.events);
            self.events.push(event);
            self.report.ended.push((key, state));
        }
        self.ledger.write(conn).await?;
        plan_row::write(conn, &self.plans).await?;
        event_log::append(conn, &self.events).await
    }

    /// A completed undo takes its step to `rolled_back`. (A step of the plan's own rollback list has none.)
    async fn roll_back_forward_rows(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        if self.undone.is_empty() {
            return Ok(());
        }
        let (ids, versions, _, indexes) = unit_columns(self.undone.iter());
        let rows = sqlx::query!(
            "UPDATE execution_step AS s SET state = 'rolled_back', refund = s.refund + u.refund
             FROM UNNEST($1::uuid[], $2::integer[], $3::integer[]) AS k (plan_id, plan_version, step_index),
                  execution_step u
             WHERE s.plan_id = k.plan_id AND s.plan_version = k.plan_version AND s.step_index = k.step_index
               AND s.kind = 'action' AND s.state = 'compensating'
               AND u.plan_id = k.plan_id AND u.plan_version = k.plan_version AND u.step_index = k.step_index
               AND u.kind = 'undo' AND u.step_key = s.step_key
             RETURNING s.plan_id, s.plan_version, s.step_key, s.connector, u.action, s.attempts, u.cost AS undo_cost,
                       u.refund, u.started_at",
            &ids,
            &versions,
            &indexes,
        )
        .fetch_all(conn)
        .await?;
        for row in rows {
            let Some(plan) = self.plans.get(&PlanKey::new(row.plan_id, row.plan_version)) else { continue };
            self.events.push(
                plan.event(EventKind::Step(StepState::RolledBack), self.now)
                    .step(&row.step_key, row.attempts)
                    .with("connector", row.connector)
                    .with("action", row.action)
                    .with("outcome", OutcomeClass::Ok.as_str())
                    .with(
                        "duration_ms",
                        row.started_at.map_or(0, |from| (self.now - from).num_milliseconds().max(0)),
                    )
                    .with("attempts", row.attempts)
                    .with("cost", row.undo_cost)
                    .with("refund", row.refund),
            );
        }
        Ok(())
    }

    async fn unlock(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        if self.unlocked.is_empty() {
            return Ok(());
        }
        let (ids, versions, kinds, indexes) = unit_columns(self.unlocked.keys());
        let met: Vec<i32> = self.unlocked.values().copied().collect();
        let rows = sqlx::query!(
            "UPDATE execution_step AS s
             SET waits_for = s.waits_for - n.met,
                 state = CASE WHEN s.waits_for = n.met THEN 'ready' ELSE s.state END,
                 ready_at = CASE WHEN s.waits_for = n.met THEN $6 ELSE s.ready_at END
             FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::integer[])
                  AS n (plan_id, plan_version, kind, step_index, met)
             WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version AND s.kind = n.kind
               AND s.step_index = n.step_index AND s.state = 'pending'
             RETURNING s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.state",
            &ids,
            &versions,
            &kinds,
            &indexes,
            &met,
            self.now,
        )
        .fetch_all(conn)
        .await?;
        let mut ready: Vec<_> =
            rows.into_iter().filter(|row| row.state == StepState::Ready.as_str()).collect();
        ready.sort_by_key(|row| row.step_index);
        for row in ready {
            let kind = match row.kind.parse()? {
                UnitKind::Action => EventKind::Step(StepState::Ready),
                UnitKind::Undo => EventKind::Undo(StepState::Ready),
            };
            let key = PlanKey::new(row.plan_id, row.plan_version);
            if let Some(plan) = self.plans.get(&key) {
                self.events.push(plan.event(kind, self.now).step(&row.step_key, 0));
                self.report.ready.push(UnitKey { plan: key, kind: row.kind.parse()?, index: row.step_index });
            }
        }
        Ok(())
    }
}

/// Whether these rows may be the last that a plan waits for.
fn may_end(plan: &LockedPlan, rows: &BTreeMap<UnitKey, Row>) -> bool {
    let here = rows.keys().filter(|unit| unit.plan == plan.key).count();
    let open = match plan.state {
        PlanState::Executing => plan.steps_total - plan.steps_done,
        PlanState::RollingBack if plan.undo_begun => plan.undos_open,
        _ => return false,
    };
    usize::try_from(open).is_ok_and(|open| open <= here)
}

/// The rows that are still under these leases, locked in key order as by every statement over running rows: renewals
/// lock no plan, and would else wait for a settlement that waits for them.
async fn leased_rows(
    conn: &mut PgConnection,
    settlements: &[Settlement],
) -> Result<BTreeMap<UnitKey, Row>, StoreError> {
    let (ids, versions, kinds, indexes) = unit_columns(settlements.iter().map(|s| &s.lease.unit));
    let epochs: Vec<i64> = settlements.iter().map(|s| s.lease.epoch).collect();
    let rows = sqlx::query!(
        "SELECT s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.connector, s.action, s.state,
                s.lease_epoch, s.attempts, s.lost, s.key_number, s.probes, s.last_outcome, s.ready_at, s.started_at, s.cost, s.refund,
                s.unlocks
         FROM execution_step s
         JOIN UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::bigint[])
              AS k (plan_id, plan_version, kind, step_index, epoch)
           USING (plan_id, plan_version, kind, step_index)
         WHERE s.lease_epoch = k.epoch AND s.lease_until IS NOT NULL AND s.state IN ('running', 'unknown')
         ORDER BY s.plan_id, s.plan_version, s.kind, s.step_index
         FOR NO KEY UPDATE OF s",
        &ids,
        &versions,
        &kinds,
        &indexes,
        &epochs,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let unit = UnitKey {
                plan: PlanKey::new(row.plan_id, row.plan_version),
                kind: row.kind.parse()?,
                index: row.step_index,
            };
            let row = Row {
                epoch: row.lease_epoch,
                step_key: row.step_key,
                connector: row.connector,
                action: row.action,
                state: row.state.parse()?,
                attempts: row.attempts,
                lost: row.lost,
                key_number: row.key_number,
                probes: row.probes,
                last_outcome: row.last_outcome,
                ready_at: row.ready_at,
                started_at: row.started_at,
                cost: row.cost,
                refund: row.refund,
                unlocks: row.unlocks,
            };
            Ok((unit, row))
        })
        .collect()
}

async fn write_rows(conn: &mut PgConnection, writes: &[Write]) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let (ids, versions, kinds, indexes) = unit_columns(writes.iter().map(|w| &w.unit));
    let written = sqlx::query!(
        "UPDATE execution_step AS s
         SET state = n.state, sent = s.sent OR n.sent, needs_decision = n.needs_decision,
             last_outcome = n.outcome, lost = n.lost, key_number = n.key_number, probes = n.probes,
             cost = n.cost, refund = n.refund, result = coalesce(n.result, s.result), detail = n.detail,
             wait_reason = n.wait_reason, not_before = n.not_before, ended_at = n.ended_at,
             retry_after_ms = n.retry_after_ms, lease_until = NULL
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::text[], $6::boolean[],
                     $7::boolean[], $8::text[], $9::integer[], $10::integer[], $11::integer[], $12::bigint[],
                     $13::bigint[], $14::jsonb[], $15::text[], $16::text[], $17::timestamptz[],
                     $18::timestamptz[], $19::bigint[])
              AS n (plan_id, plan_version, kind, step_index, state, sent, needs_decision, outcome, lost,
                    key_number, probes, cost, refund, result, detail, wait_reason, not_before, ended_at,
                    retry_after_ms)
         WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version AND s.kind = n.kind
           AND s.step_index = n.step_index AND s.state IN ('running', 'unknown')",
        &ids,
        &versions,
        &kinds,
        &indexes,
        &writes.iter().map(|w| w.state.as_str().to_owned()).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.sent).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.needs_decision).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.outcome.as_str().to_owned()).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.lost).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.key_number).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.probes).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.cost).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.refund).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.result.clone()).collect::<Vec<_>>() as &[Option<Value>],
        &writes.iter().map(|w| w.detail.clone()).collect::<Vec<_>>() as &[Option<String>],
        &writes.iter().map(|w| w.wait_reason.clone()).collect::<Vec<_>>() as &[Option<String>],
        &writes.iter().map(|w| w.not_before).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.ended_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &writes.iter().map(|w| w.retry_after_ms).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    plan_row::assert_rows(written.rows_affected(), writes.len(), "step")
}

async fn write_attempts(
    conn: &mut PgConnection,
    writes: &[Write],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let units: BTreeSet<UnitKey> = writes.iter().map(|w| w.unit).collect();
    debug_assert_eq!(units.len(), writes.len(), "a unit is settled once a group: its lease is consumed");
    let (ids, versions, kinds, indexes) = unit_columns(writes.iter().map(|w| &w.unit));
    sqlx::query!(
        "UPDATE step_attempt AS a SET ended_at = $9, outcome = n.outcome, cost = n.cost, detail = n.detail
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::integer[], $6::text[],
                     $7::bigint[], $8::text[])
              AS n (plan_id, plan_version, kind, step_index, attempt, outcome, cost, detail)
         WHERE a.plan_id = n.plan_id AND a.plan_version = n.plan_version AND a.kind = n.kind
           AND a.step_index = n.step_index AND a.attempt = n.attempt",
        &ids,
        &versions,
        &kinds,
        &indexes,
        &writes.iter().map(|w| w.attempt).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.outcome.as_str().to_owned()).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.attempt_cost).collect::<Vec<_>>(),
        &writes.iter().map(|w| w.detail.clone()).collect::<Vec<_>>() as &[Option<String>],
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}
