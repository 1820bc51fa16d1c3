//! A ledger's rows: read and locked in id order when it is opened, written once at the end.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use dat_plan::PlanKey;
use dat_plan::budget::Account;
use sqlx::PgConnection;

use super::{AccountView, Ledger, Reservation, Row};
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
        let rows = sqlx::query!(
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
            let plan = row.plan_id.zip(row.plan_version).map(|(id, version)| PlanKey::new(id, version));
            if let Some(plan) = plan {
                self.by_plan.insert(plan, row.account_id);
            }
            let view = AccountView {
                account_id: row.account_id,
                version: row.version,
                tenant: row.tenant,
                currency: row.currency,
                plan,
                period: row.period.or(row.cap_period).zip(row.period_start.or(row.cap_start)),
                cap: row.cap_key,
                account: Account {
                    limit: row.limit_amount,
                    settled: row.settled,
                    reserved: row.reserved,
                    overrun: row.overrun,
                },
            };
            self.accounts.insert(row.account_id, Row { view, dirty: false });
        }
        Ok(())
    }

    /// Writes what changed: accounts, reservations, entries. The events are the caller's to append.
    pub(crate) async fn write(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let changed: Vec<&mut Row> = self.accounts.values_mut().filter(|row| row.dirty).collect();
        if !changed.is_empty() {
            let written = sqlx::query!(
                "UPDATE budget_account AS a
                 SET settled = n.settled, reserved = n.reserved, overrun = n.overrun, version = a.version + 1
                 FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
                      AS n (account_id, settled, reserved, overrun)
                 WHERE a.account_id = n.account_id",
                &changed.iter().map(|r| r.view.account_id).collect::<Vec<_>>(),
                &changed.iter().map(|r| r.view.account.settled).collect::<Vec<_>>(),
                &changed.iter().map(|r| r.view.account.reserved).collect::<Vec<_>>(),
                &changed.iter().map(|r| r.view.account.overrun).collect::<Vec<_>>(),
            )
            .execute(&mut *conn)
            .await?;
            assert_rows(written.rows_affected(), changed.len(), "account")?;
            for row in changed {
                row.view.version += 1;
                row.dirty = false;
            }
        }
        self.write_reservations(conn).await?;
        self.write_entries(conn).await
    }

    async fn write_reservations(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        for (key, reservation) in self.reservations.iter().filter(|(_, r)| r.new) {
            // Arrays of arrays have one length in PostgreSQL, and levels differ: a row each.
            sqlx::query!(
                "INSERT INTO budget_reservation (plan_id, plan_version, step_index, attempt, action_amount,
                     undo_amount, action_open, undo_open, accounts, reserved_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                key.0.plan_id,
                key.0.plan_version,
                key.1,
                key.2,
                reservation.action_amount,
                reservation.undo_amount,
                reservation.action_open,
                reservation.undo_open,
                &reservation.accounts,
                self.at,
            )
            .execute(&mut *conn)
            .await?;
        }
        let changed: Vec<_> = self.reservations.iter().filter(|(_, r)| r.dirty && !r.new).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let written = sqlx::query!(
            "UPDATE budget_reservation AS r
             SET undo_amount = n.undo_amount, action_open = n.action_open, undo_open = n.undo_open
             FROM UNNEST($1::uuid[], $2::integer[], $3::integer[], $4::integer[], $5::bigint[], $6::boolean[],
                         $7::boolean[])
                  AS n (plan_id, plan_version, step_index, attempt, undo_amount, action_open, undo_open)
             WHERE r.plan_id = n.plan_id AND r.plan_version = n.plan_version AND r.step_index = n.step_index
               AND r.attempt = n.attempt",
            &changed.iter().map(|(k, _)| k.0.plan_id).collect::<Vec<_>>(),
            &changed.iter().map(|(k, _)| k.0.plan_version).collect::<Vec<_>>(),
            &changed.iter().map(|(k, _)| k.1).collect::<Vec<_>>(),
            &changed.iter().map(|(k, _)| k.2).collect::<Vec<_>>(),
            &changed.iter().map(|(_, r)| r.undo_amount).collect::<Vec<_>>(),
            &changed.iter().map(|(_, r)| r.action_open).collect::<Vec<_>>(),
            &changed.iter().map(|(_, r)| r.undo_open).collect::<Vec<_>>(),
        )
        .execute(conn)
        .await?;
        assert_rows(written.rows_affected(), changed.len(), "reservation")
    }

    async fn write_entries(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        for entry in std::mem::take(&mut self.entries) {
            sqlx::query!(
                "INSERT INTO budget_entry (plan_id, plan_version, kind, step_index, attempt, entry, part, amount,
                     tenant, currency, accounts, at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                entry.unit.plan.plan_id,
                entry.unit.plan.plan_version,
                entry.unit.kind.as_str(),
                entry.unit.index,
                entry.attempt,
                entry.word,
                entry.part,
                entry.amount,
                entry.tenant,
                entry.currency,
                &entry.accounts,
                self.at,
            )
            .execute(&mut *conn)
            .await?;
        }
        Ok(())
    }
}
