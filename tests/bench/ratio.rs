//! What governance costs: the fleet's throughput with everything on, as a ratio of the same without one part of it, in one
//! run. What cannot be switched off is diluted: ten times as many steps a plan have a tenth of the approvals.

use dat_tests::{PlanDraft, StepDraft};
use serde_json::{Value, json};

use crate::figures::median;
use crate::load::{self, BATCHED, LIMITS, document};

/// How many times each is measured, in turns.
const RUNS: usize = 3;
/// Steps of one run, whatever the plans' length.
const STEPS: usize = 10_000;
/// So late that no checkpoint is made in a run.
const UNSEALED: &str = "[checkpoint]\nevery_ms = 600000\n";

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    Guards,
    Sealing,
    Approvals,
}

const ARMS: [(Without, &str); 4] = [
    (Without::Nothing, "everything on"),
    (Without::Guards, "no constraints, rates, windows, tenant's budgets"),
    (Without::Sealing, "no checkpoints of the log"),
    (Without::Approvals, "a tenth of the approvals (50 steps a plan)"),
];

/// A plan of 50 guarded steps, which is approved once.
fn long_document() -> Value {
    let mut document = document(true);
    let step = |n: usize| {
        let step =
            StepDraft::new(&format!("s{n}"), &json!({})).set("connector", "echo").set("action", "echo");
        step.set("max_cost", 10).set("parameters", json!({"units": 3}))
    };
    let draft = (0..50).fold(PlanDraft::new("long"), |plan, n| plan.step(step(n)));
    document["steps"] = draft.document()["steps"].clone();
    document
}

/// Steps a second of one run of the load test on a fleet of its own.
async fn steps_a_second(without: Without) -> f64 {
    let guarded = without != Without::Guards;
    let limits = if guarded { LIMITS } else { "" };
    let sealing = if without == Without::Sealing { UNSEALED } else { "" };
    let fleet = load::fleet(1, &format!("{limits}{BATCHED}{sealing}"), guarded).await;
    let (document, steps) =
        if without == Without::Approvals { (long_document(), 50) } else { (document(guarded), 5) };
    let plans = (STEPS / steps).to_string();
    let arguments = ["--plans", &plans, "--in-flight", "256", "--timeout-s", "300"];
    load::figure(&load::run(&fleet, &document, &arguments).await, "/steps_per_s")
}

pub(crate) async fn run() -> bool {
    let mut figures: [Vec<f64>; ARMS.len()] = Default::default();
    for _ in 0..RUNS {
        for ((without, _), figures) in ARMS.into_iter().zip(&mut figures) {
            figures.push(steps_a_second(without).await);
        }
    }
    let all = median(&figures[0]);
    println!("{:52}{:>10}{:>10}{:>10}{:>24}", "", "steps/s", "least", "most", "everything on, of it");
    for ((_, name), figures) in ARMS.into_iter().zip(&figures) {
        let (least, most) = figures.iter().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
        let median = median(figures);
        println!("{name:52}{median:>10.0}{least:>10.0}{most:>10.0}{:>22.0} %", all / median * 100.0);
    }
    true
}
