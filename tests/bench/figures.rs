//! Plans of the benchmarks, and medians.

use dat_tests::{PlanDraft, StepDraft};
use serde_json::json;

/// A plan of so many steps of a tenant, side by side or one after the other; each takes MUX so long.
pub(crate) fn plan(tenant: &str, steps: usize, side_by_side: bool, delay_ms: u64) -> PlanDraft {
    let sandbox = json!({"cost": 1, "delay_ms": delay_ms});
    (0..steps).fold(PlanDraft::new("bench").set("tenant", tenant), |plan, n| {
        let step = StepDraft::new(&format!("s{n}"), &sandbox);
        plan.step(if side_by_side { step.needs(&[]) } else { step })
    })
}

/// The middle one.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
