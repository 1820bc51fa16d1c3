//! A ledger's rows: read and locked in id order when it is opened, written once at the end.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use dat_plan::PlanKey;
use dat_plan::budget::Account;

use super::snapshot::{self, ROLL_UP_EVERY};
use super::view::AccountRow;
use super::{AccountView, Entry, Ledger, Reservation, ReservationKey, Row};
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::plan_row::assert_rows;

impl Ledger {
    /// Reads the reservations of these steps, and locks the plans' accounts, those of the reservations, and `further`.
    pub(crate) async fn open(
        conn: &mut PgConnection,
        plans: impl IntoIterator<Item = PlanKey>,
        steps: &[(PlanKey, i32)],
        further: &[i64],
        at: DateTime<Utc>,
    ) -> Result<Self, StoreError> {
        let mut ledger = Self { at, ..Self::default() };
        let rows = sqlx::query!(
            "SELECT r.plan_id, r.plan_version, r.step_index, r.attempt, r.action_amount, r.undo_amount,
                    r.action_open, r.undo_open, r.accounts
             FROM budget_reservation r
             JOIN UNNEST($1::uuid[], $2::integer[], $3::integer[]) AS k (plan_id, plan_version, step_index)
               USING (plan_id, plan_version, step_index)",
            &steps.iter().map(|(p, _)| p.plan_id).collect::<Vec<_>>(),
            &steps.iter().map(|(p, _)| p.plan_version).collect::<Vec<_>>(),
            &steps.iter().map(|(_, s)| *s).collect::<Vec<_>>(),
        )
        .fetch_all(&mut *conn)
        .await?;
        for row in rows {
            let key = (PlanKey::new(row.plan_id, row.plan_version), row.step_index, row.attempt);
            ledger.reservations.insert(
                key,
                Reservation {
                    action_amount: row.action_amount,
                    undo_amount: row.undo_amount,
                    action_open: row.action_open,
                    undo_open: row.undo_open,
                    accounts: row.accounts,
                    dirty: false,
                    new: false,
                },
            );
        }
        let mut ids: BTreeSet<i64> = further.iter().copied().collect();
        ids.extend(ledger.reservations.values().flat_map(|r| r.accounts.iter().copied()));
        let plans: BTreeSet<PlanKey> = plans.into_iter().collect();
        ledger.lock(conn, &plans, &ids).await?;
        Ok(ledger)
    }

    pub(super) async fn lock(
        &mut self,
        conn: &mut PgConnection,
        plans: &BTreeSet<PlanKey>,
        ids: &BTreeSet<i64>,
    ) -> Result<(), StoreError> {
        let rows = sqlx::query_as!(
            AccountRow,
            "SELECT account_id, version, tenant, currency, plan_id, plan_version, period, period_start,
                    cap_key, cap_period, cap_start, limit_amount, settled, reserved, overrun
             FROM budget_account
             WHERE account_id IN (
                 SELECT a.account_id FROM budget_account a
                 JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version) USING (plan_id, plan_version)
                 UNION SELECT UNNEST($3::bigint[]))
             ORDER BY account_id
             FOR NO KEY UPDATE",
            &plans.iter().map(|p| p.plan_id).collect::<Vec<_>>(),
            &plans.iter().map(|p| p.plan_version).collect::<Vec<_>>(),
            &ids.iter().copied().collect::<Vec<_>>(),
        )
        .fetch_all(conn)
        .await?;
        for row in rows {
            let view = AccountView::from(row);
            if let Some(plan) = view.plan {
                self.by_plan.insert(plan, view.account_id);
            }
            let before = view.account;
            self.accounts.insert(view.account_id, Row { view, before, dirty: false });
        }
        Ok(())
    }

    /// Writes what changed: accounts, reservations, entries. The events are the caller's to append.
    pub(crate) async fn write(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        self.write_accounts(conn).await?;
        self.write_reservations(conn).await?;
        self.write_entries(conn).await
    }

    /// Each changed account comes to its next version, with what this transaction changed of it beside.
    async fn write_accounts(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let changed: Vec<&mut Row> = self.accounts.values_mut().filter(|row| row.dirty).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let by = |part: fn(&Account) -> i64| -> Vec<i64> {
            changed.iter().map(|row| part(&row.view.account) - part(&row.before)).collect()
        };
        let written = sqlx::query!(
            "WITH n AS (
                 SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                                      $7::bigint[])
                      AS n (account_id, settled, reserved, overrun, by_settled, by_reserved, by_overrun)),
             changed AS (
                 UPDATE budget_account AS a
                 SET settled = n.settled, reserved = n.reserved, overrun = n.overrun, version = a.version + 1
                 FROM n WHERE a.account_id = n.account_id
                 RETURNING a.account_id, a.version)
             INSERT INTO budget_change (account_id, version, settled, reserved, overrun, at)
             SELECT account_id, version, n.by_settled, n.by_reserved, n.by_overrun, $8
             FROM changed JOIN n USING (account_id)",
            &changed.iter().map(|r| r.view.account_id).collect::<Vec<_>>(),
            &changed.iter().map(|r| r.view.account.settled).collect::<Vec<_>>(),
            &changed.iter().map(|r| r.view.account.reserved).collect::<Vec<_>>(),
            &changed.iter().map(|r| r.view.account.overrun).collect::<Vec<_>>(),
            &by(|account| account.settled),
            &by(|account| account.reserved),
            &by(|account| account.overrun),
            self.at,
        )
        .execute(&mut *conn)
        .await?;
        assert_rows(written.rows_affected(), changed.len(), "account")?;
        let mut rolled_up = Vec::new();
        for row in changed {
            row.view.version += 1;
            row.before = row.view.account;
            row.dirty = false;
            if row.view.version % ROLL_UP_EVERY == 0 {
                rolled_up.push(&row.view);
            }
        }
        snapshot::write(conn, &rolled_up, self.at).await
    }

    /// Reservations that are new: a worker's alone, so that no operator need be granted to make one.
    async fn write_reservations(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let (new_keys, new): (Vec<&ReservationKey>, Vec<&Reservation>) =
            self.reservations.iter().filter(|(_, r)| r.new).unzip();
        if new.is_empty() {
            return Ok(());
        }
        let written = sqlx::query!(
            "INSERT INTO budget_reservation (plan_id, plan_version, step_index, attempt, action_amount, undo_amount,
                 action_open, undo_open, accounts, reserved_at)
             SELECT n.plan_id, n.plan_version, n.step_index, n.attempt, n.action_amount, n.undo_amount,
                    n.action_open, n.undo_open, n.accounts::bigint[], $10
             FROM UNNEST($1::uuid[], $2::integer[], $3::integer[], $4::integer[], $5::bigint[], $6::bigint[],
                         $7::boolean[], $8::boolean[], $9::text[])
                  AS n (plan_id, plan_version, step_index, attempt, action_amount, undo_amount, action_open,
                        undo_open, accounts)",
            &new_keys.iter().map(|k| k.0.plan_id).collect::<Vec<_>>(),
            &new_keys.iter().map(|k| k.0.plan_version).collect::<Vec<_>>(),
            &new_keys.iter().map(|k| k.1).collect::<Vec<_>>(),
            &new_keys.iter().map(|k| k.2).collect::<Vec<_>>(),
            &new.iter().map(|r| r.action_amount).collect::<Vec<_>>(),
            &new.iter().map(|r| r.undo_amount).collect::<Vec<_>>(),
            &new.iter().map(|r| r.action_open).collect::<Vec<_>>(),
            &new.iter().map(|r| r.undo_open).collect::<Vec<_>>(),
            &new.iter().map(|r| array_text(&r.accounts)).collect::<Vec<_>>(),
            self.at,
        )
        .execute(conn)
        .await?;
        assert_rows(written.rows_affected(), new.len(), "reservation")
    }

    /// Reservations that changed, and the entries, in one statement.
    async fn write_entries(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let entries = std::mem::take(&mut self.entries);
        let changed: Vec<_> = self.reservations.iter().filter(|(_, r)| r.dirty && !r.new).collect();
        if entries.is_empty() && changed.is_empty() {
            return Ok(());
        }
        let versions = |entry: &Entry| -> Vec<i64> {
            entry.accounts.iter().filter_map(|id| self.accounts.get(id)).map(|row| row.view.version).collect()
        };
        let written = sqlx::query_scalar!(
            // Arrays of arrays have one length in PostgreSQL, and levels differ: a list each, as text.
            r#"WITH entered AS (
                 INSERT INTO budget_entry (plan_id, plan_version, kind, step_index, attempt, entry, part, amount,
                     held, tenant, currency, accounts, account_versions, at)
                 SELECT n.plan_id, n.plan_version, n.kind, n.step_index, n.attempt, n.entry, n.part, n.amount,
                        n.held, n.tenant, n.currency, n.accounts::bigint[], n.versions::bigint[], $14
                 FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::integer[], $6::text[],
                             $7::text[], $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::text[], $13::text[])
                      AS n (plan_id, plan_version, kind, step_index, attempt, entry, part, amount, held, tenant,
                            currency, accounts, versions)),
             changed AS (
                 UPDATE budget_reservation AS r
                 SET undo_amount = n.undo_amount, action_open = n.action_open, undo_open = n.undo_open
                 FROM UNNEST($15::uuid[], $16::integer[], $17::integer[], $18::integer[], $19::bigint[],
                             $20::boolean[], $21::boolean[])
                      AS n (plan_id, plan_version, step_index, attempt, undo_amount, action_open, undo_open)
                 WHERE r.plan_id = n.plan_id AND r.plan_version = n.plan_version AND r.step_index = n.step_index
                   AND r.attempt = n.attempt
                 RETURNING 1)
             SELECT count(*) AS "changed!" FROM changed"#,
            &entries.iter().map(|e| e.unit.plan.plan_id).collect::<Vec<_>>(),
            &entries.iter().map(|e| e.unit.plan.plan_version).collect::<Vec<_>>(),
            &entries.iter().map(|e| e.unit.kind.as_str().to_owned()).collect::<Vec<_>>(),
            &entries.iter().map(|e| e.unit.index).collect::<Vec<_>>(),
            &entries.iter().map(|e| e.attempt).collect::<Vec<_>>(),
            &entries.iter().map(|e| e.word.to_owned()).collect::<Vec<_>>(),
            &entries.iter().map(|e| e.part.to_owned()).collect::<Vec<_>>(),
            &entries.iter().map(|e| e.amount).collect::<Vec<_>>(),
            &entries.iter().map(|e| e.held).collect::<Vec<_>>(),
            &entries.iter().map(|e| e.tenant.clone()).collect::<Vec<_>>(),
            &entries.iter().map(|e| e.currency.clone()).collect::<Vec<_>>(),
            &entries.iter().map(|e| array_text(&e.accounts)).collect::<Vec<_>>(),
            &entries.iter().map(|e| array_text(&versions(e))).collect::<Vec<_>>(),
            self.at,
            &changed.iter().map(|(k, _)| k.0.plan_id).collect::<Vec<_>>(),
            &changed.iter().map(|(k, _)| k.0.plan_version).collect::<Vec<_>>(),
            &changed.iter().map(|(k, _)| k.1).collect::<Vec<_>>(),
            &changed.iter().map(|(k, _)| k.2).collect::<Vec<_>>(),
            &changed.iter().map(|(_, r)| r.undo_amount).collect::<Vec<_>>(),
            &changed.iter().map(|(_, r)| r.action_open).collect::<Vec<_>>(),
            &changed.iter().map(|(_, r)| r.undo_open).collect::<Vec<_>>(),
        )
        .fetch_one(conn)
        .await?;
        assert_rows(written.unsigned_abs(), changed.len(), "reservation")
    }
}

/// A list as PostgreSQL reads it.
fn array_text(numbers: &[i64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}
