//! A request that was stuck on its way until its plan was unwound: MUX refuses it when it arrives, by its age alone.

use dat_plan::{PlanState, StepState};
use dat_sandbox::report::RequestStatus;
use dat_tests::{Fleet, FleetOptions, PlanDraft, Proxy, StepDraft, Way, WorkerOptions, eventually};
use serde_json::json;

/// The end of the request: what comes before it in the same write is held as well.
const TAIL: &str = r#""step":"stuck","attempt":1}"#;

/// This MUX cannot say what came of a key, and so seals none: nothing but `not_after` stands between the request and
/// its effect. The plan says to go on without an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_arrives_after_its_plan_was_unwound_is_refused() {
    let options = FleetOptions {
        workers: 0,
        // A lease that a busy machine does not let run out while its worker lives.
        settings: "[worker]\nlease_ms = 6000\nsweep_ms = 100\nconnections = 5\n".to_owned(),
        sandbox: vec!["--cannot-tell".to_owned()],
        ..FleetOptions::default()
    };
    let mut fleet = Fleet::start(options).await;
    let proxy = Proxy::before(&fleet.realm().amqp_url).await;
    let behind = ("AMQP_URL".to_owned(), proxy.url().to_owned());
    // It runs steps and does nothing else: what the relay or the sweeper published would wait for its confirm in the same
    // channel, and the request behind it would not be sent.
    let runner = WorkerOptions { environment: vec![behind], ..WorkerOptions::role("step-dispatch") };
    fleet.spawn_worker(&runner).await;
    let others = ["plan-submitted", "plan-approved", "plan-rejected", "relay"].map(str::to_owned).to_vec();
    fleet.spawn_worker(&WorkerOptions { roles: others, ..WorkerOptions::default() }).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    sandbox.hold("test.act").await;
    let plan = PlanDraft::new("orphan")
        .set("on_unknown", "rollback")
        .step(StepDraft::priced("done", 10))
        .step(StepDraft::new("stuck", &json!({})).set("timeout_ms", 500));
    let plan = producer.submit(&plan.document()).await;
    sandbox.wait_for_held(1).await;
    // The next request is written, and does not arrive.
    proxy.hold(Way::ToServer);
    sandbox.release().await;
    proxy.wait_for_held(Way::ToServer, TAIL).await;
    fleet.worker(0).kill().await;
    fleet.spawn_worker(&WorkerOptions::default()).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    assert_eq!(end.steps("undo.completed"), ["done"], "{}", end.story());
    let requests = sandbox.requests(plan).await;
    assert!(requests.iter().all(|request| request.step != "stuck"), "it arrived too soon: {requests:#?}");
    let unwound = fleet.plan(plan).await;
    proxy.resume(Way::ToServer);
    let orphan = eventually("the orphan arrives", async || {
        let requests = sandbox.requests(plan).await;
        let orphan = requests.iter().find(|request| request.step == "stuck" && request.finished.is_some());
        orphan.cloned().ok_or(requests)
    })
    .await;
    assert_eq!(orphan.status, RequestStatus::RefusedLate, "{orphan:#?}");
    assert_eq!(sandbox.mux_summary(plan).await.refused_sealed, 0);
    let effects = sandbox.effects(plan).await;
    let steps: Vec<&str> = effects.iter().map(|applied| applied.effect.step.as_str()).collect();
    assert_eq!(steps, ["done", "done"], "{effects:#?}");
    let states: Vec<StepState> = unwound.steps.iter().map(|step| step.state).collect();
    assert_eq!(states, [StepState::RolledBack, StepState::Failed, StepState::Completed]);
    fleet.check_everything().await;
}
