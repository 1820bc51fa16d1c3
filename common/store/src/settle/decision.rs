//! Deciding what each finding makes of its unit, its plan and its money.

use chrono::{DateTime, Utc};
use dat_plan::event::EventKind;
use dat_plan::rollback::OutcomeClass;
use dat_plan::{PlanState, StepState, UnitKey, UnitKind};
use serde_json::Value;

use super::{Finding, Group, Row, Settled, Settlement, Write};
use crate::error::StoreError;
use crate::plan_row::LockedPlan;

impl Group {
    pub(super) fn settle(&mut self, settlement: &Settlement) -> Result<Settled, StoreError> {
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
            Finding::Rehearsed { detail, result } => {
                write.state = row.state.to(StepState::Completed)?;
                write.result = Some(result.clone());
                write.detail = Some(detail.clone());
                write.ended_at = Some(now);
                self.spend(plan, unit, row, &mut write, 0, 0)?;
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
                let said = "no answer came; the probe sealed the key";
                let said =
                    self.operator.as_ref().map_or(said, |operator| operator.reason.as_str()).to_owned();
                self.fail(plan, unit, row, &mut write, (0, 0), &said)?;
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
            Finding::HeldBack { reason, until } => {
                write.outcome = row.last_outcome.as_deref().unwrap_or("unknown").parse()?;
                write.needs_decision = true;
                // Nobody was asked: it is no probe that could not tell.
                write.probes = row.probes;
                write.not_before = *until;
                write.detail = Some(reason.clone());
                write.wait_reason = Some(reason.clone());
                return Ok(write); // no change of state: no event
            }
            Finding::Repeatable { detail } => {
                // A lost attempt does not count, however its connector knows that it may be repeated; the key stays.
                let lost = row.last_outcome.as_deref() == Some(OutcomeClass::Lost.as_str());
                write.outcome = if lost { OutcomeClass::Lost } else { OutcomeClass::Error };
                write.lost += i32::from(lost);
                self.fail(plan, unit, row, &mut write, (0, 0), detail)?;
            }
            Finding::GivenUp { charge } => {
                write.outcome = OutcomeClass::Refused;
                let detail = format!("nobody can tell the outcome; charged its max_cost {charge}");
                self.fail(plan, unit, row, &mut write, (*charge, 0), &detail)?;
            }
        }
        self.say(plan, unit, row, &write, settlement.decision.as_ref());
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
        // Where nothing was reserved: the plan's account, and its tenant's of today.
        let mut otherwise = vec![plan_account];
        otherwise
            .extend(self.levels.get(&(plan.tenant.clone(), plan.currency.clone())).into_iter().flatten());
        let over = match unit.kind {
            UnitKind::Action => self.ledger.settle_action(plan, step, row.attempts, cost)?,
            UnitKind::Undo => {
                let over = self.ledger.settle_undo(plan, step, row.attempts, cost, &otherwise)?;
                if write.state == StepState::Completed {
                    self.ledger.release_undo(plan, step)?;
                }
                over
            }
        };
        if refund > 0 {
            self.ledger.refund(plan, unit, &row.step_key, row.attempts, refund, &otherwise)?;
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

    fn say(&mut self, plan: &LockedPlan, unit: UnitKey, row: &Row, write: &Write, decision: Option<&Value>) {
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
        if let Some(decision) = decision {
            event = event.with("decision", decision.clone());
        }
        let detail = write.detail.as_deref().unwrap_or_default();
        self.events.push(match &self.operator {
            Some(operator) => operator.sign(event),
            None => event.because(detail),
        });
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
}
