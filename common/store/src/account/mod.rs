//! Budget accounts, reservations and the ledger: the last word on what may be spent.
//!
//! A [`Ledger`] is opened in a transaction after the plans are locked; it locks the accounts in id order, changes
//! them by the pure arithmetic of `dat_plan::budget`, and is written once at the transaction's end.

mod rows;
mod snapshot;
mod tenant;
mod view;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dat_plan::budget::Account;
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::{PlanKey, UnitKey, UnitKind};

pub(crate) use tenant::{held_accounts, tenant_accounts};
pub use view::{AccountView, TenantLimit, TokenUsage};

use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::plan_row::LockedPlan;

#[derive(Debug, Clone)]
struct Row {
    view: AccountView,
    /// What it held when it was locked, or last written.
    before: Account,
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
    /// How much of a spend had been reserved.
    held: i64,
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

    /// Notes that a locked account has another limit, which was written.
    pub(crate) fn relimit(&mut self, id: i64, limit: i64) {
        if let Some(row) = self.accounts.get_mut(&id) {
            row.view.account.limit = limit;
            row.view.version += 1;
        }
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
        self.enter(plan, unit, step.1, attempt, EventKind::SpendReserved, "action", (action, 0), &accounts)?;
        self.enter(plan, unit, step.1, attempt, EventKind::SpendReserved, "undo", (undo, 0), &accounts)?;
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
        self.enter(
            plan,
            unit,
            step.1,
            attempt,
            EventKind::SpendIncurred,
            "action",
            (spent, held.min(spent)),
            &accounts,
        )?;
        let rest = (held - spent).max(0);
        self.enter(plan, unit, step.1, attempt, EventKind::SpendReleased, "action", (rest, 0), &accounts)?;
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
        self.enter(plan, unit, step.1, attempt, EventKind::SpendIncurred, "undo", (spent, held), &accounts)?;
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
        self.enter(plan, unit, step.1, attempt, EventKind::SpendReleased, "undo", (rest, 0), &accounts)
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
        self.enter(plan, unit, step, attempt, EventKind::RefundIssued, part, (amount, 0), &accounts)
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
        (amount, held): (i64, i64),
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
            held,
            tenant: plan.tenant.clone(),
            currency: plan.currency.clone(),
            accounts: accounts.to_vec(),
        });
        Ok(())
    }
}
