//! What a claim reads under lock, before it decides.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use dat_plan::{PlanKey, UnitKey, UnitKind};
use serde_json::Value;

use super::{Claim, ClaimReport, ClaimRequest, Needed, Row, Term, counting};
use crate::account::{Ledger, tenant_accounts};
use crate::connection::PgConnection;
use crate::constraint_set::SetHeads;
use crate::control;
use crate::error::StoreError;
use crate::plan_row::LockedPlan;
use crate::unit_columns::unit_columns;

/// Whose accounts a claim asks, found before they are locked with all others in id order.
pub(crate) struct Payers {
    levels: BTreeMap<(String, String), Vec<i64>>,
    caps: counting::Caps,
    limits: BTreeMap<i64, i64>,
}

impl Payers {
    pub(crate) async fn read(
        conn: &mut PgConnection,
        requests: &[ClaimRequest<'_>],
        plans: &BTreeMap<PlanKey, LockedPlan>,
        now: DateTime<Utc>,
    ) -> Result<Self, StoreError> {
        let payers: BTreeSet<(String, String)> =
            plans.values().map(|p| (p.tenant.clone(), p.currency.clone())).collect();
        let levels = tenant_accounts(conn, &payers, now).await?;
        let (caps, limits) = counting::cap_accounts(conn, requests, plans, now).await?;
        Ok(Self { levels, caps, limits })
    }

    /// The accounts, to be locked.
    pub(crate) fn accounts(&self) -> Vec<i64> {
        self.levels.values().flatten().chain(self.caps.values()).copied().collect()
    }
}

/// What is locked when a claim decides.
pub(crate) struct Held {
    pub(crate) plans: BTreeMap<PlanKey, LockedPlan>,
    pub(crate) rows: BTreeMap<UnitKey, Row>,
    pub(crate) payers: Payers,
    pub(crate) ledger: Ledger,
}

impl Claim {
    pub(super) async fn read(
        conn: &mut PgConnection,
        requests: &[ClaimRequest<'_>],
        plans: BTreeMap<PlanKey, LockedPlan>,
        term: Term<'_>,
    ) -> Result<Self, StoreError> {
        let units: Vec<UnitKey> =
            requests.iter().map(ClaimRequest::unit).filter(|u| plans.contains_key(&u.plan)).collect();
        let contended = requests.len() - units.len();
        let rows = due_rows(conn, &units, term.now).await?;
        let payers = Payers::read(conn, requests, &plans, term.now).await?;
        let actions: Vec<(PlanKey, i32)> =
            rows.keys().filter(|u| u.kind == UnitKind::Action).map(|u| (u.plan, u.index)).collect();
        let ledger =
            Ledger::open(conn, plans.keys().copied(), &actions, &payers.accounts(), term.now).await?;
        let mut claim = Self::of(conn, requests, Held { plans, rows, payers, ledger }, term).await?;
        claim.report.contended = contended;
        Ok(claim)
    }

    /// Reads what is left to be read once plans, steps and accounts are locked.
    pub(super) async fn of(
        conn: &mut PgConnection,
        requests: &[ClaimRequest<'_>],
        held: Held,
        Term { worker, until, now }: Term<'_>,
    ) -> Result<Self, StoreError> {
        let Held { plans, rows, payers: Payers { levels, caps, limits }, mut ledger } = held;
        let stops = control::stops(conn).await?;
        let results = needed_results(conn, requests, &rows).await?;
        let forward_keys = last_forward_keys(conn, &rows).await?;
        counting::apply_limits(conn, &mut ledger, &limits).await?;
        let undos_held = counting::held_for_undos(conn, requests, &caps).await?;
        let running = counting::running(conn, requests, &plans).await?;
        let operators = SetHeads::read(conn, plans.values().map(|plan| plan.tenant.as_str())).await?;
        Ok(Self {
            plans,
            stops,
            rows,
            results,
            forward_keys,
            levels,
            caps,
            undos_held,
            running,
            operators,
            ledger,
            changes: BTreeMap::new(),
            short: Vec::new(),
            events: Vec::new(),
            report: ClaimReport::default(),
            worker: worker.to_owned(),
            until,
            now,
        })
    }
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
         WHERE s.state || '' = 'ready' AND s.not_before <= $5
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
