//! Workers that are frozen past their leases and then woken: what they still do comes too late to change anything.

use std::cell::RefCell;
use std::collections::HashSet;

use dat_plan::{PlanKey, PlanState, StepState};
use dat_tests::{
    Announcement, Fleet, FleetOptions, PlanDraft, Producer, StepDraft, WorkerOptions, eventually,
};
use serde_json::json;

use crate::crowd::{self, Crowd, MORE_THAN_ONE};

/// Counts outcomes that a worker wanted to write without its lease.
const FENCED: &str = "dat_step_outcomes_fenced_total";

/// One worker at first, told where to stop.
async fn one_worker(fault: Option<&str>) -> Fleet {
    let options = FleetOptions { workers: 0, settings: crowd::settings(), ..FleetOptions::default() };
    let mut fleet = Fleet::start(options).await;
    let environment = fault.map(|fault| ("DAT_FAULT".to_owned(), fault.to_owned())).into_iter().collect();
    fleet.spawn_worker(&WorkerOptions { environment, ..WorkerOptions::default() }).await;
    fleet
}

/// A plan of one step whose request lives longer than any freeze, so that neither the broker nor MUX drops it for age.
async fn submit_patient(producer: &Producer, name: &str) -> PlanKey {
    let step = StepDraft::priced("s0", 10).set("timeout_ms", 120_000);
    producer.submit(&PlanDraft::new(name).step(step).document()).await
}

/// Waits until a request that the frozen worker has in flight has had its key sealed. (One whose answer was on its way
/// when the worker froze is found done.) Gives its plan. What is heard already was before the freeze.
async fn taken_over(producer: &Producer) -> PlanKey {
    let before: HashSet<String> = producer.heard().into_iter().map(|event| event.id).collect();
    let expired = RefCell::new(HashSet::new());
    let sealed = producer.wait_for("a key of w0 is sealed", |event| {
        let unit = (event.plan, event.step.clone(), event.kind.starts_with("undo."));
        if before.contains(&event.id) {
            return false;
        }
        if event.data["reason"] == "the lease of w0 ran out" {
            expired.borrow_mut().insert(unit);
            return false;
        }
        event.data["outcome"] == "lost" && expired.borrow().contains(&unit)
    });
    sealed.await.plan
}

/// What does not change while nobody acts: all but the end of a lease, which is renewed.
pub(crate) async fn story(fleet: &Fleet, plan: PlanKey) -> serde_json::Value {
    let mut view = serde_json::to_value(fleet.plan(plan).await).expect("it is JSON");
    for step in view["steps"].as_array_mut().into_iter().flatten() {
        step["lease_until"] = json!(null);
    }
    view
}

/// The anomaly that a late answer is, once; and that it is all that came of it.
pub(crate) async fn only_told(
    fleet: &Fleet,
    producer: &Producer,
    plan: PlanKey,
    before: serde_json::Value,
) -> serde_json::Value {
    let is_it = |event: &Announcement| event.plan == plan && event.kind == "anomaly.late_answer";
    let told = producer.wait_for("the late answer is told of", is_it).await;
    let mut expected = before;
    expected["summary"]["sequence"] = json!(told.sequence);
    assert_eq!(story(fleet, plan).await, expected);
    told.data
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_frozen_amid_200_plans_repeats_nothing_when_it_wakes() {
    let mut fleet = crowd::fleet(2).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let mut crowd = Crowd::default();
    crowd.submit(&producer, 100).await;
    crowd::wait_for_ended(&producer, 60).await;
    sandbox.hold("*").await;
    crowd.submit(&producer, 100).await;
    sandbox.wait_for_held(MORE_THAN_ONE).await;
    fleet.worker(0).stop().await;
    fleet.worker(0).wait_until_frozen().await;
    let plan = taken_over(&producer).await;
    sandbox.release().await;
    fleet.worker(0).cont().await;
    fleet.worker(0).wait_for_metric(FENCED, 1.0).await;
    crowd.check(&fleet, &producer).await;
    let requests = sandbox.mux_summary(plan).await;
    assert!(requests.refused_sealed >= 1, "the request of the frozen worker was not refused: {requests:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_outcome_of_a_frozen_worker_changes_nothing() {
    let mut fleet = one_worker(None).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    sandbox.hold("test.*").await;
    let plan = submit_patient(&producer, "late outcome").await;
    sandbox.wait_for_held(1).await;
    fleet.worker(0).stop().await;
    fleet.worker(0).wait_until_frozen().await;
    // Another worker seals the key, but may not try again yet: so the frozen one is refused, and does not know it.
    fleet.dat(&["control", "pause", "--reason", "a test"]).await;
    fleet.spawn_worker(&WorkerOptions::default()).await;
    producer
        .wait_for("the step is ready again", |event| {
            event.plan == plan && event.data["attempt"] == 1 && event.is("step.ready", "s0")
        })
        .await;
    sandbox.release().await;
    eventually("the late request is refused", async || {
        let seen = sandbox.mux_summary(plan).await;
        if seen.refused_sealed == 1 { Ok(()) } else { Err(seen) }
    })
    .await;
    // The second attempt runs, and waits for MUX, when the frozen worker comes with what it heard of the first.
    sandbox.hold("test.*").await;
    fleet.dat(&["control", "resume", "--reason", "a test"]).await;
    sandbox.wait_for_held(1).await;
    let before = story(&fleet, plan).await;
    fleet.worker(0).cont().await;
    fleet.worker(0).wait_for_metric(FENCED, 1.0).await;
    let told = only_told(&fleet, &producer, plan, before).await;
    assert_eq!(
        (&told["step"], &told["attempt"], &told["answered"], &told["recorded"]),
        (&json!("s0"), &json!(1), &json!("refused"), &json!("lost")),
        "{told}"
    );
    sandbox.release().await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let effects = sandbox.effects(plan).await;
    let attempts: Vec<i32> = effects.iter().map(|applied| applied.effect.attempt).collect();
    assert_eq!(attempts, [2], "{effects:#?}");
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_request_of_a_frozen_worker_is_refused() {
    let mut fleet = one_worker(Some("runner.send.before:stop:1")).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let plan = submit_patient(&producer, "late request").await;
    fleet.worker(0).wait_until_frozen().await;
    assert_eq!(sandbox.requests(plan).await, []);
    // Its lease was looked at just before: nothing in the worker holds the request back any more.
    fleet.spawn_worker(&WorkerOptions::default()).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let before = story(&fleet, plan).await;
    assert!(sandbox.mux_summary(plan).await.sealed >= 1);
    fleet.worker(0).cont().await;
    fleet.worker(0).wait_for_metric(FENCED, 1.0).await;
    let seen = sandbox.mux_summary(plan).await;
    assert_eq!((seen.refused_sealed, seen.effects), (1, 1), "{seen:?}");
    let told = only_told(&fleet, &producer, plan, before).await;
    assert_eq!((&told["answered"], &told["cost"]), (&json!("refused"), &json!(0)), "{told}");
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_a_frozen_worker_did_not_write_is_found_by_a_probe() {
    let mut fleet = one_worker(Some("runner.send.after:stop:1")).await;
    let producer = fleet.producer().await;
    let plan = submit_patient(&producer, "late answer").await;
    fleet.worker(0).wait_until_frozen().await;
    assert_eq!(fleet.plan(plan).await.steps[0].state, StepState::Running);
    fleet.spawn_worker(&WorkerOptions::default()).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let before = story(&fleet, plan).await;
    fleet.worker(0).cont().await;
    fleet.worker(0).wait_for_metric(FENCED, 1.0).await;
    // Also no anomaly: what it heard is what is on record.
    assert_eq!(story(&fleet, plan).await, before);
    assert_eq!(fleet.sandbox().mux_summary(plan).await.requests, 1);
    fleet.check_everything().await;
}
