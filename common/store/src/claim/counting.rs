//! What rules that count look at, read in the claim transaction: accounts of `spend` rules, and what runs.
//!
//! The order of locks goes on after the accounts: counters of what runs, in key order, each by a transaction lock of its
//! own. A plan's own counters need none, its row is locked.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use dat_plan::PlanKey;
use dat_plan::constraint::SpendPeriod;

use super::request::{ClaimRequest, CountLock, SpendCap};
use crate::account::Ledger;
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::plan_row::LockedPlan;

/// The accounts of `spend` rules, by what is counted together and the currency.
pub(super) type Caps = BTreeMap<(String, String), i64>;

impl SpendCap {
    /// The first day of the period that holds `now`.
    fn start(&self, now: DateTime<Utc>) -> NaiveDate {
        use chrono::Datelike as _;
        let today = now.date_naive();
        match self.period {
            SpendPeriod::Day => Some(today),
            SpendPeriod::Month => today.with_day(1),
            SpendPeriod::Year => NaiveDate::from_ymd_opt(today.year(), 1, 1),
            SpendPeriod::Total => None,
        }
        .unwrap_or_default()
    }
}

/// The accounts of the `spend` rules that count these requests, made where none is there yet; locked by the ledger,
/// afterwards, with all others.
pub(super) async fn cap_accounts(
    conn: &mut PgConnection,
    requests: &[ClaimRequest<'_>],
    plans: &BTreeMap<PlanKey, LockedPlan>,
    now: DateTime<Utc>,
) -> Result<(Caps, BTreeMap<i64, i64>), StoreError> {
    let mut wanted: BTreeMap<(String, String), &SpendCap> = BTreeMap::new();
    for request in requests {
        let (ClaimRequest::Run { counting, .. }, Some(plan)) = (request, plans.get(&request.unit().plan))
        else {
            continue;
        };
        for cap in &counting.caps {
            wanted.entry((cap.key.clone(), plan.currency.clone())).or_insert(cap);
        }
    }
    let (mut caps, mut limits) = (Caps::new(), BTreeMap::new());
    // In key order, as every transaction that makes such accounts: none waits for one that waits for it.
    for ((key, currency), cap) in wanted {
        let id = cap_account(conn, &key, &currency, cap, now).await?;
        limits.insert(id, cap.max);
        caps.insert((key, currency), id);
    }
    Ok((caps, limits))
}

async fn cap_account(
    conn: &mut PgConnection,
    key: &str,
    currency: &str,
    cap: &SpendCap,
    now: DateTime<Utc>,
) -> Result<i64, StoreError> {
    let (period, start) = (cap.period.as_str(), cap.start(now));
    let found = sqlx::query_scalar!(
        "SELECT account_id FROM budget_account
         WHERE cap_key = $1 AND currency = $2 AND cap_period = $3 AND cap_start = $4",
        key,
        currency,
        period,
        start,
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(id) = found {
        return Ok(id);
    }
    sqlx::query!(
        "INSERT INTO budget_account (tenant, currency, cap_key, cap_period, cap_start, limit_amount)
         VALUES ('', $2, $1, $3, $4, $5)
         ON CONFLICT (cap_key, currency, cap_period, cap_start) WHERE cap_key IS NOT NULL DO NOTHING",
        key,
        currency,
        period,
        start,
        cap.max,
    )
    .execute(&mut *conn)
    .await?;
    Ok(sqlx::query_scalar!(
        "SELECT account_id FROM budget_account
         WHERE cap_key = $1 AND currency = $2 AND cap_period = $3 AND cap_start = $4",
        key,
        currency,
        period,
        start,
    )
    .fetch_one(conn)
    .await?)
}

/// Gives locked accounts the limit that their rule has now.
pub(super) async fn apply_limits(
    conn: &mut PgConnection,
    ledger: &mut Ledger,
    limits: &BTreeMap<i64, i64>,
) -> Result<(), StoreError> {
    for (id, max) in limits {
        if ledger.account(*id).is_none_or(|view| view.account.limit == *max) {
            continue;
        }
        sqlx::query!(
            "UPDATE budget_account SET limit_amount = $2, version = version + 1 WHERE account_id = $1",
            id,
            max,
        )
        .execute(&mut *conn)
        .await?;
        ledger.relimit(*id, *max);
    }
    Ok(())
}

/// What is held for undos on these accounts, which stays until the plans end.
pub(super) async fn held_for_undos(
    conn: &mut PgConnection,
    requests: &[ClaimRequest<'_>],
    caps: &Caps,
) -> Result<BTreeMap<i64, i64>, StoreError> {
    let mut plans = BTreeSet::new();
    let mut accounts = BTreeSet::new();
    for request in requests {
        let ClaimRequest::Run { unit, counting, .. } = request else { continue };
        for cap in counting.caps.iter().filter(|cap| cap.own && cap.period == SpendPeriod::Total) {
            plans.insert(unit.plan);
            accounts.extend(caps.iter().filter(|((key, _), _)| *key == cap.key).map(|(_, id)| *id));
        }
    }
    if accounts.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = sqlx::query!(
        r#"SELECT account_id AS "account_id!", sum(r.undo_amount)::bigint AS "held!"
         FROM budget_reservation r
         JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version) USING (plan_id, plan_version)
         CROSS JOIN LATERAL UNNEST(r.accounts) AS account_id
         WHERE r.undo_open AND account_id = ANY($3)
         GROUP BY account_id"#,
        &plans.iter().map(|plan| plan.plan_id).collect::<Vec<_>>(),
        &plans.iter().map(|plan| plan.plan_version).collect::<Vec<_>>(),
        &accounts.into_iter().collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.account_id, row.held)).collect())
}

/// How many attempts run or are unknown, by counter, and stays so but for what this transaction adds and what ends.
pub(super) async fn running(
    conn: &mut PgConnection,
    requests: &[ClaimRequest<'_>],
    plans: &BTreeMap<PlanKey, LockedPlan>,
) -> Result<BTreeMap<String, i64>, StoreError> {
    let mut any = false;
    let mut locks = BTreeSet::new();
    for request in requests {
        let (ClaimRequest::Run { counting, .. }, Some(plan)) = (request, plans.get(&request.unit().plan))
        else {
            continue;
        };
        for lock in &counting.running {
            any = true;
            match lock {
                CountLock::Fleet => locks.insert("concurrency:fleet".to_owned()),
                CountLock::Tenant => locks.insert(format!("concurrency:tenant:{}", plan.tenant)),
                CountLock::Plan => false,
            };
        }
    }
    if !any {
        return Ok(BTreeMap::new());
    }
    for lock in locks {
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", lock)
            .execute(&mut *conn)
            .await?;
    }
    // A statement of its own: it sees what those committed who held the locks before.
    let rows = sqlx::query!(
        r#"SELECT key AS "key!", count(*) AS "running!"
         FROM execution_step s CROSS JOIN LATERAL UNNEST(s.counted_as) AS key
         WHERE s.counted_as IS NOT NULL AND s.state IN ('running', 'unknown')
         GROUP BY key"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.key, row.running)).collect())
}
