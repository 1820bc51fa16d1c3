//! Rates: a limit is a schedule, and who must wait is given a turn in it.
//!
//! GCRA, the generic cell rate algorithm (ITU-T I.371), in one Lua call for a batch, by the server's clock. Turns are an
//! interval apart, and each is used at its time or a little later ([`slot_is_valid`]): half of the burst is for turns that
//! lie in the past when they are taken, or are used late; the other half is left for the way to the connector, which takes
//! one request longer than the next. So in no time *t* does the connector see more than `t / interval + burst`, as long as
//! requests do not overtake each other by more than half of what the burst takes.
//!
//! Where several limits apply, a turn is one moment that all of them admit, so that a step that the one holds up uses up
//! nothing of the others. A turn that is not used can be given back. A connector that answers "later" pushes the turns of
//! its lane; where Redis is lost, only that politeness is lost with it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use redis::{Script, ScriptInvocation};

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

    /// The same rate with a burst of at least 2: turns that are used late come closer together than an interval.
    #[must_use]
    pub const fn at_least_two(self) -> Self {
        Self { burst: if self.burst < 2 { 2 } else { self.burst }, ..self }
    }

    /// How long after its time a turn may still be used: half of what a burst takes at the full rate.
    ///
    /// A fast limit needs a burst that covers how late claims come: at 100 calls a second and a burst of 1, a turn would
    /// be void after 5 ms, and whoever missed it at the end of the queue again.
    #[must_use]
    pub fn lateness(&self) -> TimeDelta {
        TimeDelta::microseconds(self.interval_us.saturating_mul(i64::from(self.burst)) / 2)
    }
}

/// Whether a slot serves a claim now: its time has come, and not passed by so much that a pause would end in a burst.
#[must_use]
pub fn slot_is_valid(slot: DateTime<Utc>, now: DateTime<Utc>, limit: &RateLimit) -> bool {
    slot <= now && now <= slot + limit.lateness()
}

/// How the name of a limit begins that tenants share, or whose name itself says whose it is: its schedule is one for all.
pub const SHARED: &str = "shared:";

/// One request for a turn.
#[derive(Debug, Clone)]
pub struct RateRequest<'a> {
    /// Who asks; all keys of a tenant lie in one slot of a cluster.
    pub tenant: &'a str,
    /// What its connector may have asked to leave alone: any text, such as `mux/ads.promotion.enable`.
    pub lane: &'a str,
    /// This asking: the same id gets the same turn until it is void. Step and attempt, for a step.
    pub request: &'a str,
    /// Every limit that must admit it, by what is limited: any text, such as `mux/*`. None: only the lane is asked.
    pub limits: &'a [(String, RateLimit)],
}

/// What a request is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Go now.
    Granted,
    /// Come back then, and go without asking ([`slot_is_valid`]); it is yours.
    Slot(DateTime<Utc>),
    /// Nothing is free within the horizon, or the lane is to be left alone, and nothing was taken: ask again then.
    AskAgain(DateTime<Utc>),
}

/// Schedules of the whole fleet, in Redis.
#[derive(Debug, Clone)]
pub struct RateSchedule {
    store: RuntimeStore,
    horizon: Duration,
    ask: Script,
    give_back: Script,
    later: Script,
}

impl RateSchedule {
    /// Schedules that hand out turns at most `horizon` ahead (at most a day).
    #[must_use]
    pub fn new(store: RuntimeStore, horizon: Duration) -> Self {
        Self {
            store,
            horizon: horizon.min(Duration::from_hours(24)),
            ask: Script::new(include_str!("lua/rate.lua")),
            give_back: Script::new(include_str!("lua/rate_give_back.lua")),
            later: Script::new(include_str!("lua/rate_later.lua")),
        }
    }

    /// Asks for a batch in one round trip; answers in the order of the requests, which is the order they are served in.
    pub async fn ask(&self, requests: &[RateRequest<'_>]) -> Result<Vec<Turn>, RedisAway> {
        if requests.is_empty() {
            return Ok(vec![]);
        }
        let mut call = self.ask.prepare_invoke();
        call.arg(u64::try_from(self.horizon.as_micros()).unwrap_or(u64::MAX));
        for request in requests {
            call.key(self.turn_key(request)).key(self.lane_key(request.tenant, request.lane));
            self.limits(&mut call, request);
        }
        let turns: Vec<(u8, i64)> = self.store.run(&call).await?;
        turns.into_iter().map(turn).collect()
    }

    /// Gives back the turns that these requests were granted and did not use: others may have them. Gives how many
    /// there were; a request that holds none changes nothing.
    pub async fn give_back(&self, requests: &[RateRequest<'_>]) -> Result<u64, RedisAway> {
        if requests.is_empty() {
            return Ok(0);
        }
        let mut call = self.give_back.prepare_invoke();
        for request in requests {
            call.key(self.turn_key(request));
            self.limits(&mut call, request);
        }
        self.store.run(&call).await
    }

    /// Leaves a tenant's lane alone for so long, or for as long as was asked before if that is longer.
    pub async fn later(&self, tenant: &str, lane: &str, wait: Duration) -> Result<(), RedisAway> {
        let mut call = self.later.prepare_invoke();
        call.key(self.lane_key(tenant, lane)).arg(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
        let _: u8 = self.store.run(&call).await?;
        Ok(())
    }

    fn limits(&self, call: &mut ScriptInvocation<'_>, request: &RateRequest<'_>) {
        call.arg(request.limits.len());
        for (name, limit) in request.limits {
            let whose = if name.starts_with(SHARED) { "*" } else { request.tenant };
            let schedule = self.store.key(&format!("rate:{{{whose}}}:{name:?}"));
            let gaps = format!("{schedule}:gaps");
            call.key(schedule).key(gaps).arg(limit.interval_us).arg(limit.burst);
        }
    }

    fn turn_key(&self, request: &RateRequest<'_>) -> String {
        self.store.key(&format!("turn:{{{}}}:{}", request.tenant, request.request))
    }

    fn lane_key(&self, tenant: &str, lane: &str) -> String {
        self.store.key(&format!("later:{{{tenant}}}:{lane:?}"))
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
    fn a_turn_serves_from_its_time_until_half_of_a_burst_has_passed() {
        for (burst, last) in [(1, 50), (3, 150), (10, 500)] {
            let limit = limit(10, 1_000, burst).unwrap();
            let slot = DateTime::UNIX_EPOCH;
            let valid = |ms| slot_is_valid(slot, slot + TimeDelta::milliseconds(ms), &limit);
            assert_eq!([-1, 0, last, last + 1].map(valid), [false, true, true, false], "burst {burst}");
        }
    }
}
