//! Times, and their percentiles.

use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde::Serialize;

/// The longest time told apart from longer ones.
const LONGEST: Duration = Duration::from_hours(1);

/// A histogram of times, to three digits, of a fixed size.
#[derive(Debug, Clone)]
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    /// An empty one.
    pub(crate) fn new() -> Result<Self, CreationError> {
        Ok(Self(Histogram::new_with_bounds(1, micros(LONGEST), 3)?))
    }

    /// Adds a time.
    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(micros(time));
    }

    /// Its percentiles; `None` while it is empty.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        let at = |quantile| milliseconds(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| Percentiles {
            count: self.0.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: milliseconds(self.0.max()),
        })
    }
}

/// Percentiles of times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    /// Of how many.
    pub(crate) count: u64,
    /// The median.
    pub(crate) p50: f64,
    /// Nine of ten are at most this.
    pub(crate) p90: f64,
    /// 99 of 100 are.
    pub(crate) p99: f64,
    /// All are.
    pub(crate) max: f64,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn milliseconds(micros: u64) -> f64 {
    f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut latency = Latency::new().expect("valid bounds");
        assert_eq!(latency.percentiles(), None);
        for ms in 1..=1000 {
            latency.record(Duration::from_millis(ms));
        }
        let Percentiles { count, p50, p90, p99, max } = latency.percentiles().expect("not empty");
        assert_eq!(count, 1000);
        for (found, meant) in [(p50, 500.0), (p90, 900.0), (p99, 990.0), (max, 1000.0)] {
            assert!((found - meant).abs() <= meant / 1000.0, "{found} is not {meant}");
        }
    }

    #[test]
    fn a_time_beyond_the_bounds_counts_as_the_longest() {
        let mut latency = Latency::new().expect("valid bounds");
        latency.record(Duration::MAX);
        latency.record(Duration::ZERO);
        assert_eq!(latency.percentiles().expect("not empty").count, 2);
    }
}
