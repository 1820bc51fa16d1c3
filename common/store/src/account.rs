//! Budget accounts, reservations and the ledger: the last word on what may be spent.
//!
//! A [`Ledger`] is opened in a transaction after the plans are locked; it locks the accounts in id order, changes
//! them by the pure arithmetic of `dat_plan::budget`, and is written once at the transaction's end.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use dat_plan::budget::Account;
use dat_plan::event::{ControlAct, EventKind, NewEvent};
use dat_plan::{PlanKey, UnitKey, UnitKind};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::StoreError;
use crate::event_log;
use crate::plan_row::{LockedPlan, assert_rows};
use crate::pool::Store;

/// An account as people see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AccountView {
    /// Which; the key of its live copy.
    pub account_id: i64,
    /// Rises with every change.
    pub version: i64,
    /// Who pays.
    pub tenant: String,
    /// Of what.
    pub currency: String,
    /// A plan's account.
    pub plan: Option<PlanKey>,
    /// A tenant's account: the period and its first day.
    pub period: Option<(String, chrono::NaiveDate)>,
    /// What it holds.
    pub account: Account,
}

/// A tenant's limit for a calendar period.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TenantLimit {
    /// Who.
    pub tenant: String,
    /// Of what.
    pub currency: String,
    /// `day`, `month` or `year`, UTC.
    pub period: String,
    /// How much, smallest unit.
    pub amount: i64,
}

/// What one attempt of a token plan reserved or spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUsage {
    /// The step.
    pub unit: UnitKey,
    /// The attempt.
    pub attempt: i32,
    /// Who pays.
    pub tenant: String,
    /// Through which connector.
    pub connector: String,
    /// For which action.
    pub action: String,
    /// When it was reserved.
    pub reserved_at: DateTime<Utc>,
    /// Spent where settled, else reserved; tokens.
    pub amount: i64,
    /// Whether it is settled.
    pub settled: bool,
}

#[derive(Debug, Clone)]
struct Row {
    view: AccountView,
    dirty: bool,
}

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "two facts of the row for each of its two parts")]
struct Reservation {
    action_amount: i64,
    undo_amount: i64,
    action_open: bool,
    undo_open: bool,
    accounts: Vec<i64>,
    dirty: bool,
    new: bool,
}

type ReservationKey = (PlanKey, i32, i32);

#[derive(Debug)]
struct Entry {
    unit: UnitKey,
    attempt: i32,
    word: &'static str,
    part: &'static str,
    amount: i64,
    tenant: String,
    currency: String,
    accounts: Vec<i64>,
}

/// The accounts, reservations and entries of one transaction.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: BTreeMap<i64, Row>,
    by_plan: BTreeMap<PlanKey, i64>,
    reservations: BTreeMap<ReservationKey, Reservation>,
    entries: Vec<Entry>,
    /// The financial events, in order.
    pub(crate) events: Vec<NewEvent>,
    at: DateTime<Utc>,
}

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

    async fn lock(
        &mut self,
        conn: &mut PgConnection,
        plans: &BTreeSet<PlanKey>,
        ids: &BTreeSet<i64>,
    ) -> Result<(), StoreError> {
        let rows = sqlx::query!(
            "SELECT account_id, version, tenant, currency, plan_id, plan_version, period, period_start,
                    limit_amount, settled, reserved, overrun
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
                period: row.period.zip(row.period_start),
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

    /// The plan's own account.
    pub(crate) fn plan_account(&self, plan: PlanKey) -> Result<(i64, Account), StoreError> {
        self.by_plan
            .get(&plan)
            .and_then(|id| self.accounts.get(id).map(|row| (*id, row.view.account)))
            .ok_or_else(|| StoreError::Corrupt(format!("plan {plan} has no budget account")))
    }

    /// An account that was locked.
    pub(crate) fn account(&self, id: i64) -> Option<&AccountView> {
        self.accounts.get(&id).map(|row| &row.view)
    }

    /// The accounts that were changed or read, as they are now: for the live copies.
    pub(crate) fn views(&self) -> Vec<AccountView> {
        self.accounts.values().map(|row| row.view.clone()).collect()
    }

    /// Whether an undo of the step is paid for already by an earlier attempt's reservation.
    pub(crate) fn holds_undo(&self, plan: PlanKey, step: i32) -> bool {
        self.of_step(plan, step).any(|(_, r)| r.undo_open)
    }

    /// Takes room at every level. The caller has asked every account whether it fits.
    pub(crate) fn reserve(
        &mut self,
        plan: &LockedPlan,
        step: (i32, &str),
        attempt: i32,
        (action, undo): (i64, i64),
        accounts: Vec<i64>,
    ) -> Result<(), StoreError> {
        self.each(&accounts, |account| account.reserve(action + undo))?;
        let unit = UnitKey { plan: plan.key, kind: UnitKind::Action, index: step.0 };
        self.enter(plan, unit, step.1, attempt, EventKind::SpendReserved, "action", action, &accounts)?;
        self.enter(plan, unit, step.1, attempt, EventKind::SpendReserved, "undo", undo, &accounts)?;
        self.reservations.insert(
            (plan.key, step.0, attempt),
            Reservation {
                action_amount: action,
                undo_amount: undo,
                action_open: true,
                undo_open: undo > 0,
                accounts,
                dirty: true,
                new: true,
            },
        );
        Ok(())
    }

    /// Closes the action's part of an attempt by what it spent; the rest is released. Gives the overrun.
    pub(crate) fn settle_action(
        &mut self,
        plan: &LockedPlan,
        step: (i32, &str),
        attempt: i32,
        spent: i64,
    ) -> Result<i64, StoreError> {
        let Some(reservation) = self.reservations.get_mut(&(plan.key, step.0, attempt)) else {
            return Err(StoreError::Corrupt(format!(
                "attempt {attempt} of {}/{} has no reservation",
                plan.key, step.1
            )));
        };
        if !reservation.action_open {
            return Ok(0); // settled before: idempotent by step and attempt
        }
        reservation.action_open = false;
        reservation.dirty = true;
        let held = reservation.action_amount;
        let accounts = reservation.accounts.clone();
        self.each(&accounts, |account| {
            account.settle(held, spent);
        })?;
        let unit = UnitKey { plan: plan.key, kind: UnitKind::Action, index: step.0 };
        self.enter(plan, unit, step.1, attempt, EventKind::SpendIncurred, "action", spent, &accounts)?;
        let rest = (held - spent).max(0);
        self.enter(plan, unit, step.1, attempt, EventKind::SpendReleased, "action", rest, &accounts)?;
        Ok((spent - held).max(0))
    }

    /// Charges what an attempt of an undo spent to the room held for it, and gives the rest back once it is done.
    /// What was not held is an overrun: an undo is never gated by the budget.
    pub(crate) fn settle_undo(
        &mut self,
        plan: &LockedPlan,
        step: (i32, &str),
        attempt: i32,
        spent: i64,
        otherwise: &[i64],
    ) -> Result<i64, StoreError> {
        // Charged where the room is held, which an earlier attempt may have taken in an earlier period.
        let holding = self.of_step(plan.key, step.0).find(|(_, r)| r.undo_open).map(|(key, _)| *key);
        let paying = holding.or_else(|| self.of_step(plan.key, step.0).last().map(|(key, _)| *key));
        let accounts = paying
            .and_then(|key| self.reservations.get(&key))
            .map_or_else(|| otherwise.to_vec(), |r| r.accounts.clone());
        let mut held = 0;
        if let Some(reservation) = holding.and_then(|key| self.reservations.get_mut(&key)) {
            held = reservation.undo_amount.min(spent);
            reservation.undo_amount -= held;
            reservation.dirty = held > 0 || reservation.dirty;
        }
        self.each(&accounts, |account| {
            account.settle(held, spent);
        })?;
        let unit = UnitKey { plan: plan.key, kind: UnitKind::Undo, index: step.0 };
        self.enter(plan, unit, step.1, attempt, EventKind::SpendIncurred, "undo", spent, &accounts)?;
        Ok(spent - held)
    }

    /// Gives back what is held for the undo of a step.
    pub(crate) fn release_undo(&mut self, plan: &LockedPlan, step: (i32, &str)) -> Result<(), StoreError> {
        let attempts: Vec<i32> = self.of_step(plan.key, step.0).map(|(key, _)| key.2).collect();
        attempts.into_iter().try_for_each(|attempt| self.release_undo_of(plan, step, attempt))
    }

    /// Gives back what one attempt holds for the undo of its step.
    pub(crate) fn release_undo_of(
        &mut self,
        plan: &LockedPlan,
        step: (i32, &str),
        attempt: i32,
    ) -> Result<(), StoreError> {
        let key = (plan.key, step.0, attempt);
        let Some(reservation) = self.reservations.get_mut(&key).filter(|r| r.undo_open) else {
            return Ok(());
        };
        reservation.undo_open = false;
        reservation.dirty = true;
        let (rest, accounts) = (reservation.undo_amount, reservation.accounts.clone());
        self.each(&accounts, |account| account.release(rest))?;
        let unit = UnitKey { plan: plan.key, kind: UnitKind::Action, index: step.0 };
        self.enter(plan, unit, step.1, attempt, EventKind::SpendReleased, "undo", rest, &accounts)
    }

    /// Money came back: it restores capacity where it was spent.
    pub(crate) fn refund(
        &mut self,
        plan: &LockedPlan,
        unit: UnitKey,
        step: &str,
        attempt: i32,
        amount: i64,
        otherwise: &[i64],
    ) -> Result<(), StoreError> {
        let accounts = self
            .of_step(plan.key, unit.index)
            .last()
            .map_or_else(|| otherwise.to_vec(), |(_, r)| r.accounts.clone());
        self.each(&accounts, |account| account.refund(amount))?;
        let part = if unit.kind == UnitKind::Action { "action" } else { "undo" };
        self.enter(plan, unit, step, attempt, EventKind::RefundIssued, part, amount, &accounts)
    }

    /// Loads what is still open of a plan that is about to end, then gives all of it back. The ledger was opened with
    /// the plan's [`held_accounts`].
    pub(crate) async fn close(
        &mut self,
        conn: &mut PgConnection,
        plan: &LockedPlan,
    ) -> Result<(), StoreError> {
        let rows = sqlx::query!(
            r#"SELECT r.step_index, r.attempt, r.action_amount, r.undo_amount, r.action_open, r.undo_open,
                    r.accounts, s.step_key
             FROM budget_reservation r
             JOIN execution_step s ON s.plan_id = r.plan_id AND s.plan_version = r.plan_version
              AND s.kind = 'action' AND s.step_index = r.step_index
             WHERE r.plan_id = $1 AND r.plan_version = $2 AND (r.action_open OR r.undo_open)
             ORDER BY r.step_index, r.attempt"#,
            plan.key.plan_id,
            plan.key.plan_version,
        )
        .fetch_all(&mut *conn)
        .await?;
        for row in rows {
            let key = (plan.key, row.step_index, row.attempt);
            self.reservations.entry(key).or_insert(Reservation {
                action_amount: row.action_amount,
                undo_amount: row.undo_amount,
                action_open: row.action_open,
                undo_open: row.undo_open,
                accounts: row.accounts,
                dirty: false,
                new: false,
            });
            self.settle_action(plan, (row.step_index, &row.step_key), row.attempt, 0)?;
            self.release_undo(plan, (row.step_index, &row.step_key))?;
        }
        Ok(())
    }

    fn of_step(
        &self,
        plan: PlanKey,
        step: i32,
    ) -> impl Iterator<Item = (&ReservationKey, &Reservation)> + use<'_> {
        self.reservations.range((plan, step, 0)..=(plan, step, i32::MAX))
    }

    fn each(&mut self, ids: &[i64], mut change: impl FnMut(&mut Account)) -> Result<(), StoreError> {
        for id in ids {
            let row = self
                .accounts
                .get_mut(id)
                .ok_or_else(|| StoreError::Corrupt(format!("budget account {id} is not locked")))?;
            change(&mut row.view.account);
            row.dirty = true;
        }
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a ledger entry has this many parts, and this is the one place"
    )]
    fn enter(
        &mut self,
        plan: &LockedPlan,
        unit: UnitKey,
        step: &str,
        attempt: i32,
        kind: EventKind,
        part: &'static str,
        amount: i64,
        accounts: &[i64],
    ) -> Result<(), StoreError> {
        if amount == 0 {
            return Ok(());
        }
        let (_, account) = self.plan_account(plan.key)?;
        self.events.push(
            plan.event(kind, self.at)
                .step(step, attempt)
                .with("amount", amount)
                .with("currency", plan.currency.as_str())
                .with("part", part)
                .with("account_spent", account.settled)
                .with("account_reserved", account.reserved)
                .with("account_limit", account.limit),
        );
        self.entries.push(Entry {
            unit,
            attempt,
            word: match kind {
                EventKind::SpendReserved => "reserved",
                EventKind::SpendIncurred => "incurred",
                EventKind::SpendReleased => "released",
                _ => "refund",
            },
            part,
            amount,
            tenant: plan.tenant.clone(),
            currency: plan.currency.clone(),
            accounts: accounts.to_vec(),
        });
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

impl Store {
    /// Sets what a tenant may spend in a calendar period; the present period's account takes the new limit at once.
    pub async fn set_limit(
        &self,
        limit: &TenantLimit,
        actor: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query!(
            "INSERT INTO budget_limit (tenant, currency, period, amount, set_at, set_by)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (tenant, currency, period)
             DO UPDATE SET amount = excluded.amount, set_at = excluded.set_at, set_by = excluded.set_by",
            limit.tenant,
            limit.currency,
            limit.period,
            limit.amount,
            now,
            actor,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE budget_account SET limit_amount = $4, version = version + 1
             WHERE tenant = $1 AND currency = $2 AND period = $3
               AND period_start = date_trunc($3, $5::timestamptz AT TIME ZONE 'UTC')::date",
            limit.tenant,
            limit.currency,
            limit.period,
            limit.amount,
            now,
        )
        .execute(&mut *tx)
        .await?;
        let event = NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::Control(ControlAct::SetBudget), now)
            .with("actor", actor)
            .with("tenant", limit.tenant.as_str())
            .with("currency", limit.currency.as_str())
            .with("period", limit.period.as_str())
            .with("amount", limit.amount)
            .because(reason);
        event_log::append(&mut tx, &[event]).await?;
        tx.commit().await?;
        Ok(())
    }

    /// A tenant's accounts, and one plan's where asked: those with something on them, newest period first.
    pub async fn accounts(
        &self,
        tenant: Option<&str>,
        plan: Option<Uuid>,
    ) -> Result<Vec<AccountView>, StoreError> {
        let rows = sqlx::query!(
            "SELECT account_id, version, tenant, currency, plan_id, plan_version, period, period_start,
                    limit_amount, settled, reserved, overrun
             FROM budget_account
             WHERE ($1::text IS NULL OR tenant = $1) AND (plan_id = $2 OR ($2::uuid IS NULL AND plan_id IS NULL))
             ORDER BY tenant, currency, period, period_start DESC, plan_version
             LIMIT 1000",
            tenant,
            plan,
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| AccountView {
                account_id: row.account_id,
                version: row.version,
                tenant: row.tenant,
                currency: row.currency,
                plan: row.plan_id.zip(row.plan_version).map(|(id, version)| PlanKey::new(id, version)),
                period: row.period.zip(row.period_start),
                account: Account {
                    limit: row.limit_amount,
                    settled: row.settled,
                    reserved: row.reserved,
                    overrun: row.overrun,
                },
            })
            .collect())
    }

    /// What attempts of token plans reserved or spent since a moment: what token windows are rebuilt from.
    pub async fn token_usage(&self, since: DateTime<Utc>) -> Result<Vec<TokenUsage>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT r.plan_id, r.plan_version, r.step_index, r.attempt, r.action_amount, r.action_open,
                    r.reserved_at, s.tenant, s.connector, s.action, a.cost
             FROM budget_reservation r
             JOIN execution_plan p USING (plan_id, plan_version)
             JOIN execution_step s USING (plan_id, plan_version, step_index)
             JOIN step_attempt a USING (plan_id, plan_version, step_index, attempt)
             WHERE r.reserved_at >= $1 AND p.currency = 'token' AND s.kind = 'action' AND a.kind = 'action'"#,
            since,
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| TokenUsage {
                unit: UnitKey {
                    plan: PlanKey::new(row.plan_id, row.plan_version),
                    kind: UnitKind::Action,
                    index: row.step_index,
                },
                attempt: row.attempt,
                tenant: row.tenant,
                connector: row.connector,
                action: row.action,
                reserved_at: row.reserved_at,
                amount: if row.action_open { row.action_amount } else { row.cost },
                settled: !row.action_open,
            })
            .collect())
    }

    /// The limits that are set.
    pub async fn limits(&self) -> Result<Vec<TenantLimit>, StoreError> {
        Ok(sqlx::query_as!(
            TenantLimit,
            "SELECT tenant, currency, period, amount FROM budget_limit ORDER BY tenant, currency, period"
        )
        .fetch_all(self.pool())
        .await?)
    }
}
