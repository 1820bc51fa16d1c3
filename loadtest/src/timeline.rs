//! A run second by second: how many steps completed, and how long the plans took that completed then.

use std::time::Duration;

use serde::Serialize;

/// The longest run that is kept by the second.
const LONGEST: usize = 24 * 3600;

/// The seconds of a run.
#[derive(Debug, Default)]
pub(crate) struct Timeline(Vec<Second>);

#[derive(Debug, Default)]
struct Second {
    steps: u64,
    /// Microseconds; an hour is more than they hold, and counts as that.
    executed: Vec<u32>,
}

/// One second of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Point {
    /// Steps that completed in it.
    pub(crate) steps: u64,
    /// From approval to completion of the plans that completed in it, milliseconds: the median.
    pub(crate) p50_ms: Option<f64>,
    /// The same, 99 of 100.
    pub(crate) p99_ms: Option<f64>,
}

impl Timeline {
    /// A step completed at this time of the run.
    pub(crate) fn step(&mut self, at: Duration) {
        if let Some(second) = self.second(at) {
            second.steps += 1;
        }
    }

    /// A plan completed at this time of the run, so long after its approval.
    pub(crate) fn completed(&mut self, at: Duration, executed: Duration) {
        if let Some(second) = self.second(at) {
            second.executed.push(u32::try_from(executed.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// Each second, from the first to the last in which something happened.
    pub(crate) fn points(&self) -> Vec<Point> {
        let point = |second: &Second| {
            let mut sorted = second.executed.clone();
            sorted.sort_unstable();
            // The nearest rank.
            let at = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1));
            let ms = |micros: &u32| f64::from(*micros) / 1_000.0;
            Point { steps: second.steps, p50_ms: at(50).map(ms), p99_ms: at(99).map(ms) }
        };
        self.0.iter().map(point).collect()
    }

    fn second(&mut self, at: Duration) -> Option<&mut Second> {
        let place = usize::try_from(at.as_secs()).ok().filter(|place| *place < LONGEST)?;
        while self.0.len() <= place {
            self.0.push(Second::default());
        }
        self.0.get_mut(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_counts_in_its_second() {
        let ms = Duration::from_millis;
        let mut timeline = Timeline::default();
        timeline.step(ms(100));
        timeline.step(ms(999));
        timeline.step(ms(2_000));
        timeline.completed(ms(2_500), ms(40));
        let points = timeline.points();
        assert_eq!(points.iter().map(|point| point.steps).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(points[0].p50_ms, None);
        assert_eq!((points[2].p50_ms, points[2].p99_ms), (Some(40.0), Some(40.0)));
        (1..=200).for_each(|n| timeline.completed(ms(3_000), ms(n)));
        let last = timeline.points()[3];
        assert_eq!((last.p50_ms, last.p99_ms), (Some(100.0), Some(198.0)));
    }
}
