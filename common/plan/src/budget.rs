//! The arithmetic of an account, pure: reserve, settle, release, refund.
//!
//! Invariant 3: settled + reserved ≤ limit, except by overruns that a connector reported, which are recorded and stop
//! new reservations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an account holds, in the smallest unit of its currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Account {
    /// The most that may be spent.
    pub limit: i64,
    /// Spent, net of refunds.
    pub settled: i64,
    /// Held by open reservations.
    pub reserved: i64,
    /// Spent beyond what was reserved, summed over all attempts.
    pub overrun: i64,
}

impl Account {
    /// An account that nothing was spent from.
    #[must_use]
    pub const fn new(limit: i64) -> Self {
        Self { limit, settled: 0, reserved: 0, overrun: 0 }
    }

    /// Whether so much more can be reserved.
    #[must_use]
    pub const fn fits(&self, amount: i64) -> bool {
        self.settled.saturating_add(self.reserved).saturating_add(amount) <= self.limit
    }

    /// How much is missing for a reservation; 0 where it fits.
    #[must_use]
    pub fn short_by(&self, amount: i64) -> i64 {
        (self.settled.saturating_add(self.reserved).saturating_add(amount) - self.limit).max(0)
    }

    /// Whether a plan's account can never hold the amount, whatever is still released: what is settled and what is
    /// held for undos stays.
    #[must_use]
    pub const fn never_fits(&self, held_for_undos: i64, amount: i64) -> bool {
        self.settled.saturating_add(held_for_undos).saturating_add(amount) > self.limit
    }

    /// Takes room. The caller has asked [`Account::fits`] under the account's lock.
    pub const fn reserve(&mut self, amount: i64) {
        self.reserved += amount;
    }

    /// Closes a held amount by what was spent. Gives the overrun, 0 where the held amount covered it.
    pub fn settle(&mut self, held: i64, spent: i64) -> i64 {
        let over = (spent - held).max(0);
        self.reserved -= held;
        self.settled += spent;
        self.overrun += over;
        over
    }

    /// Gives held room back.
    pub const fn release(&mut self, held: i64) {
        self.reserved -= held;
    }

    /// Money came back.
    pub const fn refund(&mut self, amount: i64) {
        self.settled -= amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_seen_before_it_is_reserved() {
        let mut account = Account::new(100);
        assert!(account.fits(100));
        account.reserve(60);
        assert!(account.fits(40));
        assert!(!account.fits(41));
        assert_eq!(account.short_by(41), 1);
        assert_eq!(account.settle(60, 50), 0);
        assert!(account.fits(50));
        account.refund(50);
        assert!(account.fits(100));
    }

    #[test]
    fn an_overrun_is_recorded_and_stops_new_reservations() {
        let mut account = Account::new(100);
        account.reserve(60);
        assert_eq!(account.settle(60, 130), 70);
        assert!(!account.fits(0) && account.overrun == 70);
    }

    #[test]
    fn a_refusal_is_final_only_when_nothing_that_can_be_released_would_help() {
        let account = Account { limit: 100, settled: 50, reserved: 40, overrun: 0 };
        assert!(!account.fits(20));
        assert!(!account.never_fits(10, 40));
        assert!(account.never_fits(10, 41));
    }
}
