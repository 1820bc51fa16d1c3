//! Accounts rolled up: what an account held at a version of it, so that whoever proves or rebuilds it reads the last
//! snapshot and what came after, not all of history.
//!
//! Taken in the transaction that brings an account to its place, under the account's lock: exact, without a pass that
//! looks for accounts that moved. When a tenant's period has turned, the sweeper takes one more.

use chrono::{DateTime, Utc};

use super::AccountView;
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::pool::Store;

/// How many changes of an account lie between two snapshots of it, at most but for changes of its limit.
pub(super) const ROLL_UP_EVERY: i64 = 64;

/// Snapshots of accounts that this transaction has locked and written.
pub(super) async fn write(
    conn: &mut PgConnection,
    accounts: &[&AccountView],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if accounts.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO budget_snapshot
             (moment, account_id, position, limit_amount, settled, reserved, overrun, currency, taken_at)
         SELECT 'rolled_up', n.account_id, n.position, n.limit_amount, n.settled, n.reserved, n.overrun, n.currency, $8
         FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[])
              AS n (account_id, position, limit_amount, settled, reserved, overrun, currency)",
        &accounts.iter().map(|view| view.account_id).collect::<Vec<_>>(),
        &accounts.iter().map(|view| view.version).collect::<Vec<_>>(),
        &accounts.iter().map(|view| view.account.limit).collect::<Vec<_>>(),
        &accounts.iter().map(|view| view.account.settled).collect::<Vec<_>>(),
        &accounts.iter().map(|view| view.account.reserved).collect::<Vec<_>>(),
        &accounts.iter().map(|view| view.account.overrun).collect::<Vec<_>>(),
        &accounts.iter().map(|view| view.currency.clone()).collect::<Vec<_>>(),
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

impl Store {
    /// Rolls up tenants' accounts whose period turned and which moved since they were rolled up last: at most `limit`,
    /// of the last two periods of each kind. Gives how many.
    pub async fn roll_up_turned(&self, limit: i64, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let taken = dat_fault::around(
            "snapshot.turned",
            sqlx::query!(
                "WITH turned AS MATERIALIZED (
                 SELECT a.* FROM budget_account a
                 WHERE a.period IS NOT NULL
                   AND a.period_start < date_trunc(a.period, $1::timestamptz AT TIME ZONE 'UTC')::date
                   AND a.period_start >= (date_trunc(a.period, $1::timestamptz AT TIME ZONE 'UTC')
                                          - 2 * ('1 ' || a.period)::interval)::date
                   -- For the index: no period is longer than a year.
                   AND a.period_start >= ($1::timestamptz AT TIME ZONE 'UTC' - interval '3 years')::date
                   AND a.version > coalesce((SELECT max(s.position) FROM budget_snapshot s
                                             WHERE s.account_id = a.account_id), 0)
                 ORDER BY a.account_id LIMIT $2
                 FOR NO KEY UPDATE OF a SKIP LOCKED)
             INSERT INTO budget_snapshot
                 (moment, account_id, position, limit_amount, settled, reserved, overrun, currency, taken_at)
             SELECT 'rolled_up', account_id, version, limit_amount, settled, reserved, overrun, currency, $1
             FROM turned
             ON CONFLICT DO NOTHING",
                now,
                limit,
            )
            .execute(self.pool()),
        )
        .await?;
        Ok(taken.rows_affected())
    }
}
