//! What commands share: the settings, the time, randomness, and the ways to the servers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use dat_guards::{Lifetimes, LivePlans, RuntimeStore};
use dat_plan::clock::{SeededEntropy, SystemClock};
use dat_plan::{Clock as _, Entropy as _};
use dat_store::{Store, StoreError};
use dat_topology::Topology;
use uuid::Uuid;

use crate::cli::failure::Failure;
use crate::settings::{Flags, Settings};
use crate::trace;

/// A command does one thing after another; the second connection is for what it looks up meanwhile.
const CONNECTIONS: u32 = 2;
/// How long Redis may take for one answer.
const REDIS_TIMEOUT: Duration = Duration::from_millis(500);

/// One run of a command. Servers are reached when they are first asked for.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) settings: Settings,
    clock: SystemClock,
    entropy: SeededEntropy,
}

impl Session {
    /// Reads the settings.
    pub(crate) fn open(flags: &Flags) -> Result<Self, Failure> {
        Ok(Self { settings: Settings::load(flags)?, clock: SystemClock, entropy: SeededEntropy::from_os() })
    }

    /// Now.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// A new id.
    pub(crate) fn id(&self) -> Uuid {
        self.entropy.id()
    }

    /// A new trace: what this command causes can be found by it.
    pub(crate) fn traceparent(&self) -> String {
        trace::context(None, &self.entropy)
    }

    /// The names on the broker.
    pub(crate) fn topology(&self) -> Topology {
        Topology::new(self.settings.namespace.as_deref())
    }

    /// PostgreSQL, whether it answers or not.
    pub(crate) fn distant_store(&self) -> Result<Store, Failure> {
        Store::new(&self.settings.database_url, CONNECTIONS, "dat").map_err(|error| {
            let reason = cause(&error);
            Failure::Usage(format!(
                "DATABASE_URL is not an address like postgres://user:password@host:5432/database: {reason}"
            ))
        })
    }

    /// PostgreSQL, answering and migrated.
    pub(crate) async fn store(&self) -> Result<Store, Failure> {
        let store = self.distant_store()?;
        match store.check().await {
            Ok(()) => Ok(store),
            Err(error) => Err(self.no_store(&error)),
        }
    }

    /// Why the database is of no use, and what to do.
    pub(crate) fn no_store(&self, error: &StoreError) -> Failure {
        let address = without_login(&self.settings.database_url);
        match error {
            StoreError::Unavailable(_) if error.denied().is_some() => Failure::Failed(format!(
                "PostgreSQL at {address}: the login may not do this ({})",
                error.denied().unwrap_or_default()
            )),
            StoreError::Unavailable(_) => Failure::Failed(format!(
                "PostgreSQL at {address} cannot be used ({}): check that it runs ('make up' starts a local stack), \
                 and DATABASE_URL or --database-url",
                cause(error)
            )),
            StoreError::Corrupt(what) => Failure::Failed(format!("PostgreSQL at {address}: {what}")),
            StoreError::Data(_) => Failure::Failed(format!("PostgreSQL at {address}: {error}")),
        }
    }

    /// The live plans in Redis, whether it answers or not.
    pub(crate) fn live_plans(&self) -> Result<LivePlans, Failure> {
        let store = RuntimeStore::connect(
            &self.settings.redis_url,
            self.settings.redis_namespace(),
            REDIS_TIMEOUT,
        )
        .map_err(|error| Failure::Usage(format!("REDIS_URL or DAT_NAMESPACE cannot be used: {error}")))?;
        Ok(LivePlans::new(store, Lifetimes::default()))
    }
}

/// What is under an error of the store, without the words that say where it came from.
fn cause(error: &StoreError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// A server's address as it may be shown: without user, password and options.
pub(crate) fn without_login(url: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    // A password may hold an `@` of its own.
    rest.rsplit_once('@').map_or(rest, |(_, address)| address).to_owned()
}

#[cfg(test)]
mod tests {
    use super::without_login;

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        assert_eq!(without_login("postgres://dat:p@ss@db:5432/dat?password=x"), "db:5432/dat");
        assert_eq!(without_login("redis://localhost:6379/0"), "localhost:6379/0");
        assert_eq!(without_login("nonsense"), "nonsense");
    }
}
