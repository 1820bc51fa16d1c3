//! Copies of accounts: what cannot be afforded is put off before the database is asked.
//!
//! A copy only postpones, and lives for a second: only PostgreSQL refuses, and a stale copy delays nothing for longer.
//! `watch` and the console read it too, without loading the database.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::redis::{RedisAway, RuntimeStore};
use crate::versioned::{Copied, Versioned};

/// How long a copy lives.
pub const COPY_LIFETIME: Duration = Duration::from_secs(1);

/// An account as it was when its row had this version; amounts in the smallest unit of its currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountCopy {
    /// The account's id.
    pub account: String,
    /// The version of its row, which every change raises.
    pub version: i64,
    /// The most it may spend.
    pub limit: i64,
    /// Settled, net of refunds.
    pub settled: i64,
    /// Held by reservations.
    pub reserved: i64,
}

/// Whether an amount fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affordable {
    /// At every account, as far as the copies tell: ask the database.
    Yes,
    /// Not at some account: put it off for [`COPY_LIFETIME`].
    No,
    /// Not every account has a copy: ask the database.
    Unknown,
}

/// Copies of the fleet's accounts, in Redis.
#[derive(Debug, Clone)]
pub struct AccountCopies(Versioned);

impl AccountCopies {
    /// Copies in a store.
    #[must_use]
    pub fn new(store: RuntimeStore) -> Self {
        Self(Versioned::new(store))
    }

    /// Keeps copies in one round trip, each only if its version is newer than the one there.
    pub async fn put_all(&self, copies: &[AccountCopy]) -> Result<(), RedisAway> {
        let values = copies.iter().map(|copy| Copied {
            key: key(&copy.account),
            version: copy.version,
            lifetime: COPY_LIFETIME,
            value: copy,
        });
        self.0.put(values).await.map(|_| ())
    }

    /// Reads copies in one round trip; `None` where there is none.
    pub async fn get(&self, accounts: &[&str]) -> Result<Vec<Option<AccountCopy>>, RedisAway> {
        let keys: Vec<String> = accounts.iter().map(|account| key(account)).collect();
        self.0.get(&keys).await
    }

    /// Removes copies that are of no row, in one round trip; the next change of the account, or the next look, puts the
    /// right one.
    pub async fn remove(&self, accounts: &[&str]) -> Result<(), RedisAway> {
        let keys: Vec<String> = accounts.iter().map(|account| key(account)).collect();
        self.0.remove(&keys).await
    }

    /// Whether an amount fits at every one of the accounts.
    pub async fn affordable(&self, accounts: &[&str], amount: i64) -> Result<Affordable, RedisAway> {
        Ok(fits(&self.get(accounts).await?, amount))
    }
}

/// Whether an amount fits, by copies read before: one reading serves a batch.
#[must_use]
pub fn fits(copies: &[Option<AccountCopy>], amount: i64) -> Affordable {
    let over =
        |copy: &AccountCopy| copy.settled.saturating_add(copy.reserved).saturating_add(amount) > copy.limit;
    if copies.iter().flatten().any(over) {
        Affordable::No
    } else if copies.iter().any(Option::is_none) {
        Affordable::Unknown
    } else {
        Affordable::Yes
    }
}

/// Whether a copy can be of a row that was read *after* it: not newer than the row, and the same where it is of the
/// same version.
#[must_use]
pub fn can_be_of(copy: &AccountCopy, row: &AccountCopy) -> bool {
    copy.version < row.version || copy == row
}

fn key(account: &str) -> String {
    format!("account:{account}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_account_that_is_known_to_be_short_decides() {
        let copy = |limit| {
            Some(AccountCopy { account: "a".to_owned(), version: 1, limit, settled: 60, reserved: 30 })
        };
        assert_eq!(fits(&[copy(100), copy(200)], 10), Affordable::Yes);
        assert_eq!(fits(&[copy(100), copy(200)], 11), Affordable::No);
        assert_eq!(fits(&[None, copy(99)], 10), Affordable::No);
        assert_eq!(fits(&[None, copy(100)], 10), Affordable::Unknown);
        assert_eq!(fits(&[copy(i64::MAX)], i64::MAX), Affordable::Yes);
    }
}
