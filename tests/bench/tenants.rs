//! The same throughput with a thousand tenants as with one.

use crate::figures::median;
use crate::load::{self, BATCHED, LIMITS, document, figure};

/// How many times each is measured, in turns.
const RUNS: usize = 3;

pub(crate) async fn run() -> bool {
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        for (tenants, figures) in [("1", &mut one), ("1000", &mut many)] {
            let fleet = load::fleet(2, &format!("{LIMITS}{BATCHED}"), false).await;
            let arguments = ["--plans", "1500", "--in-flight", "256", "--tenants", tenants];
            let report = load::run(&fleet, &document(true), &arguments).await;
            figures.push(figure(&report, "/steps_per_s"));
        }
        println!("run {}: {:.0} steps/s with one tenant, {:.0} with 1,000", run + 1, one[run], many[run]);
    }
    let (one, many) = (median(&one), median(&many));
    println!("medians: {one:.0} with one tenant, {many:.0} with 1,000: {:.2} (at least 0.9)", many / one);
    many >= 0.9 * one
}
