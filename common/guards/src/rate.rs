//! Rates: a limit is a schedule, and who must wait is given a slot in it.
//!
//! GCRA, the generic cell rate algorithm (ITU-T I.371), in one Lua call for a batch, by the server's clock. A slot is
//! the emission time itself: the schedule has moved on past it, and a step that comes back at its slot does not ask
//! again ([`slot_is_valid`]). One request asks one limit: where several apply, ask the narrowest first and the next when
//! its turn has come; a slot far ahead in the one must not hold up everybody in the other.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use redis::Script;

use crate::redis::{RedisAway, RuntimeStore};

/// So many calls in so long, and at most so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// The emission interval, in microseconds, 1 to 86,400,000,000 (a day).
    interval_us: i64,
    burst: u32,
}

/// A limit that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLimit {
    /// No calls, no time, or more than one call a microsecond or less than one a day.
    #[error("{count} calls in {period:?} is no rate: set one between a call a day and a call a microsecond")]
    Rate {
        /// The calls asked for.
        count: u32,
        /// In how long.
        period: Duration,
    },
    /// A burst that never passes anything, or takes longer than a day to fill.
    #[error("a burst of {0} cannot be kept: set it to at least 1 and to at most what passes in a day")]
    Burst(u32),
}

const DAY_US: i64 = 86_400_000_000;

impl RateLimit {
    /// `count` calls in `period`, evenly, and up to `burst` at once after a quiet time.
    ///
    /// The interval is rounded up to a microsecond: the rate is never above what is asked for.
    pub fn new(count: u32, period: Duration, burst: u32) -> Result<Self, BadLimit> {
        let bad_rate = BadLimit::Rate { count, period };
        let interval = match u128::from(count) {
            0 => return Err(bad_rate),
            count => period.as_micros().div_ceil(count),
        };
        // Less than a microsecond a call would be rounded up to one, and so allow less than is asked for.
        if period.as_micros() < u128::from(count) {
            return Err(bad_rate);
        }
        let interval_us =
            i64::try_from(interval).ok().filter(|us| (1..=DAY_US).contains(us)).ok_or(bad_rate)?;
        if burst == 0 || i64::from(burst).saturating_mul(interval_us) > DAY_US.max(interval_us) {
            return Err(BadLimit::Burst(burst));
        }
        Ok(Self { interval_us, burst })
    }

    /// The time between two calls at the full rate.
    #[must_use]
    pub const fn interval(&self) -> TimeDelta {
        TimeDelta::microseconds(self.interval_us)
    }

    /// The most calls at once, at least 1.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// How long after its time a slot may still be used: one emission interval, for each call that may come at once.
    ///
    /// So a pause ends in one burst at most. A fast limit needs a burst that covers how late claims come: at 100 calls a
    /// second and a burst of 1, a slot would be void after 10 ms, and whoever missed it at the end of the queue again.
    #[must_use]
    pub fn lateness(&self) -> TimeDelta {
        TimeDelta::microseconds(self.interval_us.saturating_mul(i64::from(self.burst)))
    }
}

/// Whether a slot serves a claim now: its time has come, and not passed by so much that a pause would end in a burst.
#[must_use]
pub fn slot_is_valid(slot: DateTime<Utc>, now: DateTime<Utc>, limit: &RateLimit) -> bool {
    slot <= now && now <= slot + limit.lateness()
}

/// One request for a turn.
#[derive(Debug, Clone)]
pub struct RateRequest<'a> {
    /// Who asks; all keys of a tenant lie in one slot of a cluster.
    pub tenant: &'a str,
    /// What is limited: any text, such as `mux/ads.promotion.enable`.
    pub name: &'a str,
    /// This asking: the same id gets the same turn until it is void. Step and attempt, for a step.
    pub request: &'a str,
    /// The limit.
    pub limit: RateLimit,
}

/// What a request is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Go now.
    Granted,
    /// Come back then, and go without asking ([`slot_is_valid`]); it is yours.
    Slot(DateTime<Utc>),
    /// Nothing is free within the horizon, and nothing was taken: ask again then.
    AskAgain(DateTime<Utc>),
}

/// Schedules of the whole fleet, in Redis.
#[derive(Debug, Clone)]
pub struct RateSchedule {
    store: RuntimeStore,
    horizon: Duration,
    script: Script,
}

impl RateSchedule {
    /// Schedules that hand out slots at most `horizon` ahead (at most a day).
    #[must_use]
    pub fn new(store: RuntimeStore, horizon: Duration) -> Self {
        let horizon = horizon.min(Duration::from_hours(24));
        Self { store, horizon, script: Script::new(include_str!("lua/rate.lua")) }
    }

    /// Asks for a batch in one round trip; answers in the order of the requests, which is the order they are served in.
    pub async fn ask(&self, requests: &[RateRequest<'_>]) -> Result<Vec<Turn>, RedisAway> {
        if requests.is_empty() {
            return Ok(vec![]);
        }
        let mut call = self.script.prepare_invoke();
        call.arg(u64::try_from(self.horizon.as_micros()).unwrap_or(u64::MAX));
        for RateRequest { tenant, name, request, limit } in requests {
            call.key(self.store.key(&format!("rate:{{{tenant}}}:{name:?}")));
            call.key(self.store.key(&format!("turn:{{{tenant}}}:{name:?}:{request}")));
            call.arg(limit.interval_us).arg(limit.burst);
        }
        let turns: Vec<(u8, i64)> = self.store.run(&call).await?;
        turns.into_iter().map(turn).collect()
    }
}

fn turn((kind, us): (u8, i64)) -> Result<Turn, RedisAway> {
    let at = DateTime::from_timestamp_micros(us);
    match (kind, at) {
        (1, _) => Ok(Turn::Granted),
        (2, Some(at)) => Ok(Turn::Slot(at)),
        (3, Some(at)) => Ok(Turn::AskAgain(at)),
        _ => Err(RedisAway { reason: format!("its answer ({kind}, {us}) is none of the rate script's") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(count: u32, ms: u64, burst: u32) -> Result<RateLimit, BadLimit> {
        RateLimit::new(count, Duration::from_millis(ms), burst)
    }

    #[test]
    fn a_limit_that_cannot_be_kept_is_refused() {
        assert_eq!(limit(3, 1_000, 1).unwrap().interval(), TimeDelta::microseconds(333_334));
        for (count, ms) in [(0, 1_000), (1, 0), (2_000_000, 1_000), (1, 86_400_001)] {
            assert!(matches!(limit(count, ms, 1), Err(BadLimit::Rate { .. })), "{count} in {ms}");
        }
        assert_eq!(limit(1, 1_000, 0), Err(BadLimit::Burst(0)));
        assert_eq!(limit(1, 1_000, 86_401), Err(BadLimit::Burst(86_401)));
        assert!(limit(1, 86_400_000, 1).is_ok());
    }

    #[test]
    fn a_slot_is_void_when_as_much_as_a_burst_has_passed() {
        let limit = limit(10, 1_000, 3).unwrap();
        let slot = DateTime::UNIX_EPOCH;
        let valid = |ms| slot_is_valid(slot, slot + TimeDelta::milliseconds(ms), &limit);
        assert_eq!([0, 300, 301].map(valid), [true, true, false]);
    }

    #[test]
    fn a_slot_serves_from_its_time_until_an_interval_after() {
        let limit = limit(10, 1_000, 1).unwrap();
        let slot = DateTime::UNIX_EPOCH;
        let valid = |ms| slot_is_valid(slot, slot + TimeDelta::milliseconds(ms), &limit);
        assert_eq!([-1, 0, 100, 101].map(valid), [false, true, true, false]);
    }
}
