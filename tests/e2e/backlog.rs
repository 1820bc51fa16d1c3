//! More is due than there are slots: intake is slow then, and never stops.

use dat_plan::PlanState;
use dat_tests::{Fleet, FleetOptions, PlanDraft, StepDraft, eventually};

async fn is_behind(fleet: &mut Fleet, wanted: f64) {
    let worker = fleet.worker(0);
    eventually("whether the worker is behind", async || {
        match worker.metric("dat_worker_slots_short").await {
            found if (found - wanted).abs() < f64::EPSILON => Ok(()),
            found => Err(found),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_behind_says_so_and_registers_plans_all_the_same() {
    let settings = "[worker]\nslots = 2\n".to_owned();
    let mut fleet = Fleet::start(FleetOptions { workers: 1, settings, ..FleetOptions::default() }).await;
    let producer = fleet.producer().await;
    fleet.sandbox().hold("test.held").await;
    let wide = (0..6).fold(PlanDraft::new("wide"), |plan, step| {
        plan.step(StepDraft::priced(&format!("s{step}"), 10).set("action", "test.held").needs(&[]))
    });
    let wide = producer.submit(&wide.document()).await;
    fleet.sandbox().wait_for_held(2).await;
    is_behind(&mut fleet, 1.0).await;

    let next = producer.submit(&PlanDraft::in_order("next", 1).document()).await;
    producer
        .wait_for("the next one is approved", |event| event.plan == next && event.kind == "plan.approved")
        .await;
    is_behind(&mut fleet, 1.0).await;

    fleet.sandbox().release().await;
    for plan in [wide, next] {
        assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    }
    is_behind(&mut fleet, 0.0).await;
    fleet.check_everything().await;
}
