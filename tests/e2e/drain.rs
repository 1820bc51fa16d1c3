//! SIGTERM: what runs ends and is committed, nothing new begins.

use dat_plan::{PlanState, StepState};
use dat_tests::{Fleet, FleetOptions, PlanDraft, StepDraft, WorkerOptions, within};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_told_to_stop_commits_what_runs_and_begins_nothing() {
    let mut fleet = Fleet::start(FleetOptions { workers: 1, ..FleetOptions::default() }).await;
    let producer = fleet.producer().await;
    fleet.sandbox().hold("test.held").await;
    let held = StepDraft::priced("held", 10).set("action", "test.held");
    let draft = PlanDraft::new("drained").step(held).step(StepDraft::priced("next", 10));
    let plan = producer.submit(&draft.document()).await;
    fleet.sandbox().wait_for_held(1).await;

    let worker = fleet.worker(0);
    worker.terminate().await;
    within(
        "the worker drains",
        worker.get_until("/readyz", |(status, body)| {
            *status == 503
                && serde_json::from_str(body)
                    .is_ok_and(|body: serde_json::Value| body["draining"] == json!(true))
        }),
    )
    .await;
    fleet.sandbox().release().await;
    let status = fleet.worker(0).exit().await;
    assert!(status.success(), "{status}: {}", fleet.worker(0).log());

    let view = fleet.plan(plan).await;
    let steps: Vec<(&str, StepState, i32)> =
        view.steps.iter().map(|step| (step.key.as_str(), step.state, step.attempts)).collect();
    assert_eq!(steps, [("held", StepState::Completed, 1), ("next", StepState::Ready, 0)]);
    assert_eq!(view.summary.state, PlanState::Executing);
    // What it committed it also published.
    producer.wait_for("the step's completion", |event| event.is("step.completed", "held")).await;

    fleet.spawn_worker(&WorkerOptions::default()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    assert_eq!(fleet.sandbox().requests(plan).await.len(), 2, "each step was sent once");
    fleet.check_everything().await;
}
