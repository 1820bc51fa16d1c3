//! Circuit breakers: a connector whose outside system is ill is left alone by the whole fleet for a while, and then tried
//! by one request alone.
//!
//! The state is in Redis, by the server's clock: closed, open until a moment, or (once that has come) half-open, with one
//! request that tries. Its success closes the breaker, its failure opens it again. Who tries holds the trial for a bounded
//! time, so that a worker that dies with it does not keep the breaker open. Losing Redis closes every breaker: it is there
//! to spare the outside system, not to keep a promise.

use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::Script;

use crate::redis::{RedisAway, RuntimeStore};

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerRule {
    failures: u32,
    window: Duration,
    pause: Duration,
}

/// A breaker that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBreaker {
    /// None or too many to count.
    #[error("{0} failures open no breaker: set 1 to 10,000")]
    Failures(u32),
    /// No time, or too much.
    #[error("{0:?} is no time for a breaker: set 10 ms to an hour")]
    Time(Duration),
}

impl BreakerRule {
    /// Opens after so many failures (1 to 10,000) within `window`, for `pause` (10 ms to an hour each).
    pub fn new(failures: u32, window: Duration, pause: Duration) -> Result<Self, BadBreaker> {
        if !(1..=10_000).contains(&failures) {
            return Err(BadBreaker::Failures(failures));
        }
        for time in [window, pause] {
            if time < Duration::from_millis(10) || time > Duration::from_hours(1) {
                return Err(BadBreaker::Time(time));
            }
        }
        Ok(Self { failures, window, pause })
    }
}

/// A request that would go to a connector.
#[derive(Debug, Clone)]
pub struct BreakerRequest<'a> {
    /// Where to.
    pub connector: &'a str,
    /// This request: unit and attempt.
    pub request: &'a str,
    /// How long it may take at most until it is reported: so long its trial is believed.
    pub lifetime: Duration,
    /// The connector's rule.
    pub rule: BreakerRule,
}

/// What a breaker says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Closed: go.
    Closed,
    /// Half-open: go, as the one that tries. What comes of it must be reported.
    Trial,
    /// Open until then.
    Open(DateTime<Utc>),
    /// Half-open, and another tries: ask again then.
    Tried(DateTime<Utc>),
}

/// How a request ended, as far as the outside system's health is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answered.
    Well,
    /// It did not, or said itself that it is ill.
    Ill,
    /// It was not asked after all.
    Unasked,
}

/// What a report did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// Nothing.
    No,
    /// The breaker opened, or opened again.
    Opened,
    /// It closed.
    Closed,
}

/// The breakers of the whole fleet, in Redis.
#[derive(Debug, Clone)]
pub struct Breakers {
    store: RuntimeStore,
    who: String,
    ask: Script,
    report: Script,
}

impl Breakers {
    /// Breakers as one worker, by its name, sees them.
    #[must_use]
    pub fn new(store: RuntimeStore, who: &str) -> Self {
        Self {
            store,
            who: who.to_owned(),
            ask: Script::new(include_str!("lua/breaker_ask.lua")),
            report: Script::new(include_str!("lua/breaker_report.lua")),
        }
    }

    /// Asks for a batch in one round trip; answers in the order of the requests.
    pub async fn ask(&self, requests: &[BreakerRequest<'_>]) -> Result<Vec<Passage>, RedisAway> {
        if requests.is_empty() {
            return Ok(vec![]);
        }
        let mut call = self.ask.prepare_invoke();
        call.arg(&self.who);
        for request in requests {
            // Those that wait for a trial look often enough to lose little once it succeeds.
            let look = (request.rule.pause / 4).max(Duration::from_millis(50));
            call.key(self.key(request.connector));
            call.arg(request.request).arg(millis(request.lifetime)).arg(millis(look));
        }
        let said: Vec<(u8, i64)> = self.store.run(&call).await?;
        said.into_iter().map(passage).collect()
    }

    /// Tells a breaker how a request ended; a repeat changes nothing.
    pub async fn report(&self, request: &BreakerRequest<'_>, health: Health) -> Result<Moved, RedisAway> {
        let mut call = self.report.prepare_invoke();
        let key = self.key(request.connector);
        let failures = format!("{key}:failures");
        call.key(key).key(failures).arg(&self.who).arg(request.request);
        call.arg(match health {
            Health::Ill => 1,
            Health::Well => 0,
            Health::Unasked => -1,
        });
        let BreakerRule { failures, window, pause } = request.rule;
        call.arg(failures).arg(millis(window)).arg(millis(pause));
        match self.store.run::<u8>(&call).await? {
            1 => Ok(Moved::Opened),
            2 => Ok(Moved::Closed),
            _ => Ok(Moved::No),
        }
    }

    fn key(&self, connector: &str) -> String {
        self.store.key(&format!("breaker:{{{connector}}}"))
    }
}

fn passage((kind, ms): (u8, i64)) -> Result<Passage, RedisAway> {
    match (kind, DateTime::from_timestamp_millis(ms)) {
        (1, _) => Ok(Passage::Closed),
        (2, _) => Ok(Passage::Trial),
        (3, Some(at)) => Ok(Passage::Open(at)),
        (4, Some(at)) => Ok(Passage::Tried(at)),
        _ => Err(RedisAway { reason: format!("its answer ({kind}, {ms}) is none of the breaker's") }),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
