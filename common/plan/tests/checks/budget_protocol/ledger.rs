//! The ledger of the model: what `common/store/src/account` does to an account, its reservations and its entries.

use dat_plan::StepState;

use super::Variant;
use super::world::{ACTION, Finding, Reservation, UNDO, World};

impl World {
    /// What a claim of the step must reserve: an earlier attempt may hold the undo's part already.
    pub(super) fn need(&self, step: usize) -> i64 {
        let holds_undo = self.steps[step].reservations.iter().any(|r| r.undo_open);
        ACTION + if holds_undo { 0 } else { UNDO }
    }

    /// What is held for undos.
    pub(super) fn held_for_undos(&self) -> i64 {
        self.steps.iter().flat_map(|s| &s.reservations).filter(|r| r.undo_open).map(|r| r.undo).sum()
    }

    /// The account's row was written: whoever waits for room may ask again.
    pub(super) fn account_changed(&mut self) {
        for step in &mut self.steps {
            step.row.waits = false;
        }
    }

    /// Takes room for the step's next attempt.
    pub(super) fn reserve(&mut self, step: usize) {
        let need = self.need(step);
        let undo = need - ACTION;
        self.account.reserve(need);
        self.entries.reserved += need;
        self.steps[step].reservations.push(Reservation { action_open: true, undo_open: undo > 0, undo });
        self.account_changed();
    }

    /// Closes the action's part of an attempt by what it spent.
    pub(super) fn settle_action(&mut self, step: usize, attempt: usize, spent: i64, variant: Variant) {
        let reservation = &mut self.steps[step].reservations[attempt];
        let asked = !matches!(variant, Variant::SettleRepeats | Variant::CloseRepeats);
        if asked && !reservation.action_open {
            return; // settled before: idempotent by step and attempt
        }
        reservation.action_open = false;
        self.account.settle(ACTION, spent);
        self.incurred(step, spent);
        self.entries.reserved -= (ACTION - spent).max(0);
        self.account_changed();
    }

    /// Charges what an undo spent to the room held for it; what was not held is an overrun.
    pub(super) fn settle_undo(&mut self, step: usize, spent: i64) {
        let holding = self.steps[step].reservations.iter_mut().find(|r| r.undo_open);
        let held = holding.map_or(0, |reservation| {
            let held = reservation.undo.min(spent);
            reservation.undo -= held;
            held
        });
        self.account.settle(held, spent);
        self.incurred(step, spent);
        self.account_changed();
    }

    /// Gives back what an attempt holds for the undo of its step.
    pub(super) fn release_undo_of(&mut self, step: usize, attempt: usize) {
        let reservation = &mut self.steps[step].reservations[attempt];
        if reservation.undo_open {
            reservation.undo_open = false;
            let rest = std::mem::take(&mut reservation.undo);
            self.account.release(rest);
            self.entries.reserved -= rest;
            self.account_changed();
        }
    }

    /// Gives back what is held for the undo of a step.
    pub(super) fn release_undo(&mut self, step: usize) {
        for attempt in 0..self.steps[step].reservations.len() {
            self.release_undo_of(step, attempt);
        }
    }

    /// Money came back.
    pub(super) fn refund(&mut self, amount: i64) {
        self.account.refund(amount);
        self.entries.refunded += amount;
        self.account_changed();
    }

    /// Gives back what is still open of a plan that ends.
    pub(super) fn close(&mut self, variant: Variant) {
        for step in 0..self.steps.len() {
            for attempt in 0..self.steps[step].reservations.len() {
                let reservation = self.steps[step].reservations[attempt];
                if reservation.action_open || reservation.undo_open {
                    self.settle_action(step, attempt, 0, variant);
                    self.release_undo(step);
                }
            }
        }
    }

    fn incurred(&mut self, step: usize, spent: i64) {
        self.entries.incurred += spent;
        self.steps[step].incurred += spent;
    }
}

impl Finding {
    /// What it makes of its step.
    pub(super) const fn state(self) -> StepState {
        match self {
            Self::Done(_) => StepState::Completed,
            Self::Unanswered => StepState::Unknown,
            Self::Error(_) | Self::Refused | Self::NotSent | Self::Sealed => StepState::Failed,
        }
    }

    /// What the attempt cost.
    pub(super) const fn cost(self) -> i64 {
        match self {
            Self::Done(cost) | Self::Error(cost) => cost,
            Self::Refused | Self::NotSent | Self::Unanswered | Self::Sealed => 0,
        }
    }
}
