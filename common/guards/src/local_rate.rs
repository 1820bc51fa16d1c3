//! Rates of one process: what is kept while Redis is away.
//!
//! Rates may fail open, but not wide open. Each process then keeps the whole limit by itself: how many processes there
//! are is not known here, so a fleet of n may reach n times the rate until Redis is back.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::rate::{RateLimit, Turn};

type Limiter = RateLimiter<String, DashMapStateStore<String>, Told, NoOpMiddleware<Nanos>>;

/// The latest moment that was told: time is a parameter here too.
#[derive(Debug, Clone, Default)]
struct Told(Arc<AtomicU64>);

impl Told {
    /// The latest moment told so far: time told does not go back.
    fn tell(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let micros = u64::try_from(now.timestamp_micros()).unwrap_or_default();
        let before = self.0.fetch_max(micros, Ordering::Relaxed);
        i64::try_from(before)
            .ok()
            .and_then(DateTime::from_timestamp_micros)
            .map_or(now, |before| now.max(before))
    }
}

impl Clock for Told {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Duration::from_micros(self.0.load(Ordering::Relaxed)).into()
    }
}

/// Limiters of this process, one for each limit, keyed like the schedules in Redis.
#[derive(Debug, Default)]
pub struct LocalRate {
    clock: Told,
    limiters: Mutex<HashMap<RateLimit, Arc<Limiter>>>,
}

impl LocalRate {
    /// Takes a turn now, or tells when to ask again; never a slot, since `governor` reserves nothing.
    #[must_use]
    pub fn ask(&self, now: DateTime<Utc>, tenant: &str, name: &str, limit: RateLimit) -> Turn {
        let now = self.clock.tell(now);
        let Some(limiter) = self.limiter(limit) else { return Turn::Granted };
        match limiter.check_key(&format!("{tenant}/{name}")) {
            Ok(()) => Turn::Granted,
            Err(early) => {
                let wait = early.wait_time_from(self.clock.now());
                Turn::AskAgain(now + TimeDelta::from_std(wait).unwrap_or(limit.interval()))
            }
        }
    }

    /// Forgets the keys that are at rest; call it every minute or so, `governor` keeps each for ever.
    pub fn retain_recent(&self) {
        let limiters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        for limiter in limiters.values() {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        let limiters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        limiters.values().map(|limiter| limiter.len()).sum()
    }

    /// Whether no key is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The limiter of a limit. A [`RateLimit`] always has one: its interval and burst are at least 1.
    fn limiter(&self, limit: RateLimit) -> Option<Arc<Limiter>> {
        let interval = limit.interval().to_std().unwrap_or(Duration::from_micros(1));
        let quota = Quota::with_period(interval)?.allow_burst(NonZeroU32::new(limit.burst())?);
        let mut limiters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        let limiter = limiters
            .entry(limit)
            .or_insert_with(|| Arc::new(RateLimiter::dashmap_with_clock(quota, self.clock.clone())));
        Some(Arc::clone(limiter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_keeps_the_limit_and_forgets_who_rests() {
        let local = LocalRate::default();
        let limit = RateLimit::new(10, Duration::from_secs(1), 2).unwrap();
        let at = |ms| DateTime::UNIX_EPOCH + TimeDelta::milliseconds(ms);
        let ask = |ms: i64, tenant| local.ask(at(1_000 + ms), tenant, "mux", limit);
        let later = |ms: i64| Turn::AskAgain(at(1_000 + ms));
        assert_eq!([ask(0, "a"), ask(0, "a"), ask(0, "a")], [Turn::Granted, Turn::Granted, later(100)]);
        assert_eq!(ask(0, "b"), Turn::Granted);
        assert_eq!([ask(100, "a"), ask(100, "a")], [Turn::Granted, later(200)]);
        assert_eq!(ask(50, "a"), later(200), "time told does not go back");
        assert_eq!(local.len(), 2);
        assert_eq!(ask(10_000, "c"), Turn::Granted);
        local.retain_recent();
        assert_eq!(local.len(), 1, "a and b rest");
    }
}
