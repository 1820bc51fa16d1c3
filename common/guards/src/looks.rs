//! Looks: what each worker of a fleet would look for every so often, one of them looks for.
//!
//! Twenty idle workers that each look twice a second ask the database forty times a second for nothing. Whoever comes first
//! takes the look for as long as it would pause anyway; the others let it be. Nothing depends on it: where Redis is away
//! every worker looks, and a worker that dies with a look delays the next by one pause.

use std::time::Duration;

use crate::redis::{RedisAway, RuntimeStore};

/// The looks of a fleet, in Redis.
#[derive(Debug, Clone)]
pub struct Looks {
    store: RuntimeStore,
}

impl Looks {
    /// Looks in a store.
    #[must_use]
    pub const fn new(store: RuntimeStore) -> Self {
        Self { store }
    }

    /// Whether the caller is to look now for what is looked for once in so long (1 ms to an hour).
    pub async fn mine(&self, what: &str, every: Duration) -> bool {
        let millis = every.clamp(Duration::from_millis(1), Duration::from_hours(1)).as_millis();
        let mut command = redis::cmd("SET");
        command.arg(self.store.key(&format!("look:{what}"))).arg(1).arg("NX").arg("PX");
        command.arg(u64::try_from(millis).unwrap_or(1));
        let taken: Result<Option<String>, RedisAway> = self.store.query(&command).await;
        taken.map_or(true, |taken| taken.is_some())
    }
}
