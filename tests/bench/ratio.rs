//! The fleet's throughput with every guard on, as a ratio of that without any, in one run.

use crate::figures::median;
use crate::load::{self, LIMITS, document};

/// How many times each is measured, in turns.
const RUNS: usize = 3;
const PLANS: &str = "1000";

/// Steps a second of one run of the load test on a fleet of its own.
async fn steps_a_second(guarded: bool) -> f64 {
    let fleet = load::fleet(2, if guarded { LIMITS } else { "" }, guarded).await;
    let report = load::run(&fleet, &document(guarded), &["--plans", PLANS]).await;
    load::figure(&report, "/steps_per_s")
}

pub(crate) async fn run() -> bool {
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        off.push(steps_a_second(false).await);
        on.push(steps_a_second(true).await);
        println!("run {}: {:.0} steps a second without guards, {:.0} with all", run + 1, off[run], on[run]);
    }
    let (on, off) = (median(&on), median(&off));
    println!("medians: {off:.0} without, {on:.0} with: the guards leave {:.0} %", on / off * 100.0);
    true
}
