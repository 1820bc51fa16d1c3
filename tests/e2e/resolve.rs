//! What nobody can tell and what cannot be undone: an operator settles it, and the plan goes on.

use dat_plan::{PlanKey, PlanState};
use dat_tests::{
    Announcement, Fleet, FleetOptions, PlanDraft, Producer, StepDraft, WorkerOptions, eventually,
};
use serde_json::json;

use crate::crowd;

/// A step that is done, and whose undo MUX answers as it is told.
fn undone(undo: &serde_json::Value) -> StepDraft {
    let step = StepDraft::new("s0", &json!({"cost": 10})).undo(undo);
    step.set("compensation", json!({
        "action": "test.undo", "parameters": {"sandbox": undo}, "retry": {"max_attempts": 2, "initial_ms": 20},
    }))
}

/// A step that MUX refuses for good: the plan is unwound.
fn refused() -> StepDraft {
    StepDraft::new("s1", &json!({"outcome": "refuse"}))
}

async fn resolve(fleet: &Fleet, words: &[&str]) -> String {
    let words = [&["plan", "resolve"], words, &["--actor", "ann", "--reason", "by phone"]].concat();
    fleet.dat(&words).await
}

async fn comes_to(producer: &Producer, plan: PlanKey, state: PlanState) -> Announcement {
    let what = format!("plan {plan} is {state}");
    producer.wait_for(&what, |event| event.plan == plan && event.plan_state() == Some(state)).await
}

/// What is said of an act in the control stream.
async fn announced(producer: &Producer, plan: PlanKey, resolution: &str) {
    let id = plan.plan_id.to_string();
    let act = producer
        .wait_for("the act is announced", |event| {
            event.kind == "control.resolve"
                && event.data["subject"] == *id
                && event.data["resolution"] == resolution
        })
        .await;
    assert_eq!((&act.data["actor"], &act.data["reason"]), (&json!("ann"), &json!("by phone")), "{act:?}");
}

/// Waits until some worker has counted a stuck undo.
async fn alarmed(fleet: &mut Fleet) {
    eventually("a worker counts the stuck undo", async || {
        let mut stuck = 0.0;
        for number in 0..2 {
            stuck += fleet.worker(number).metric("dat_undos_stuck_total").await;
        }
        if stuck >= 1.0 { Ok(()) } else { Err(stuck) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_undo_that_was_done_by_hand_lets_its_plan_be_aborted() {
    let mut fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let draft = PlanDraft::new("by hand").step(undone(&json!({"outcome": "refuse"}))).step(refused());
    let plan = producer.submit(&draft.document()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Stuck);
    alarmed(&mut fleet).await;
    let explained = fleet.dat(&["plan", "explain", &plan.plan_id.to_string()]).await;
    let name = plan.to_string();
    assert!(explained.contains(&format!("dat plan resolve {name} s0 --undone --reason")), "{explained}");
    // What is said of it must be so.
    for words in [&["s0", "--no-effect"][..], &["s1", "--undone"], &["nothing", "--retry"]] {
        let words = [&["plan", "resolve", &name], words, &["--reason", "a guess"]].concat();
        let refused = fleet.dat_refused(&words).await;
        assert!(refused.contains("error:"), "{refused}");
    }
    let said = resolve(&fleet, &[&name, "s0", "--undone"]).await;
    assert!(said.contains("is aborted"), "{said}");
    comes_to(&producer, plan, PlanState::Aborted).await;
    announced(&producer, plan, "undone").await;
    assert_eq!(fleet.plan(plan).await.summary.spent, 10, "nothing came back");
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stuck_undo_of_a_plan_is_tried_again_by_one_command() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    // Two attempts each, and both fail; the third would do.
    let fails = json!({"outcome": "error", "times": 2, "refund": 10});
    let draft = PlanDraft::new("tried anew")
        .step(undone(&fails))
        .step(undone(&fails).set("key", "s2").needs(&[]))
        .step(refused().needs(&["s0", "s2"]));
    let plan = producer.submit(&draft.document()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Stuck);
    let both =
        |events: &[Announcement]| events.iter().filter(|e| e.plan == plan && e.kind == "undo.stuck").count();
    eventually("both undos are stuck", async || {
        let stuck = both(&producer.heard());
        if stuck == 2 { Ok(()) } else { Err(stuck) }
    })
    .await;
    resolve(&fleet, &[&plan.to_string(), "--retry"]).await;
    comes_to(&producer, plan, PlanState::Aborted).await;
    announced(&producer, plan, "retry").await;
    assert_eq!(fleet.plan(plan).await.summary.spent, 0, "both were undone, with a refund each");
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_nobody_can_tell_is_told_by_an_operator() {
    let fleet = Fleet::standard().await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    // MUX does it, its answer is lost, and it cannot be asked.
    sandbox.hold("probe").await;
    let lost = StepDraft::new("s0", &json!({"outcome": "lost_reply", "cost": 10})).set("timeout_ms", 300);
    let draft = PlanDraft::new("by phone").step(lost).step(StepDraft::priced("s1", 10));
    let plan = producer.submit(&draft.document()).await;
    producer.wait_for("its outcome is unknown", |e| e.plan == plan && e.is("step.unknown", "s0")).await;
    let explained = fleet.dat(&["plan", "explain", &plan.plan_id.to_string(), "s0"]).await;
    assert!(explained.contains(&format!("dat plan resolve {plan} s0 --done --cost N")), "{explained}");
    // Without a figure it is charged its max_cost.
    resolve(&fleet, &[&plan.to_string(), "s0", "--done"]).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let done = end.events.iter().find(|e| e.is("step.completed", "s0")).expect("it is completed");
    assert_eq!((&done.data["actor"], &done.data["cost"]), (&json!("ann"), &json!(10)), "{done:?}");
    announced(&producer, plan, "done").await;
    let words = ["plan", "resolve", &plan.to_string(), "s0", "--done", "--reason", "twice"];
    let refused = fleet.dat_refused(&words).await;
    assert!(refused.contains("the step is completed"), "{refused}");
    sandbox.release().await;
    fleet.check_everything().await;
}

/// An answer that comes after an operator said that there was none, and after the plan was unwound, is an anomaly: it is
/// told, and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_after_a_rollback_is_an_anomaly_and_changes_nothing() {
    let options = FleetOptions { workers: 0, settings: crowd::settings(), ..FleetOptions::default() };
    let mut fleet = Fleet::start(options).await;
    let environment = vec![("DAT_FAULT".to_owned(), "runner.send.after:stop:1".to_owned())];
    fleet.spawn_worker(&WorkerOptions { environment, ..WorkerOptions::default() }).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    sandbox.hold("probe").await;
    let step = StepDraft::new("s0", &json!({})).undo(&json!({})).set("timeout_ms", 1000);
    let plan = producer.submit(&PlanDraft::new("too late").step(step).document()).await;
    fleet.worker(0).wait_until_frozen().await;
    fleet.spawn_worker(&WorkerOptions::default()).await;
    producer.wait_for("its outcome is unknown", |e| e.plan == plan && e.is("step.unknown", "s0")).await;
    fleet.dat(&["plan", "abort", &plan.plan_id.to_string(), "--reason", "a test"]).await;
    resolve(&fleet, &[&plan.to_string(), "s0", "--no-effect"]).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    let before = fleet.plan(plan).await;
    fleet.worker(0).cont().await;
    let late = producer.wait_for("the anomaly", |e| e.plan == plan && e.kind == "anomaly.late_answer").await;
    assert_eq!(late.step.as_deref(), Some("s0"));
    for (field, value) in [
        ("attempt", json!(1)),
        ("answered", json!("ok")),
        ("cost", json!(0)),
        ("recorded", json!("lost")),
        ("state", json!("rolled_back")),
        ("worker", json!("w0")),
    ] {
        assert_eq!(late.data[field], value, "{field} of {late:?}");
    }
    let after = fleet.plan(plan).await;
    assert_eq!(after.summary.sequence, before.summary.sequence + 1, "its event, and nothing else");
    let rows = |plan: &dat_store::PlanView| {
        json!([plan.steps, plan.attempts, plan.summary.state, plan.summary.spent])
    };
    assert_eq!(rows(&after), rows(&before));
    sandbox.release().await;
    fleet.check_everything().await;
}
