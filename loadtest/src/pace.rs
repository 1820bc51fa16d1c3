//! When plans are submitted: by a clock that does not care about the fleet, or as plans end.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Serialize;

/// The rule by which plans are submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pace {
    /// Open loop: one plan each interval, however the fleet does.
    Every(#[serde(serialize_with = "seconds")] Duration),
    /// Closed loop: as many plans under way as this, and a new one as one ends.
    InFlight(NonZeroU32),
}

/// What a pace asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// So many plans are due, at least one.
    Now(u32),
    /// The next is due at this time of the run.
    At(Duration),
    /// The next is due when one ends.
    AfterAnEnd,
}

impl Pace {
    /// What is due at a time of the run.
    pub(crate) fn due(self, elapsed: Duration, submitted: u32, ended: u32) -> Due {
        match self {
            Self::Every(interval) => {
                let passed = elapsed.as_nanos() / interval.as_nanos().max(1);
                let due = u32::try_from(passed).unwrap_or(u32::MAX).saturating_add(1);
                match due.saturating_sub(submitted) {
                    0 => Due::At(interval.saturating_mul(submitted)),
                    now => Due::Now(now),
                }
            }
            Self::InFlight(window) => match window.get().saturating_sub(submitted.saturating_sub(ended)) {
                0 => Due::AfterAnEnd,
                now => Due::Now(now),
            },
        }
    }

    /// From when the latency of the `n`-th plan counts, from 0: in an open loop the moment it was due, so that a fleet
    /// (or a generator) that is behind is not flattered.
    pub(crate) fn moment(self, n: u32, elapsed: Duration) -> Duration {
        match self {
            Self::Every(interval) => interval.saturating_mul(n),
            Self::InFlight(_) => elapsed,
        }
    }
}

fn seconds<S: serde::Serializer>(interval: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(interval.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY_10_MS: Pace = Pace::Every(Duration::from_millis(10));

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_open_loop_is_due_by_the_clock_whatever_ended() {
        assert_eq!(EVERY_10_MS.due(ms(0), 0, 0), Due::Now(1));
        assert_eq!(EVERY_10_MS.due(ms(0), 1, 0), Due::At(ms(10)));
        assert_eq!(EVERY_10_MS.due(ms(10), 1, 0), Due::Now(1));
        assert_eq!(EVERY_10_MS.due(ms(99), 2, 0), Due::Now(8));
        assert_eq!(EVERY_10_MS.due(ms(99), 10, 10), Due::At(ms(100)));
    }

    #[test]
    fn what_was_late_counts_from_when_it_was_due() {
        assert_eq!(EVERY_10_MS.moment(3, ms(500)), ms(30));
        assert_eq!(Pace::InFlight(NonZeroU32::MIN).moment(3, ms(500)), ms(500));
    }

    #[test]
    fn a_closed_loop_keeps_its_window() {
        let pace = Pace::InFlight(NonZeroU32::new(4).expect("not zero"));
        assert_eq!(pace.due(ms(0), 0, 0), Due::Now(4));
        assert_eq!(pace.due(ms(0), 4, 0), Due::AfterAnEnd);
        assert_eq!(pace.due(ms(9), 6, 3), Due::Now(1));
        assert_eq!(pace.due(ms(9), 9, 4), Due::AfterAnEnd);
    }
}
