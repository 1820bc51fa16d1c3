//! What happened over all cases: a property that held because nothing happened would show here.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::crash::Point;

/// Counts of what the cases went through.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    events: BTreeMap<&'static str, u64>,
    crashes: BTreeMap<Point, u64>,
}

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, what: &'static str, many: usize) {
        *self.counts().events.entry(what).or_default() += many as u64;
    }

    pub(super) fn crashed(&self, point: Point) {
        *self.counts().crashes.entry(point).or_default() += 1;
    }

    pub(super) fn flushed(&self) {
        self.count("flushes", 1);
    }

    /// Says what happened, and that all of it did where there were cases enough for it.
    #[expect(clippy::print_stdout, reason = "the figures of a run")]
    pub(super) fn finish(&self, cases: u64) {
        let counts = self.counts();
        println!("{cases} cases: {:?}", counts.events);
        println!("crashes: {:?}", counts.crashes);
        if cases < 200 {
            return;
        }
        for point in Point::ALL {
            assert!(counts.crashes.contains_key(&point), "no worker crashed at {point:?}");
        }
        for what in [
            "plans",
            "claims",
            "fenced",
            "repeated",
            "late sends",
            "flushes",
            "eras",
            "windows lost",
            "overruns",
            "refunds",
            "refused by budget",
            "probes",
            "doubled events",
        ] {
            assert!(counts.events.contains_key(what), "nothing was ever counted as '{what}'");
        }
    }
}
