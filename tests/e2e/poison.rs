//! Messages that look right and cannot be stored, garbage on every queue, and submissions that contradict earlier ones:
//! each is parked alone, and what came with it goes its way.

use dat_plan::approval::{Outcome, Verdict};
use dat_plan::{PlanHash, PlanKey, PlanState};
use dat_tests::{
    Announcement, Fleet, FleetOptions, PlanDraft, Producer, SandboxClient, StepDraft, Submission,
    WorkerOptions,
};
use dat_topology::{Exchange, Stage, key};
use serde_json::{Value, json};

fn message(body: impl Into<Vec<u8>>) -> Submission {
    Submission { body: body.into(), message_id: None }
}

/// Submissions that pile up while no worker is there arrive as one batch; one of them holds, in a property, what
/// PostgreSQL does not store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_only_the_database_refuses_is_parked_alone() {
    let mut fleet = Fleet::start(FleetOptions { workers: 0, ..FleetOptions::default() }).await;
    let producer = fleet.producer().await;
    let mut good = Vec::new();
    for n in 0..10 {
        good.push(producer.submit(&PlanDraft::in_order(&format!("before {n}"), 1).document()).await);
    }
    let body = PlanDraft::in_order("poisoned", 1).document().to_string().into_bytes();
    producer
        .submit_raw(Submission { body: body.clone(), message_id: Some("nul \0 inside".to_owned()) })
        .await;
    for n in 0..10 {
        good.push(producer.submit(&PlanDraft::in_order(&format!("after {n}"), 1).document()).await);
    }
    fleet.spawn_worker(&WorkerOptions::default()).await;
    for end in producer.wait_for_ends(&good).await {
        assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    }
    let letter = producer.dead_letter(Stage::PlanSubmitted).await;
    assert_eq!((letter.body, letter.message_id.as_deref()), (body, Some("nul \0 inside")));
    assert_eq!(letter.faults[0]["code"], "unstorable");
    assert_eq!(producer.dead_letters(Stage::PlanSubmitted).await, 0, "only the culprit is parked");
    let refused = producer.wait_for("its refusal", |event| event.kind == "submission.rejected").await;
    assert_eq!(refused.data["message_id"], "nul \\u0000 inside");
    fleet.check_everything().await;
}

/// Garbage is parked where it came; what only wakes a worker may hold anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_any_queue_stops_nothing() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let garbage: [&[u8]; 4] = [b"", b"\xff\xfe", b"{\"outcome\":", b"[1, 2]"];
    for body in garbage {
        for (exchange, routing_key) in [
            (Exchange::Plans, key::PLAN_SUBMITTED),
            (Exchange::Plans, key::PLAN_APPROVED),
            (Exchange::Plans, key::PLAN_REJECTED),
            (Exchange::Plans, key::PLAN_REVOKED),
            (Exchange::Steps, key::STEP_DISPATCH),
            (Exchange::Steps, key::STEP_FAILED),
        ] {
            producer.publish(exchange, routing_key, message(body)).await;
        }
    }
    let fails = StepDraft::new("fails once", &json!({"outcome": "error", "times": 1})).set("key", "fails");
    let plan = producer.submit(&PlanDraft::in_order("after", 2).step(fails).document()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    for (stage, parked) in [(Stage::PlanSubmitted, 4), (Stage::PlanApproved, 4), (Stage::PlanRejected, 8)] {
        for _ in 0..parked {
            let letter = producer.dead_letter(stage).await;
            assert!(garbage.contains(&letter.body.as_slice()), "{letter:?}");
            assert!(!letter.faults.as_array().expect("faults").is_empty(), "{letter:?}");
        }
        assert_eq!(producer.dead_letters(stage).await, 0, "{stage}");
    }
    fleet.check_everything().await;
}

/// A verdict whose reason cannot be stored is parked, and a good one after it binds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_that_cannot_be_stored_is_parked_alone() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let document = PlanDraft::in_order("judged", 1).label("sandbox.ggp", "wait").document();
    let plan = producer.submit(&document).await;
    producer.wait_for("the request for approval", |event| event.plan == plan && is_submitted(event)).await;
    let other = producer.submit(&PlanDraft::in_order("beside", 1).document()).await;
    let poisoned = json!({
        "decision_id": "D-1", "plan_id": plan.plan_id, "plan_version": 1, "outcome": "approved", "approver": "ann",
        "plan_hash": PlanHash::of(&document).expect("a hash"), "reason": "looks \u{0} good",
    });
    producer.publish(Exchange::Plans, key::PLAN_APPROVED, message(poisoned.to_string())).await;
    let letter = producer.dead_letter(Stage::PlanApproved).await;
    assert_eq!(letter.body, poisoned.to_string().into_bytes());
    assert_eq!(producer.wait_for_end(other).await.state, PlanState::Completed);
    assert_eq!(fleet.plan(plan).await.summary.state, PlanState::SubmittedForApproval);
    let verdict: Verdict = fleet.sandbox().decide(&SandboxClient::decision(plan, Outcome::Approved)).await;
    assert_eq!(verdict.outcome, Outcome::Approved);
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    fleet.check_everything().await;
}

fn is_submitted(event: &Announcement) -> bool {
    event.plan_state() == Some(PlanState::SubmittedForApproval)
}

/// A version is registered once: the same content again is the same plan, other content or another tenant is refused,
/// and the plan that runs feels nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registered_version_stays_what_it_is() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    fleet.sandbox().hold("test.act").await;
    let draft = PlanDraft::in_order("first", 2);
    let document = draft.clone().document();
    let plan = producer.submit(&document).await;
    fleet.sandbox().wait_for_held(1).await;
    let running = fleet.plan(plan).await.summary;

    // The same content, written in another order of fields and with other spaces.
    let again = serde_json::to_string_pretty(&document).expect("JSON");
    producer.submit_raw(message(again)).await;
    let other = draft.clone().set("name", "second").document();
    refused(&producer, &other, "version_conflict").await;
    let foreign = draft.set("tenant", "mallory").set("plan_version", 2).document();
    refused(&producer, &foreign, "foreign_tenant").await;

    let summary = fleet.plan(plan).await.summary;
    assert_eq!((summary.state, summary.sequence), (PlanState::Executing, running.sequence));
    assert_eq!(summary.name, "first");
    fleet.sandbox().release().await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed);
    assert_eq!(end.count("plan.draft"), 1, "it was registered once");
    assert_eq!(fleet.sandbox().packages(plan).await.len(), 1, "governance was asked about one plan");
    assert_eq!(fleet.sandbox().packages(PlanKey::new(plan.plan_id, 2)).await.len(), 0);
    assert_eq!(producer.dead_letters(Stage::PlanSubmitted).await, 0, "the same content is not parked");
    fleet.check_everything().await;
}

async fn refused(producer: &Producer, document: &Value, code: &str) {
    producer.submit(document).await;
    let letter = producer.dead_letter(Stage::PlanSubmitted).await;
    assert_eq!(letter.body, document.to_string().into_bytes());
    assert_eq!(letter.faults[0]["code"], code, "{letter:?}");
    let is_it =
        |event: &Announcement| event.kind == "submission.rejected" && event.data["faults"][0]["code"] == code;
    producer.wait_for(code, is_it).await;
}
