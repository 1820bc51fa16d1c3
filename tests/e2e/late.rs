//! Answers that reach a living worker when their time was up: told once, and nothing else comes of them.

use dat_plan::{PlanState, StepState};
use dat_tests::{Fleet, PlanDraft, StepDraft};
use serde_json::json;

use crate::freeze::{only_told, story};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_when_its_plan_was_unwound_is_told_and_changes_nothing() {
    let mut fleet = Fleet::standard().await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    sandbox.hold("test.slow").await;
    let slow = StepDraft::priced("s1", 10).set("action", "test.slow").set("timeout_ms", 500);
    let slow = slow.set("retry", json!({"max_attempts": 1}));
    let draft = PlanDraft::new("unwound before it was answered").step(StepDraft::priced("s0", 10)).step(slow);
    let plan = producer.submit(&draft.document()).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    let before = story(&fleet, plan).await;
    // MUX has had the request all the while; it refuses it now, and both workers of the fleet are well.
    sandbox.release().await;
    let told = only_told(&fleet, &producer, plan, before).await;
    assert_eq!(
        (&told["step"], &told["attempt"], &told["kind"], &told["answered"], &told["recorded"], &told["cost"]),
        (&json!("s1"), &json!(1), &json!("action"), &json!("refused"), &json!("timed_out"), &json!(0)),
        "{told}"
    );
    let (reason, detail) = (told["reason"].as_str().unwrap_or_default(), told["detail"].as_str());
    assert!(reason.contains("came when its time was up; the step is rolled_back"), "{told}");
    assert!(detail.is_some_and(|detail| detail.contains("sealed")), "what the answer said: {told}");
    let again = producer.heard().into_iter().filter(|event| event.kind == "anomaly.late_answer").count();
    assert_eq!(again, 1);
    let view = fleet.plan(plan).await;
    assert_eq!(view.steps[1].state, StepState::RolledBack);
    let mut counted = 0.0;
    for number in 0..2 {
        counted += fleet.worker(number).metric("dat_late_answers_total").await;
    }
    assert!((counted - 1.0).abs() < f64::EPSILON, "{counted}");
    fleet.check_everything().await;
}
