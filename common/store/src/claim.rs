//! The claim: what may run next, in the order that priority and tenant fairness give, and the transaction that has
//! the last word on it.
//!
//! Two calls. [`Store::candidates`] looks, without a lock, at what is due. The caller asks what is outside the
//! database (Redis), and then calls [`Store::claim`], which locks the plans, reads approval, control and steps again,
//! runs the guards, reserves the budget and hands out leases, or writes why not.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::budget::Account;
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::ids::idempotency_key;
use dat_plan::rollback::OutcomeClass;
use dat_plan::{PlanHash, PlanKey, PlanState, StepState, UnitKey, UnitKind};
use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use crate::account::{AccountView, Ledger, tenant_accounts};
use crate::control::{self, Stops};
use crate::error::StoreError;
use crate::event_log;
use crate::lease::Lease;
use crate::plan_row::{self, Contended, LockedPlan};
use crate::pool::Store;

/// How long a step that does not fit its plan's budget waits before it asks again.
const PLAN_BUDGET_WAIT: TimeDelta = TimeDelta::seconds(1);
/// How long one that does not fit its tenant's budget waits: many plans may wait for the same tenant.
const TENANT_BUDGET_WAIT: TimeDelta = TimeDelta::seconds(5);
/// How long a step that control forbids waits.
const CONTROL_WAIT: TimeDelta = TimeDelta::seconds(1);

/// How the reason of every wait for a budget begins: what waits for one is told of once, not at every look.
pub const BUDGET_WAIT: &str = "budget: ";

/// A unit that is due.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The unit.
    pub unit: UnitKey,
    /// The step's key.
    pub step_key: String,
    /// Who pays.
    pub tenant: String,
    /// Its connector.
    pub connector: String,
    /// Its action.
    pub action: String,
    /// The attempt that a claim would make.
    pub attempt: i32,
    /// The slot that the rate limit gave it.
    pub rate_slot: Option<DateTime<Utc>>,
    /// The plan's own account, for the live copy.
    pub plan_account: Option<i64>,
}

/// Which results of other steps a claim needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needed {
    /// Those of these steps, by index.
    Steps(Vec<i32>),
    /// Those of every completed step: a predicate names `results`.
    All,
}

/// What the runtime guards look at, read under lock.
#[derive(Debug)]
pub struct GuardFacts<'a> {
    /// Now.
    pub now: DateTime<Utc>,
    /// The attempt that is about to be made.
    pub attempt: i32,
    /// The plan's account.
    pub account: Account,
    /// The plan's currency.
    pub currency: &'a str,
    /// The results asked for, by step key.
    pub results: &'a Map<String, Value>,
}

/// What the runtime guards say.
#[derive(Debug, Clone, PartialEq)]
pub enum GuardVerdict {
    /// Go; the decision is logged, and each violation of a soft rule is flagged.
    Go {
        /// The decision with its inputs.
        decision: Value,
        /// Violated soft rules.
        violations: Vec<Value>,
    },
    /// Not now.
    Wait {
        /// When it can have changed.
        until: DateTime<Utc>,
        /// For people.
        reason: String,
        /// The decision with its inputs.
        decision: Value,
    },
    /// Never.
    Deny {
        /// For people.
        reason: String,
        /// The decision with its inputs.
        decision: Value,
        /// Violated rules.
        violations: Vec<Value>,
    },
}

/// The runtime guards of one step, pure: asked under lock, so that they see what is true when the claim commits.
pub trait Guard: Send + Sync {
    /// Decides.
    fn decide(&self, facts: &GuardFacts<'_>) -> GuardVerdict;
}

/// What is asked for a candidate.
pub enum ClaimRequest<'a> {
    /// To run it.
    Run {
        /// The unit.
        unit: UnitKey,
        /// The hash of the document that the worker will execute from.
        hash: PlanHash,
        /// The most the action may cost (an undo: not asked).
        max_cost: i64,
        /// The most its undo may cost.
        undo_max_cost: i64,
        /// The results it needs.
        needs: Needed,
        /// The runtime guards; none for an undo.
        guard: Option<&'a dyn Guard>,
    },
    /// To let it wait.
    Defer {
        /// The unit.
        unit: UnitKey,
        /// Until when.
        until: DateTime<Utc>,
        /// Why.
        reason: String,
        /// The slot that the rate limit gave.
        rate_slot: Option<DateTime<Utc>>,
    },
    /// To refuse it for good: no limit will ever let it pass.
    Refuse {
        /// The unit.
        unit: UnitKey,
        /// Why.
        reason: String,
    },
}

impl ClaimRequest<'_> {
    /// The unit.
    #[must_use]
    pub const fn unit(&self) -> UnitKey {
        match self {
            Self::Run { unit, .. } | Self::Defer { unit, .. } | Self::Refuse { unit, .. } => *unit,
        }
    }
}

/// A unit that was claimed.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The right to act.
    pub lease: Lease,
    /// The step's key.
    pub step_key: String,
    /// Who pays.
    pub tenant: String,
    /// The plan's currency.
    pub currency: String,
    /// The attempt, from 1.
    pub attempt: i32,
    /// The key of the request.
    pub idempotency_key: String,
    /// An undo: the last forward key of its step.
    pub undo_of: Option<String>,
    /// The plan's account, with this attempt's reservation.
    pub account: Account,
    /// The results asked for, by step key.
    pub results: Map<String, Value>,
    /// W3C trace context.
    pub traceparent: String,
    /// When it became ready.
    pub ready_at: DateTime<Utc>,
}

/// What a claim did.
#[derive(Debug, Default)]
pub struct ClaimReport {
    /// Claimed: to be run now.
    pub claimed: Vec<Claimed>,
    /// Left to wait, with a reason.
    pub deferred: usize,
    /// When the first of these is due.
    pub next_due: Option<DateTime<Utc>>,
    /// Refused for good; the Rollback Coordinator decides.
    pub refused: Vec<UnitKey>,
    /// Rules that did not hold, hard and soft.
    pub violations: usize,
    /// Units that did not fit a budget, for now or for good.
    pub unaffordable: usize,
    /// Left out because another transaction held the plan: worth another look soon.
    pub contended: usize,
    /// The accounts as they are now, for the live copies.
    pub accounts: Vec<AccountView>,
}

impl Store {
    /// What is due, fair between tenants: the first of each tenant, then the second of each, and so on; within a
    /// tenant by priority, then by who waits longest. Reads only; at most `limit` rows a tenant are looked at.
    pub async fn candidates(&self, limit: i64, now: DateTime<Utc>) -> Result<Vec<Candidate>, StoreError> {
        // The recursive part is a loose index scan: one probe a (tenant, priority) that has something ready, however
        // many rows wait behind it.
        let rows = sqlx::query!(
            r#"WITH RECURSIVE lane AS (
                 (SELECT tenant, priority FROM execution_step WHERE state = 'ready'
                  ORDER BY tenant, priority DESC LIMIT 1)
                 UNION ALL
                 SELECT next.tenant, next.priority FROM lane CROSS JOIN LATERAL (
                     SELECT tenant, priority FROM (
                         (SELECT s.tenant, s.priority FROM execution_step s
                          WHERE s.state = 'ready' AND s.tenant = lane.tenant AND s.priority < lane.priority
                          ORDER BY s.priority DESC LIMIT 1)
                         UNION ALL
                         (SELECT s.tenant, s.priority FROM execution_step s
                          WHERE s.state = 'ready' AND s.tenant > lane.tenant
                          ORDER BY s.tenant, s.priority DESC LIMIT 1)) AS either
                     ORDER BY tenant, priority DESC LIMIT 1) AS next),
             due AS (
                 SELECT d.*, row_number() OVER (PARTITION BY d.tenant ORDER BY d.priority DESC, d.not_before,
                                                d.plan_id, d.plan_version, d.step_index) AS turn
                 FROM lane CROSS JOIN LATERAL (
                     SELECT s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.tenant, s.connector,
                            s.action, s.priority, s.not_before, s.attempts, s.rate_slot
                     FROM execution_step s
                     JOIN execution_plan p USING (plan_id, plan_version)
                     WHERE s.state = 'ready' AND s.tenant = lane.tenant AND s.priority = lane.priority
                       AND s.not_before <= $1
                       AND ((s.kind = 'action' AND p.state = 'executing')
                            OR (s.kind = 'undo' AND p.state IN ('rolling_back', 'stuck')))
                     ORDER BY s.not_before, s.plan_id, s.plan_version, s.kind, s.step_index LIMIT $2) AS d)
             SELECT due.plan_id AS "plan_id!", due.plan_version AS "plan_version!", due.kind AS "kind!",
                    due.step_index AS "step_index!", due.step_key AS "step_key!", due.tenant AS "tenant!",
                    due.connector AS "connector!", due.action AS "action!", due.attempts AS "attempts!", due.rate_slot,
                    a.account_id AS "account_id?"
             FROM due LEFT JOIN budget_account a
               ON a.plan_id = due.plan_id AND a.plan_version = due.plan_version
             ORDER BY due.turn, due.priority DESC, due.not_before LIMIT $2"#,
            now,
            limit,
        )
        .fetch_all(self.pool())
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Candidate {
                    unit: UnitKey {
                        plan: PlanKey::new(row.plan_id, row.plan_version),
                        kind: row.kind.parse()?,
                        index: row.step_index,
                    },
                    step_key: row.step_key,
                    tenant: row.tenant,
                    connector: row.connector,
                    action: row.action,
                    attempt: row.attempts + 1,
                    rate_slot: row.rate_slot,
                    plan_account: row.account_id,
                })
            })
            .collect()
    }

    /// Claims, in the order asked. One transaction: leases, reservations and events are all written, or none.
    pub async fn claim(
        &self,
        requests: &[ClaimRequest<'_>],
        worker: &str,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<ClaimReport, StoreError> {
        let mut tx = self.begin().await?;
        let plans = plan_row::lock(&mut tx, requests.iter().map(|r| r.unit().plan), Contended::Skip).await?;
        let mut claim = Claim::read(&mut tx, requests, plans, worker, until, now).await?;
        for request in requests {
            claim.decide(request)?;
        }
        claim.settle_refusals(&mut tx).await?;
        claim.write(&mut tx).await?;
        tx.commit().await?;
        claim.report.accounts = claim.ledger.views();
        Ok(claim.report)
    }
}

/// A unit's row as it is under the lock.
#[derive(Debug, Clone)]
struct Row {
    step_key: String,
    connector: String,
    action: String,
    attempts: i32,
    key_number: i32,
    epoch: i64,
    ready_at: DateTime<Utc>,
    wait_reason: Option<String>,
}

enum Change {
    Run { attempt: i32, epoch: i64, key: String },
    Wait { until: DateTime<Utc>, reason: String, rate_slot: Option<DateTime<Utc>> },
    Refuse { reason: String },
}

/// A refusal that is final only if what undos hold does not leave room either.
struct Short {
    unit: UnitKey,
    need: i64,
    reason: String,
}

struct Claim {
    plans: BTreeMap<PlanKey, LockedPlan>,
    stops: Stops,
    rows: BTreeMap<UnitKey, Row>,
    results: BTreeMap<PlanKey, BTreeMap<i32, (String, Value)>>,
    forward_keys: BTreeMap<UnitKey, String>,
    levels: BTreeMap<(String, String), Vec<i64>>,
    ledger: Ledger,
    changes: BTreeMap<UnitKey, Change>,
    short: Vec<Short>,
    events: Vec<NewEvent>,
    report: ClaimReport,
    worker: String,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
}

impl Claim {
    async fn read(
        conn: &mut PgConnection,
        requests: &[ClaimRequest<'_>],
        plans: BTreeMap<PlanKey, LockedPlan>,
        worker: &str,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Self, StoreError> {
        let units: Vec<UnitKey> =
            requests.iter().map(ClaimRequest::unit).filter(|u| plans.contains_key(&u.plan)).collect();
        let contended = requests.len() - units.len();
        let rows = due_rows(conn, &units, now).await?;
        let stops = control::stops(conn).await?;
        let results = needed_results(conn, requests, &rows).await?;
        let forward_keys = last_forward_keys(conn, &rows).await?;
        let payers: BTreeSet<(String, String)> =
            plans.values().map(|p| (p.tenant.clone(), p.currency.clone())).collect();
        let levels = tenant_accounts(conn, &payers, now).await?;
        let actions: Vec<(PlanKey, i32)> =
            rows.keys().filter(|u| u.kind == UnitKind::Action).map(|u| (u.plan, u.index)).collect();
        let further: Vec<i64> = levels.values().flatten().copied().collect();
        let ledger = Ledger::open(conn, plans.keys().copied(), &actions, &further, now).await?;
        Ok(Self {
            plans,
            stops,
            rows,
            results,
            forward_keys,
            levels,
            ledger,
            changes: BTreeMap::new(),
            short: Vec::new(),
            events: Vec::new(),
            report: ClaimReport { contended, ..ClaimReport::default() },
            worker: worker.to_owned(),
            until,
            now,
        })
    }

    fn decide(&mut self, request: &ClaimRequest<'_>) -> Result<(), StoreError> {
        let unit = request.unit();
        // Not there: another worker took it, or its plan is held; a duplicate request finds it gone too.
        let Some(row) = self.rows.remove(&unit) else { return Ok(()) };
        match request {
            ClaimRequest::Defer { until, reason, rate_slot, .. } => {
                // The database's reason has the figures; a live copy only says the same again.
                let known = row.wait_reason.clone().filter(|known| waits_for_budget(Some(known)));
                let reason =
                    known.filter(|_| waits_for_budget(Some(reason))).unwrap_or_else(|| reason.clone());
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
        let ClaimRequest::Run { hash, max_cost, undo_max_cost, needs, guard, .. } = request else {
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
        if unit.kind == UnitKind::Action {
            // Invariant 1: approved, of exactly the hash that the worker will execute from, now. A plan that is not is
            // the sweeper's to end.
            let approved = plan.approval.as_ref().is_some_and(|a| a.holds(hash, self.now));
            if plan.state != PlanState::Executing || !approved || plan.stopped(self.now).is_some() {
                let reason = plan.stopped(self.now).unwrap_or_else(|| {
                    format!("the document that the worker holds ({hash}) is not what was approved")
                });
                self.wait(unit, row, self.now + CONTROL_WAIT, reason, None);
                return Ok(());
            }
            let (_, account) = self.ledger.plan_account(plan.key)?;
            let facts =
                GuardFacts { now: self.now, attempt, account, currency: &plan.currency, results: &results };
            if let Some(guard) = guard {
                match guard.decide(&facts) {
                    GuardVerdict::Go { decision: d, violations } => {
                        self.flag(&plan, row, attempt, &violations, &d);
                        decision = d;
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
            if !self.reserve(&plan, unit, row, attempt, *max_cost, *undo_max_cost)? {
                return Ok(());
            }
        }
        self.take(&plan, unit, row, attempt, results, decision)
    }

    /// Reserves at every level, or notes why not.
    fn reserve(
        &mut self,
        plan: &LockedPlan,
        unit: UnitKey,
        row: &Row,
        attempt: i32,
        action: i64,
        undo_max_cost: i64,
    ) -> Result<bool, StoreError> {
        let undo = if self.ledger.holds_undo(plan.key, unit.index) { 0 } else { undo_max_cost };
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
                        plan.event(EventKind::BudgetRefused, self.now)
                            .step(&row.step_key, attempt)
                            .because(&reason),
                    );
                }
                self.wait(unit, row, self.now + TENANT_BUDGET_WAIT, reason, None);
                return Ok(false);
            }
            accounts.push(*id);
        }
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
        decision: Value,
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
        self.changes.insert(unit, Change::Run { attempt, epoch, key });
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
                .with("outcome", OutcomeClass::Refused.as_str())
                .with("attempts", row.attempts)
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
    async fn settle_refusals(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
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
                    plan.event(EventKind::BudgetRefused, self.now)
                        .step(&row.step_key, row.attempts + 1)
                        .with("final", never)
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

    async fn write(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let mut taken = Vec::new();
        let mut waiting = Vec::new();
        let mut refused = Vec::new();
        for (unit, change) in &self.changes {
            match change {
                Change::Run { attempt, epoch, key } => taken.push((*unit, *attempt, *epoch, key.clone())),
                Change::Wait { until, reason, rate_slot } => {
                    waiting.push((*unit, *until, reason.clone(), *rate_slot));
                }
                Change::Refuse { reason } => refused.push((*unit, reason.clone())),
            }
        }
        write_taken(conn, &taken, &self.worker, self.until, self.now).await?;
        write_waiting(conn, &waiting).await?;
        write_refused(conn, &refused, self.now).await?;
        self.ledger.write(conn).await?;
        self.events.append(&mut self.ledger.events);
        event_log::append(conn, &self.events).await
    }
}

fn waits_for_budget(reason: Option<&str>) -> bool {
    reason.is_some_and(|reason| reason.starts_with(BUDGET_WAIT))
}

type Waiting = (UnitKey, DateTime<Utc>, String, Option<DateTime<Utc>>);
type UnitColumns = (Vec<uuid::Uuid>, Vec<i32>, Vec<String>, Vec<i32>);

pub(crate) fn unit_columns<'a>(units: impl Iterator<Item = &'a UnitKey>) -> UnitColumns {
    let mut columns = UnitColumns::default();
    for unit in units {
        columns.0.push(unit.plan.plan_id);
        columns.1.push(unit.plan.plan_version);
        columns.2.push(unit.kind.as_str().to_owned());
        columns.3.push(unit.index);
    }
    columns
}

async fn due_rows(
    conn: &mut PgConnection,
    units: &[UnitKey],
    now: DateTime<Utc>,
) -> Result<BTreeMap<UnitKey, Row>, StoreError> {
    let (ids, versions, kinds, indexes) = unit_columns(units.iter());
    sqlx::query!(
        r#"SELECT s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.connector, s.action, s.attempts,
                s.key_number, s.lease_epoch, s.ready_at AS "ready_at!", s.wait_reason
         FROM execution_step s
         JOIN UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[])
              AS k (plan_id, plan_version, kind, step_index) USING (plan_id, plan_version, kind, step_index)
         WHERE s.state = 'ready' AND s.not_before <= $5
         FOR NO KEY UPDATE OF s SKIP LOCKED"#,
        &ids,
        &versions,
        &kinds,
        &indexes,
        now,
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| {
        let unit = UnitKey {
            plan: PlanKey::new(row.plan_id, row.plan_version),
            kind: row.kind.parse()?,
            index: row.step_index,
        };
        let row = Row {
            step_key: row.step_key,
            connector: row.connector,
            action: row.action,
            attempts: row.attempts,
            key_number: row.key_number,
            epoch: row.lease_epoch,
            ready_at: row.ready_at,
            wait_reason: row.wait_reason,
        };
        Ok((unit, row))
    })
    .collect()
}

async fn needed_results(
    conn: &mut PgConnection,
    requests: &[ClaimRequest<'_>],
    rows: &BTreeMap<UnitKey, Row>,
) -> Result<BTreeMap<PlanKey, BTreeMap<i32, (String, Value)>>, StoreError> {
    let (mut ids, mut versions, mut indexes) = (Vec::new(), Vec::new(), Vec::new());
    for request in requests {
        let ClaimRequest::Run { unit, needs, .. } = request else { continue };
        if !rows.contains_key(unit) {
            continue;
        }
        match needs {
            Needed::Steps(steps) => {
                for step in steps {
                    ids.push(unit.plan.plan_id);
                    versions.push(unit.plan.plan_version);
                    indexes.push(Some(*step));
                }
            }
            // A null index stands for every step.
            Needed::All => {
                ids.push(unit.plan.plan_id);
                versions.push(unit.plan.plan_version);
                indexes.push(None);
            }
        }
    }
    let mut results: BTreeMap<PlanKey, BTreeMap<i32, (String, Value)>> = BTreeMap::new();
    if ids.is_empty() {
        return Ok(results);
    }
    let found = sqlx::query!(
        r#"SELECT DISTINCT ON (s.plan_id, s.plan_version, s.step_index)
                s.plan_id, s.plan_version, s.step_index, s.step_key, s.result AS "result!"
         FROM execution_step s
         JOIN UNNEST($1::uuid[], $2::integer[], $3::integer[]) AS k (plan_id, plan_version, step_index)
           ON s.plan_id = k.plan_id AND s.plan_version = k.plan_version
          AND s.step_index = coalesce(k.step_index, s.step_index)
         WHERE s.kind = 'action' AND s.result IS NOT NULL"#,
        &ids,
        &versions,
        &indexes as &[Option<i32>],
    )
    .fetch_all(conn)
    .await?;
    for row in found {
        results
            .entry(PlanKey::new(row.plan_id, row.plan_version))
            .or_default()
            .insert(row.step_index, (row.step_key, row.result));
    }
    Ok(results)
}

async fn last_forward_keys(
    conn: &mut PgConnection,
    rows: &BTreeMap<UnitKey, Row>,
) -> Result<BTreeMap<UnitKey, String>, StoreError> {
    let undos: Vec<UnitKey> = rows.keys().filter(|u| u.kind == UnitKind::Undo).copied().collect();
    if undos.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (ids, versions, _, indexes) = unit_columns(undos.iter());
    let found = sqlx::query!(
        "SELECT DISTINCT ON (a.plan_id, a.plan_version, a.step_index)
                a.plan_id, a.plan_version, a.step_index, a.idempotency_key
         FROM step_attempt a
         JOIN UNNEST($1::uuid[], $2::integer[], $3::integer[]) AS k (plan_id, plan_version, step_index)
           USING (plan_id, plan_version, step_index)
         JOIN execution_step u ON u.plan_id = a.plan_id AND u.plan_version = a.plan_version
          AND u.kind = 'undo' AND u.step_index = a.step_index
         JOIN execution_step s ON s.plan_id = a.plan_id AND s.plan_version = a.plan_version
          AND s.kind = 'action' AND s.step_index = a.step_index AND s.step_key = u.step_key
         WHERE a.kind = 'action'
         ORDER BY a.plan_id, a.plan_version, a.step_index, a.attempt DESC",
        &ids,
        &versions,
        &indexes,
    )
    .fetch_all(conn)
    .await?;
    Ok(found
        .into_iter()
        .map(|row| {
            let plan = PlanKey::new(row.plan_id, row.plan_version);
            (UnitKey { plan, kind: UnitKind::Undo, index: row.step_index }, row.idempotency_key)
        })
        .collect())
}

async fn write_taken(
    conn: &mut PgConnection,
    taken: &[(UnitKey, i32, i64, String)],
    worker: &str,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if taken.is_empty() {
        return Ok(());
    }
    let (ids, versions, kinds, indexes) = unit_columns(taken.iter().map(|t| &t.0));
    let attempts: Vec<i32> = taken.iter().map(|t| t.1).collect();
    let epochs: Vec<i64> = taken.iter().map(|t| t.2).collect();
    let keys: Vec<String> = taken.iter().map(|t| t.3.clone()).collect();
    let written = sqlx::query!(
        "UPDATE execution_step AS s
         SET state = 'running', attempts = n.attempt, lease_epoch = n.epoch, lease_until = $7, worker = $8,
             started_at = $9, wait_reason = NULL, rate_slot = NULL
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::integer[], $6::bigint[])
              AS n (plan_id, plan_version, kind, step_index, attempt, epoch)
         WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version AND s.kind = n.kind
           AND s.step_index = n.step_index AND s.state = 'ready'",
        &ids,
        &versions,
        &kinds,
        &indexes,
        &attempts,
        &epochs,
        until,
        worker,
        now,
    )
    .execute(&mut *conn)
    .await?;
    plan_row::assert_rows(written.rows_affected(), taken.len(), "step")?;
    sqlx::query!(
        "INSERT INTO step_attempt (plan_id, plan_version, kind, step_index, attempt, lease_epoch, idempotency_key,
             worker, started_at)
         SELECT plan_id, plan_version, kind, step_index, attempt, epoch, idempotency_key, $8, $9
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::integer[], $6::bigint[], $7::text[])
              AS n (plan_id, plan_version, kind, step_index, attempt, epoch, idempotency_key)",
        &ids,
        &versions,
        &kinds,
        &indexes,
        &attempts,
        &epochs,
        &keys,
        worker,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn write_waiting(conn: &mut PgConnection, waiting: &[Waiting]) -> Result<(), StoreError> {
    if waiting.is_empty() {
        return Ok(());
    }
    let (ids, versions, kinds, indexes) = unit_columns(waiting.iter().map(|w| &w.0));
    sqlx::query!(
        "UPDATE execution_step AS s
         SET not_before = n.not_before, wait_reason = n.reason, rate_slot = n.rate_slot
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::timestamptz[], $6::text[],
                     $7::timestamptz[])
              AS n (plan_id, plan_version, kind, step_index, not_before, reason, rate_slot)
         WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version AND s.kind = n.kind
           AND s.step_index = n.step_index AND s.state = 'ready'",
        &ids,
        &versions,
        &kinds,
        &indexes,
        &waiting.iter().map(|w| w.1).collect::<Vec<_>>(),
        &waiting.iter().map(|w| w.2.clone()).collect::<Vec<_>>(),
        &waiting.iter().map(|w| w.3).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn write_refused(
    conn: &mut PgConnection,
    refused: &[(UnitKey, String)],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if refused.is_empty() {
        return Ok(());
    }
    let (ids, versions, kinds, indexes) = unit_columns(refused.iter().map(|r| &r.0));
    sqlx::query!(
        "UPDATE execution_step AS s
         SET state = 'failed', needs_decision = true, last_outcome = 'refused', not_before = $6, ended_at = $6,
             detail = n.reason, wait_reason = NULL, rate_slot = NULL
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::text[])
              AS n (plan_id, plan_version, kind, step_index, reason)
         WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version AND s.kind = n.kind
           AND s.step_index = n.step_index AND s.state = 'ready'",
        &ids,
        &versions,
        &kinds,
        &indexes,
        &refused.iter().map(|r| r.1.clone()).collect::<Vec<_>>(),
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}
