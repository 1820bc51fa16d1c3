//! The accounts of tenants for the calendar periods, and those that plans hold room in.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use dat_plan::PlanKey;
use uuid::Uuid;

use crate::connection::PgConnection;
use crate::error::StoreError;

/// The accounts of tenants for the calendar periods that hold `now`, made where a limit is set and none is there yet.
/// None set, no tenant limit.
pub(crate) async fn tenant_accounts(
    conn: &mut PgConnection,
    payers: &BTreeSet<(String, String)>,
    now: DateTime<Utc>,
) -> Result<BTreeMap<(String, String), Vec<i64>>, StoreError> {
    let tenants: Vec<String> = payers.iter().map(|(tenant, _)| tenant.clone()).collect();
    let currencies: Vec<String> = payers.iter().map(|(_, currency)| currency.clone()).collect();
    let mut found: BTreeMap<(String, String), Vec<i64>> = BTreeMap::new();
    let rows = sqlx::query!(
        r#"SELECT l.tenant, l.currency, l.period,
                date_trunc(l.period, $3::timestamptz AT TIME ZONE 'UTC')::date AS "period_start!",
                a.account_id AS "account_id?"
         FROM budget_limit l
         JOIN UNNEST($1::text[], $2::text[]) AS k (tenant, currency) USING (tenant, currency)
         LEFT JOIN budget_account a ON a.tenant = l.tenant AND a.currency = l.currency AND a.period = l.period
          AND a.period_start = date_trunc(l.period, $3::timestamptz AT TIME ZONE 'UTC')::date
         ORDER BY l.tenant, l.currency, l.period"#,
        &tenants,
        &currencies,
        now,
    )
    .fetch_all(&mut *conn)
    .await?;
    for row in rows {
        let account_id = match row.account_id {
            Some(id) => id,
            None => {
                make_tenant_account(conn, &row.tenant, &row.currency, &row.period, row.period_start).await?
            }
        };
        found.entry((row.tenant, row.currency)).or_default().push(account_id);
    }
    Ok(found)
}

/// Makes the account of a period, or gives the one that another claim made at the same moment. Locks no account that is
/// there: these are locked afterwards, all in id order.
async fn make_tenant_account(
    conn: &mut PgConnection,
    tenant: &str,
    currency: &str,
    period: &str,
    period_start: chrono::NaiveDate,
) -> Result<i64, StoreError> {
    sqlx::query!(
        "INSERT INTO budget_account (tenant, currency, period, period_start, limit_amount)
         SELECT l.tenant, l.currency, l.period, $4, l.amount
         FROM budget_limit l WHERE l.tenant = $1 AND l.currency = $2 AND l.period = $3
         -- No other limit is set between the reading of this one and the account's commit.
         FOR SHARE
         ON CONFLICT (tenant, currency, period, period_start) WHERE period IS NOT NULL DO NOTHING",
        tenant,
        currency,
        period,
        period_start,
    )
    .execute(&mut *conn)
    .await?;
    Ok(sqlx::query_scalar!(
        "SELECT account_id FROM budget_account
         WHERE tenant = $1 AND currency = $2 AND period = $3 AND period_start = $4",
        tenant,
        currency,
        period,
        period_start,
    )
    .fetch_one(conn)
    .await?)
}

/// The accounts, of whichever period, in which open reservations of these plans hold room: to be locked with the others
/// where a plan may end.
pub(crate) async fn held_accounts(
    conn: &mut PgConnection,
    plans: impl IntoIterator<Item = PlanKey>,
) -> Result<Vec<i64>, StoreError> {
    let (ids, versions): (Vec<Uuid>, Vec<i32>) =
        plans.into_iter().map(|plan| (plan.plan_id, plan.plan_version)).unzip();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar!(
        r#"SELECT DISTINCT UNNEST(r.accounts) AS "account_id!"
         FROM budget_reservation r
         JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version) USING (plan_id, plan_version)
         WHERE r.action_open OR r.undo_open"#,
        &ids,
        &versions,
    )
    .fetch_all(conn)
    .await?)
}
