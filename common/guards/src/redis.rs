//! The runtime store: one connection to Redis that may be away at any time, and never holds anybody up.
//!
//! Every call has a deadline. After a failure, calls fail at once for a short while, so that a batch pays the deadline
//! once; then one call tries, and its success opens the way again. A script that timed out may have run: every script
//! of this crate is idempotent by the id it is given.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, FromRedisValue, Pipeline, ScriptInvocation};
use tokio::time::Instant;

/// How long calls fail at once after one has failed.
pub const PAUSE: Duration = Duration::from_millis(250);
/// The most calls in flight on the connection.
const CONCURRENCY: usize = 1_024;

/// Redis did not answer in time, or answered with an error. Whoever asked goes on without it: rates by
/// [`crate::LocalRate`], windows not at all, copies and live plans from their rows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Redis is away ({reason}); check DAT_REDIS_URL and the server if this lasts")]
pub struct RedisAway {
    /// What was seen last.
    pub reason: String,
}

/// A setting with which no connection can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadStore {
    /// The URL is not one of Redis.
    #[error("not a Redis URL ({0}): write redis://[user:password@]host:port/database")]
    Url(String),
    /// The namespace would not keep this fleet's keys apart.
    #[error("'{0}' cannot be a namespace: use 1 to 100 characters of A-Z a-z 0-9 . _ -")]
    Namespace(String),
    /// No deadline to keep.
    #[error("the response timeout is {0:?}: set it to 1 ms to 10 s (500 ms is usual)")]
    Timeout(Duration),
}

/// A connection to Redis; clones share it.
#[derive(Debug, Clone)]
pub struct RuntimeStore {
    connection: Arc<Connection>,
    namespace: Arc<str>,
    timeout: Duration,
    circuit: Arc<Circuit>,
}

/// What a Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisDiagnosis {
    /// Its version, such as `7.0.15`.
    pub version: String,
    /// Its clock.
    pub clock: DateTime<Utc>,
    /// What it does when its memory is full: `maxmemory-policy`.
    pub eviction: String,
}

impl RuntimeStore {
    /// A store that connects at its first call, and again whenever the connection was lost. Asks nothing of the
    /// server, so that a start does not wait for it; must be called within a tokio runtime.
    ///
    /// `namespace` begins every key, so that fleets can share a server; `timeout` bounds every call.
    pub fn connect(url: &str, namespace: &str, timeout: Duration) -> Result<Self, BadStore> {
        let named = (1..=100).contains(&namespace.len())
            && namespace.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if !named {
            return Err(BadStore::Namespace(namespace.to_owned()));
        }
        if timeout < Duration::from_millis(1) || timeout > Duration::from_secs(10) {
            return Err(BadStore::Timeout(timeout));
        }
        let bad_url = |error: redis::RedisError| BadStore::Url(error.to_string());
        let client = Client::open(url).map_err(bad_url)?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(None)
            .set_concurrency_limit(CONCURRENCY);
        let connection = Connection::new(client, config).map_err(bad_url)?;
        Ok(Self {
            connection: Arc::new(connection),
            namespace: namespace.into(),
            timeout,
            circuit: Arc::new(Circuit::new()),
        })
    }

    /// Asks whether Redis is there.
    pub async fn ping(&self) -> Result<(), RedisAway> {
        self.query(&redis::cmd("PING")).await
    }

    /// What Redis is, for `dat doctor`.
    pub async fn diagnose(&self) -> Result<RedisDiagnosis, RedisAway> {
        let (seconds, micros): (i64, i64) = self.query(&redis::cmd("TIME")).await?;
        let server: String = self.query(redis::cmd("INFO").arg("server")).await?;
        let memory: String = self.query(redis::cmd("INFO").arg("memory")).await?;
        let field = |text: &str, name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            found.unwrap_or("unknown").trim().to_owned()
        };
        Ok(RedisDiagnosis {
            version: field(&server, "redis_version"),
            clock: DateTime::from_timestamp_micros(seconds * 1_000_000 + micros).unwrap_or_default(),
            eviction: field(&memory, "maxmemory_policy"),
        })
    }

    /// A key of this fleet.
    pub(crate) fn key(&self, rest: &str) -> String {
        format!("{}:{rest}", self.namespace)
    }

    /// Runs a script.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisAway> {
        let mut connection = self.connection.manager();
        self.guarded(script.invoke_async(&mut connection)).await
    }

    /// Runs a command.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisAway> {
        let mut connection = self.connection.manager();
        self.guarded(command.query_async(&mut connection)).await
    }

    /// Runs commands in one round trip.
    pub(crate) async fn pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, RedisAway> {
        let mut connection = self.connection.manager();
        self.guarded(commands.query_async(&mut connection)).await
    }

    async fn guarded<T>(&self, call: impl Future<Output = redis::RedisResult<T>>) -> Result<T, RedisAway> {
        if !self.circuit.admits(self.circuit.now(), self.timeout) {
            return Err(RedisAway {
                reason: format!("a call failed less than {} ms ago", PAUSE.as_millis()),
            });
        }
        let reason = match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(value)) => {
                self.circuit.close();
                return Ok(value);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                self.connection.renew();
                format!("no answer within {} ms", self.timeout.as_millis())
            }
        };
        if self.circuit.open(self.circuit.now()) {
            tracing::warn!(%reason, "Redis is away");
        }
        Err(RedisAway { reason })
    }
}

/// The connection in use.
///
/// The manager reconnects when a connection breaks, not when it goes silent, as it does when a host vanishes: TCP takes
/// a quarter of an hour to tell. A call without an answer therefore leaves its connection behind.
#[derive(Debug)]
struct Connection {
    client: Client,
    config: ConnectionManagerConfig,
    manager: RwLock<ConnectionManager>,
}

impl Connection {
    fn new(client: Client, config: ConnectionManagerConfig) -> redis::RedisResult<Self> {
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?;
        Ok(Self { client, config, manager: RwLock::new(manager) })
    }

    fn manager(&self) -> ConnectionManager {
        self.manager.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn renew(&self) {
        if let Ok(fresh) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone()) {
            *self.manager.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }
}

/// Whether calls go through, as a moment until which they do not.
#[derive(Debug)]
struct Circuit {
    start: Instant,
    /// Milliseconds after `start`; 0 where every call goes through.
    until: AtomicU64,
}

impl Circuit {
    fn new() -> Self {
        Self { start: Instant::now(), until: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }

    /// Whether a call may go `now`, in milliseconds after the start. Once the pause is over, one call goes and the others wait for what becomes of it; one
    /// that is dropped on its way counts as failed after its timeout.
    fn admits(&self, now: u64, timeout: Duration) -> bool {
        let until = self.until.load(Ordering::Acquire);
        if until == 0 {
            return true;
        }
        let next = now + millis(timeout) + 1;
        now >= until && self.until.compare_exchange(until, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Lets every call through.
    fn close(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Lets no call through for [`PAUSE`]; whether they went through before.
    fn open(&self, now: u64) -> bool {
        self.until.swap(now + millis(PAUSE), Ordering::AcqRel) == 0
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_one_call_tries_and_its_success_lets_all_through() {
        let (pause, timeout) = (millis(PAUSE), Duration::from_millis(500));
        let circuit = Circuit::new();
        assert!(circuit.admits(0, timeout));
        assert!(circuit.open(0), "it was closed before");
        assert!(!circuit.open(0), "it was open already");
        assert!(!circuit.admits(pause - 1, timeout));
        assert!(circuit.admits(pause, timeout), "one may try");
        assert!(!circuit.admits(pause, timeout), "the others wait");
        assert!(circuit.admits(pause + 501, timeout), "the first was dropped: another may try");
        circuit.close();
        assert!(circuit.admits(pause, timeout) && circuit.admits(pause, timeout));
    }

    #[tokio::test]
    async fn settings_that_cannot_work_are_refused() {
        let connect =
            |url, namespace, ms| RuntimeStore::connect(url, namespace, Duration::from_millis(ms)).err();
        assert!(matches!(connect("http://x", "dat", 500), Some(BadStore::Url(_))));
        assert!(matches!(connect("redis://127.0.0.1:1", "a:b", 500), Some(BadStore::Namespace(_))));
        assert!(matches!(connect("redis://127.0.0.1:1", "", 500), Some(BadStore::Namespace(_))));
        assert!(matches!(connect("redis://127.0.0.1:1", "dat", 0), Some(BadStore::Timeout(_))));
        assert!(connect("redis://127.0.0.1:1", "dat", 500).is_none());
    }
}
