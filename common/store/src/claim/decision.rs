//! Deciding under lock: approval, control, guards and budget, for one request after the other.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::budget::Account;
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::ids::idempotency_key;
use dat_plan::rollback::OutcomeClass;
use dat_plan::{PlanState, StepState, UnitKey, UnitKind};
use serde_json::{Map, Value, json};

use super::{
    BUDGET_WAIT, Change, Claim, ClaimRequest, Claimed, Counting, GuardFacts, GuardVerdict, Needed, Row,
    Short, SpendFacts,
};
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::lease::Lease;
use crate::plan_row::LockedPlan;
use crate::seal::{SEAL_BROKEN, SealedStep};

/// How long a step that does not fit its plan's budget waits before it asks again.
const PLAN_BUDGET_WAIT: TimeDelta = TimeDelta::seconds(1);

/// How long one that does not fit its tenant's budget waits: many plans may wait for the same tenant.
const TENANT_BUDGET_WAIT: TimeDelta = TimeDelta::seconds(5);

/// How long a step that control forbids waits.
const CONTROL_WAIT: TimeDelta = TimeDelta::seconds(1);

/// How long a unit is left alone whose plan's rows are not what was approved.
const SEAL_WAIT: TimeDelta = TimeDelta::seconds(30);

impl Claim {
    pub(super) fn decide(&mut self, request: &ClaimRequest<'_>) -> Result<(), StoreError> {
        let unit = request.unit();
        // Not there: another worker took it, or its plan is held; a duplicate request finds it gone too.
        let Some(row) = self.rows.remove(&unit) else { return Ok(()) };
        match request {
            ClaimRequest::Defer { until, reason, rate_slot, .. } => {
                // The database's reason has the figures; a live copy only says the same again.
                let known = row.wait_reason.clone().filter(|known| waits_for_budget(Some(known)));
                let reason =
                    known.filter(|_| waits_for_budget(Some(reason))).unwrap_or_else(|| reason.clone());
                if reason.starts_with(SEAL_BROKEN)
                    && let Some(plan) = self.plans.get(&unit.plan).cloned()
                {
                    self.alarm(&plan, &row, &reason);
                }
                self.wait(unit, &row, *until, reason, *rate_slot);
                Ok(())
            }
            ClaimRequest::Refuse { reason, .. } => {
                if let Some(plan) = self.plans.get(&unit.plan).cloned() {
                    self.refuse(&plan, unit, &row, reason.clone());
                }
                Ok(())
            }
            ClaimRequest::Run { .. } => self.run(unit, &row, request),
        }
    }

    fn run(&mut self, unit: UnitKey, row: &Row, request: &ClaimRequest<'_>) -> Result<(), StoreError> {
        let ClaimRequest::Run { seal, max_cost, undo_max_cost, needs, counting, guard, .. } = request else {
            return Ok(());
        };
        let Some(plan) = self.plans.get(&unit.plan).cloned() else { return Ok(()) };
        let connector = row.connector.as_str();
        let forbidden = match unit.kind {
            UnitKind::Action => self.stops.forbid(&plan.tenant, plan.key, [connector]),
            UnitKind::Undo => self.stops.forbid_undo(&plan.tenant, connector),
        };
        if let Some(reason) = forbidden {
            self.wait(unit, row, self.now + CONTROL_WAIT, reason, None);
            return Ok(());
        }
        let results = self.results_for(unit, needs);
        let attempt = row.attempts + 1;
        let mut decision = Value::Null;
        let mut counted_as = Vec::new();
        if unit.kind == UnitKind::Action {
            // Invariant 1: approved, of exactly the hash that the worker will execute from, now. A plan that is not is
            // the sweeper's to end.
            let approved = plan.approval.as_ref().is_some_and(|a| a.holds(&seal.hash, self.now));
            if plan.state != PlanState::Executing || !approved || plan.stopped(self.now).is_some() {
                let reason = plan.stopped(self.now).unwrap_or_else(|| {
                    format!("the document that the worker holds ({}) is not what was approved", seal.hash)
                });
                self.wait(unit, row, self.now + CONTROL_WAIT, reason, None);
                return Ok(());
            }
            let (_, account) = self.ledger.plan_account(plan.key)?;
            let by_row = SealedStep {
                key: row.step_key.clone(),
                connector: row.connector.clone(),
                action: row.action.clone(),
            };
            let broken = seal.broken_by(&plan, account);
            if let Some(why) = broken.or_else(|| seal.step_broken_by(unit.index, &by_row)) {
                let reason = format!("{SEAL_BROKEN}{why}");
                self.alarm(&plan, row, &reason);
                self.wait(unit, row, self.now + SEAL_WAIT, reason, None);
                return Ok(());
            }
            let undo = if self.ledger.holds_undo(plan.key, unit.index) { 0 } else { *undo_max_cost };
            let need = max_cost + undo;
            let (operators, spent) = (self.operators.of(&plan.tenant), self.spent(&plan, counting));
            let tenants = if plan.dry { self.tenants(&plan) } else { Vec::new() };
            let facts = GuardFacts {
                now: self.now,
                attempt,
                account,
                tenants: &tenants,
                currency: &plan.currency,
                results: &results,
                need,
                operators: &operators,
                running: &self.running,
                spent: &spent,
            };
            if let Some(guard) = guard {
                match guard.decide(&facts) {
                    GuardVerdict::Go { decision: d, violations, counted_as: counters } => {
                        self.flag(&plan, row, attempt, &violations, &d);
                        decision = d;
                        counted_as = counters;
                    }
                    GuardVerdict::Stale => {
                        self.report.stale += 1;
                        return Ok(());
                    }
                    GuardVerdict::Wait { until, reason, decision: d } => {
                        if row.wait_reason.as_deref() != Some(reason.as_str()) {
                            let waits = json!({"reason": reason, "until": until});
                            self.flag(&plan, row, attempt, &[waits], &d);
                        }
                        self.wait(unit, row, until, reason, None);
                        return Ok(());
                    }
                    GuardVerdict::Deny { reason, decision: d, violations } => {
                        self.flag(&plan, row, attempt, &violations, &d);
                        self.refuse(&plan, unit, row, reason);
                        return Ok(());
                    }
                }
            }
            let caps = spent.values().map(|facts| facts.account);
            if !self.reserve(&plan, unit, row, attempt, (*max_cost, undo), caps)? {
                return Ok(());
            }
        }
        for counter in &counted_as {
            *self.running.entry(counter.clone()).or_default() += 1;
        }
        self.take(&plan, unit, row, attempt, results, (decision, counted_as))
    }

    /// A plan's tenant's accounts of today, by their periods.
    fn tenants(&self, plan: &LockedPlan) -> Vec<(String, Account)> {
        let payer = (plan.tenant.clone(), plan.currency.clone());
        let levels = self.levels.get(&payer).into_iter().flatten();
        levels
            .filter_map(|id| self.ledger.account(*id))
            .map(|level| {
                let period = level.period.as_ref().map_or("period", |(period, _)| period.as_str());
                (period.to_owned(), level.account)
            })
            .collect()
    }

    /// What is on the accounts of the `spend` rules that count a step.
    fn spent(&self, plan: &LockedPlan, counting: &Counting) -> BTreeMap<String, SpendFacts> {
        let facts = counting.caps.iter().filter_map(|cap| {
            let id = self.caps.get(&(cap.key.clone(), plan.currency.clone()))?;
            let account = self.ledger.account(*id)?.account;
            let undos = if cap.own { self.undos_held.get(id).copied().unwrap_or(0) } else { 0 };
            let facts =
                SpendFacts { account: *id, settled: account.settled, reserved: account.reserved, undos };
            Some((cap.key.clone(), facts))
        });
        facts.collect()
    }

    /// Reserves at every level, or notes why not.
    fn reserve(
        &mut self,
        plan: &LockedPlan,
        unit: UnitKey,
        row: &Row,
        attempt: i32,
        (action, undo): (i64, i64),
        caps: impl Iterator<Item = i64>,
    ) -> Result<bool, StoreError> {
        let need = action + undo;
        let (plan_account, account) = self.ledger.plan_account(plan.key)?;
        if !account.fits(need) {
            let reason = format!(
                "{BUDGET_WAIT}the plan's is {} {} short: {need} needed, {} spent and {} reserved of {}",
                account.short_by(need),
                plan.currency,
                account.settled,
                account.reserved,
                account.limit
            );
            self.report.unaffordable += 1;
            self.short.push(Short { unit, need, reason });
            self.rows.insert(unit, row.clone());
            return Ok(false);
        }
        let payer = (plan.tenant.clone(), plan.currency.clone());
        let mut accounts = vec![plan_account];
        for id in self.levels.get(&payer).into_iter().flatten() {
            let Some(level) = self.ledger.account(*id) else { continue };
            if !level.account.fits(need) {
                self.report.unaffordable += 1;
                let period = level.period.as_ref().map_or("period", |(period, _)| period.as_str());
                let reason = format!(
                    "{BUDGET_WAIT}that of tenant {} for this {period} is {} {} short",
                    plan.tenant,
                    level.account.short_by(need),
                    plan.currency
                );
                if !waits_for_budget(row.wait_reason.as_deref()) {
                    self.events.push(
                        shortage(plan.event(EventKind::BudgetRefused, self.now), level.account, need)
                            .step(&row.step_key, attempt)
                            .with("final", false)
                            .with("currency", plan.currency.as_str())
                            .with("period", period)
                            .because(&reason),
                    );
                }
                self.wait(unit, row, self.now + TENANT_BUDGET_WAIT, reason, None);
                return Ok(false);
            }
            accounts.push(*id);
        }
        // The guards have asked these, under the same locks.
        accounts.extend(caps);
        self.ledger.reserve(plan, (unit.index, &row.step_key), attempt, (action, undo), accounts)?;
        Ok(true)
    }

    fn take(
        &mut self,
        plan: &LockedPlan,
        unit: UnitKey,
        row: &Row,
        attempt: i32,
        results: Map<String, Value>,
        (decision, counted_as): (Value, Vec<String>),
    ) -> Result<(), StoreError> {
        let (_, account) = self.ledger.plan_account(plan.key)?;
        self.events.append(&mut self.ledger.events);
        let key = idempotency_key(plan.key, unit.kind, &row.step_key, row.key_number);
        let epoch = row.epoch + 1;
        let kind = match unit.kind {
            UnitKind::Action => EventKind::Step(StepState::Running),
            UnitKind::Undo => EventKind::Undo(StepState::Running),
        };
        let mut event = plan
            .event(kind, self.now)
            .step(&row.step_key, attempt)
            .with("connector", row.connector.as_str())
            .with("action", row.action.as_str())
            .with("idempotency_key", key.as_str())
            .with("worker", self.worker.as_str());
        if !decision.is_null() {
            event = event.with("decision", decision);
        }
        self.events.push(event);
        self.report.claimed.push(Claimed {
            lease: Lease { unit, epoch, until: self.until },
            step_key: row.step_key.clone(),
            tenant: plan.tenant.clone(),
            currency: plan.currency.clone(),
            attempt,
            idempotency_key: key.clone(),
            undo_of: self.forward_keys.get(&unit).cloned(),
            account,
            results,
            traceparent: plan.traceparent.clone(),
            ready_at: row.ready_at,
        });
        self.changes.insert(unit, Change::Run { attempt, epoch, key, counted_as });
        Ok(())
    }

    fn flag(&mut self, plan: &LockedPlan, row: &Row, attempt: i32, violations: &[Value], decision: &Value) {
        self.report.violations += violations.len();
        for violation in violations {
            self.events.push(
                plan.event(EventKind::ConstraintViolated, self.now)
                    .step(&row.step_key, attempt)
                    .because(violation.get("reason").and_then(Value::as_str).unwrap_or_default())
                    .with("violation", violation.clone())
                    .with("decision", decision.clone()),
            );
        }
    }

    /// A broken seal is counted at every look, and told of once for as long as it is the same.
    fn alarm(&mut self, plan: &LockedPlan, row: &Row, reason: &str) {
        self.report.broken += 1;
        tracing::error!(plan = %plan.key, step = row.step_key, reason, "nothing of this plan is claimed");
        if row.wait_reason.as_deref() != Some(reason) {
            let event = plan.event(EventKind::SealBroken, self.now).step(&row.step_key, row.attempts);
            self.events.push(event.because(reason));
        }
    }

    fn wait(
        &mut self,
        unit: UnitKey,
        row: &Row,
        until: DateTime<Utc>,
        reason: String,
        rate_slot: Option<DateTime<Utc>>,
    ) {
        tracing::debug!(plan = %unit.plan, step = row.step_key, %until, reason, "deferred");
        self.report.deferred += 1;
        self.report.waiting.push(unit);
        self.report.next_due = Some(self.report.next_due.map_or(until, |due| due.min(until)));
        self.changes.insert(unit, Change::Wait { until, reason, rate_slot });
    }

    /// Refused for good, nothing sent: the Rollback Coordinator decides what becomes of the plan.
    fn refuse(&mut self, plan: &LockedPlan, unit: UnitKey, row: &Row, reason: String) {
        let kind = match unit.kind {
            UnitKind::Action => EventKind::Step(StepState::Failed),
            UnitKind::Undo => EventKind::Undo(StepState::Failed),
        };
        self.events.push(
            plan.event(kind, self.now)
                .step(&row.step_key, row.attempts)
                .with("connector", row.connector.as_str())
                .with("action", row.action.as_str())
                .with("outcome", OutcomeClass::Refused.as_str())
                .with("duration_ms", 0)
                .with("queued_ms", (self.now - row.ready_at).num_milliseconds().max(0))
                .with("attempts", row.attempts)
                .with("cost", 0)
                .because(&reason),
        );
        self.report.refused.push(unit);
        self.changes.insert(unit, Change::Refuse { reason });
    }

    fn results_for(&self, unit: UnitKey, needs: &Needed) -> Map<String, Value> {
        let Some(results) = self.results.get(&unit.plan) else { return Map::new() };
        let wanted = |index: &i32| match needs {
            Needed::All => true,
            Needed::Steps(steps) => steps.contains(index),
        };
        results
            .iter()
            .filter(|(index, _)| wanted(index))
            .map(|(_, (key, result))| (key.clone(), result.clone()))
            .collect()
    }

    /// What did not fit its plan's budget: refused for good if nothing that can be released would make room.
    pub(super) async fn settle_refusals(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        for Short { unit, need, reason } in std::mem::take(&mut self.short) {
            let (Some(row), Some(plan)) = (self.rows.remove(&unit), self.plans.get(&unit.plan).cloned())
            else {
                continue;
            };
            let held = sqlx::query_scalar!(
                r#"SELECT coalesce(sum(undo_amount), 0)::bigint AS "held!" FROM budget_reservation
                 WHERE plan_id = $1 AND plan_version = $2 AND undo_open"#,
                unit.plan.plan_id,
                unit.plan.plan_version,
            )
            .fetch_one(&mut *conn)
            .await?;
            let (_, account) = self.ledger.plan_account(unit.plan)?;
            let never = account.never_fits(held, need);
            if never || !waits_for_budget(row.wait_reason.as_deref()) {
                self.events.push(
                    shortage(plan.event(EventKind::BudgetRefused, self.now), account, need)
                        .step(&row.step_key, row.attempts + 1)
                        .with("final", never)
                        .with("currency", plan.currency.as_str())
                        .because(&reason),
                );
            }
            if never {
                self.refuse(&plan, unit, &row, reason);
            } else {
                self.wait(unit, &row, self.now + PLAN_BUDGET_WAIT, reason, None);
            }
        }
        Ok(())
    }
}

/// The figures that a refusal was decided by, read under the account's lock.
fn shortage(event: NewEvent, account: Account, need: i64) -> NewEvent {
    event
        .with("needed", need)
        .with("settled", account.settled)
        .with("reserved", account.reserved)
        .with("limit", account.limit)
        .with("short", account.short_by(need))
}

fn waits_for_budget(reason: Option<&str>) -> bool {
    reason.is_some_and(|reason| reason.starts_with(BUDGET_WAIT))
}
