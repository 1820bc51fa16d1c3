//! A plan of five steps, alone and beside a tenant with 20,000 steps waiting.

use dat_plan::PlanState;
use dat_tests::{Fleet, FleetOptions, Producer};
use tokio::time::Instant;

use crate::figures::{median, plan};

/// How many times each is measured.
const RUNS: usize = 9;
/// Attempts at once in a worker.
const SLOTS: usize = 24;
/// How long MUX takes for a step.
const STEP_MS: u64 = 50;

/// Seconds from submission to completion, of plans submitted one after another.
async fn seconds(producer: &Producer) -> Vec<f64> {
    let mut seconds = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        let small = producer.submit(&plan("small", 5, false, STEP_MS).document()).await;
        assert_eq!(producer.wait_for_end(small).await.state, PlanState::Completed);
        seconds.push(begun.elapsed().as_secs_f64());
    }
    seconds
}

pub(crate) async fn run() -> bool {
    // As many slots as keep the machine busy: with more, whatever is in flight waits for its processors, the small plan's
    // steps too.
    let settings = format!("[worker]\nconnections = 5\nslots = {SLOTS}\n");
    let fleet = Fleet::start(FleetOptions { settings, ..FleetOptions::default() }).await;
    let producer = fleet.producer().await;
    seconds(&producer).await;
    let idle = seconds(&producer).await;
    let mut large = Vec::new();
    for _ in 0..2 {
        large.push(producer.submit(&plan("large", 10_000, true, STEP_MS).document()).await);
    }
    for plan in &large {
        producer.wait_for("20,000 steps wait", |e| e.plan == *plan && e.kind == "plan.executing").await;
    }
    let busy = seconds(&producer).await;
    let left: i64 = {
        let summaries = fleet.store().summaries(&large).await.expect("the database answers");
        summaries.iter().map(|s| i64::from(s.steps_total - s.steps_done)).sum()
    };
    let (idle, busy) = (median(&idle), median(&busy));
    println!(
        "a plan of 5 steps of {STEP_MS} ms, {SLOTS} slots a worker, median of {RUNS}: {idle:.3} s alone, {busy:.3} s beside 20,000 steps of"
    );
    println!("another tenant, of which {left} still waited at the end: {:.2} times as long", busy / idle);
    left > 0 && busy <= 2.0 * idle
}
