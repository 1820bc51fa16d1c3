//! Settling: what came of attempts and probes, written with its spend, its events and what it unlocked, in one
//! transaction a group.

mod decision;
mod finding;
mod late;
mod writing;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use dat_plan::event::NewEvent;
use dat_plan::rollback::OutcomeClass;
use dat_plan::{PlanKey, PlanState, StepState, UnitKey, UnitKind};
use serde_json::Value;

pub use finding::{Finding, SettleReport, Settled, Settlement};
pub use late::LateAnswer;

use crate::account::{Ledger, held_accounts, tenant_accounts};
use crate::claim::{self, ClaimReport, GoingOn, Payers};
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::operator::Operator;
use crate::plan_row::{self, Contended, LockedPlan};
use crate::pool::Store;
use crate::runtime;
use crate::unit_columns::unit_columns;

impl Store {
    /// Writes what came of attempts and probes. A lease that was lost changes nothing and says so. One transaction.
    pub async fn settle(
        &self,
        settlements: &[Settlement],
        now: DateTime<Utc>,
    ) -> Result<SettleReport, StoreError> {
        Ok(self.settle_and_go_on(settlements, None, now).await?.0)
    }

    /// As [`Store::settle`], and claims in the same transaction what this makes ready and is asked for.
    pub async fn settle_and_go_on(
        &self,
        settlements: &[Settlement],
        next: Option<GoingOn<'_>>,
        now: DateTime<Utc>,
    ) -> Result<(SettleReport, ClaimReport), StoreError> {
        let mut tx = self.begin().await?;
        let reports = settle_and_claim(&mut tx, settlements, next, (Vec::new(), None), now).await?;
        dat_fault::around("settle", tx.commit()).await?;
        Ok(reports)
    }
}

/// Settles within a transaction, after events that were caused before. `operator` has found out, instead of a worker.
pub(crate) async fn settle_in(
    conn: &mut PgConnection,
    settlements: &[Settlement],
    events: Vec<NewEvent>,
    operator: Option<&Operator>,
    now: DateTime<Utc>,
) -> Result<SettleReport, StoreError> {
    Ok(settle_and_claim(conn, settlements, None, (events, operator), now).await?.0)
}

async fn settle_and_claim(
    conn: &mut PgConnection,
    settlements: &[Settlement],
    next: Option<GoingOn<'_>>,
    (events, operator): (Vec<NewEvent>, Option<&Operator>),
    now: DateTime<Utc>,
) -> Result<(SettleReport, ClaimReport), StoreError> {
    let keys = settlements.iter().map(|s| s.lease.unit.plan);
    let requests = next.map_or(&[][..], |next| next.requests);
    let plans =
        plan_row::lock_and_look(&mut *conn, keys, Contended::Wait, &claim::looked_at(requests)).await?;
    let next = match next.filter(|next| !next.requests.is_empty()) {
        Some(GoingOn { era: Some(era), .. }) if !runtime::holds(&mut *conn, era).await? => None,
        next => next,
    };
    let rows = leased_rows(&mut *conn, settlements).await?;
    let mut steps: Vec<(PlanKey, i32)> = rows.keys().map(|u| (u.plan, u.index)).collect();
    steps.extend(requests.iter().map(|request| (request.unit().plan, request.unit().index)));
    // A plan that may end closes what other steps still hold, whose accounts are locked here with the rest.
    let ending = plans.values().filter(|plan| may_end(plan, &rows)).map(|plan| plan.key);
    let mut further = held_accounts(&mut *conn, ending).await?;
    let levels = undo_levels(&mut *conn, &plans, &rows, now).await?;
    further.extend(levels.values().flatten());
    // So are those that the claim of a successor asks: one order of locks, whatever a transaction does.
    let payers = match next {
        Some(_) => Some(Payers::read(&mut *conn, requests, &plans, now).await?),
        None => None,
    };
    further.extend(payers.iter().flat_map(Payers::accounts));
    let ledger = Ledger::open(&mut *conn, plans.keys().copied(), &steps, &further, now).await?;
    let mut group = Group {
        plans,
        rows,
        levels,
        ledger,
        operator: operator.cloned(),
        events,
        writes: Vec::new(),
        late: Vec::new(),
        unlocked: BTreeMap::new(),
        ready: BTreeMap::new(),
        undone: Vec::new(),
        report: SettleReport::default(),
        now,
    };
    for settlement in settlements {
        let settled = group.settle(settlement)?;
        if settled == Settled::Fenced {
            group.late.extend(late::Late::of(
                &settlement.lease,
                &settlement.finding,
                "when its lease was lost",
            ));
        }
        group.report.settled.push(settled);
    }
    group.write_units(&mut *conn).await?;
    let mut claimed = ClaimReport::default();
    if let (Some(next), Some(payers)) = (next, payers) {
        claimed = group.go_on(&mut *conn, next, payers).await?;
    }
    group.close(&mut *conn).await?;
    group.report.accounts = group.ledger.views();
    Ok((group.report, claimed))
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
    /// The tenants' accounts, for undos that nothing was reserved for.
    levels: BTreeMap<(String, String), Vec<i64>>,
    ledger: Ledger,
    /// Who found out, where it was no worker.
    operator: Option<Operator>,
    events: Vec<NewEvent>,
    writes: Vec<Write>,
    /// Answers whose lease was lost.
    late: Vec<late::Late>,
    /// How many of its needs each unit lost in this group.
    unlocked: BTreeMap<UnitKey, i32>,
    /// Actions that became ready, and may run at once.
    ready: BTreeMap<UnitKey, claim::Row>,
    /// Undos that completed.
    undone: Vec<UnitKey>,
    report: SettleReport,
    now: DateTime<Utc>,
}

/// The tenants' accounts of today for the steps of plans' own rollback lists: no step reserved anything for these.
async fn undo_levels(
    conn: &mut PgConnection,
    plans: &BTreeMap<PlanKey, LockedPlan>,
    rows: &BTreeMap<UnitKey, Row>,
    now: DateTime<Utc>,
) -> Result<BTreeMap<(String, String), Vec<i64>>, StoreError> {
    let payers: BTreeSet<(String, String)> = rows
        .keys()
        .filter(|unit| unit.kind == UnitKind::Undo)
        .filter_map(|unit| plans.get(&unit.plan).filter(|plan| unit.index >= plan.steps_total))
        .map(|plan| (plan.tenant.clone(), plan.currency.clone()))
        .collect();
    if payers.is_empty() {
        return Ok(BTreeMap::new());
    }
    tenant_accounts(conn, &payers, now).await
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
