//! Parked messages: an operator counts them, looks at one, sends them to their queue again or throws them away.

use dat_plan::approval::Outcome;
use dat_plan::{PlanHash, PlanKey, PlanState};
use dat_tests::{Announcement, Fleet, PlanDraft, Producer, SandboxClient, Submission, eventually};
use dat_topology::{Exchange, Stage, key};
use serde_json::{Value, json};

/// What `dat dead list` counts of a queue, by reason.
async fn listed(fleet: &Fleet, stage: Stage) -> Vec<(String, u64)> {
    let list = fleet.dat(&["dead", "list", "--queue", stage.as_str(), "--output", "json"]).await;
    let list: Value = serde_json::from_str(&list).unwrap_or_else(|error| panic!("{error}: {list}"));
    let groups = list["groups"].as_array().expect("groups");
    let read = |group: &Value| {
        assert!(group["oldest"].is_string(), "{group}");
        (group["reason"].as_str().unwrap_or_default().to_owned(), group["count"].as_u64().unwrap_or_default())
    };
    groups.iter().map(read).collect()
}

async fn parked(fleet: &Fleet, stage: Stage, wanted: &[(&str, u64)]) {
    let wanted: Vec<(String, u64)> = wanted.iter().map(|(why, n)| ((*why).to_owned(), *n)).collect();
    eventually(format_args!("{wanted:?} are parked of {stage}"), async || {
        let seen = listed(fleet, stage).await;
        if seen == wanted { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// An approval, whether or not the plan is there.
fn approval(document: &Value, decision: &str) -> Submission {
    let verdict = json!({
        "decision_id": decision, "plan_id": document["plan_id"], "plan_version": 1, "outcome": "approved",
        "approver": "ann", "plan_hash": PlanHash::of(document).expect("a hash"),
    });
    Submission { body: verdict.to_string().into_bytes(), message_id: Some(format!("verdict {decision}")) }
}

fn waiting(name: &str) -> Value {
    PlanDraft::in_order(name, 1).label("sandbox.ggp", "wait").document()
}

async fn submitted(producer: &Producer, document: &Value) -> PlanKey {
    let plan = producer.submit(document).await;
    let asked = |event: &Announcement| {
        event.plan == plan && event.plan_state() == Some(PlanState::SubmittedForApproval)
    };
    producer.wait_for("governance is asked", asked).await;
    plan
}

async fn act(fleet: &Fleet, words: &[&str]) -> String {
    fleet.dat(&[&["dead"], words, &["--actor", "ann", "--reason", "GGP was early"]].concat()).await
}

const NOT_BINDING: &str = "the verdict does not bind";

/// A verdict that came before its plan is parked; replayed when the plan is there, it binds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_message_passes_every_check_anew_and_binds() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let document = waiting("early verdict");
    producer.publish(Exchange::Plans, key::PLAN_APPROVED, approval(&document, "D-1")).await;
    parked(&fleet, Stage::PlanApproved, &[(NOT_BINDING, 1)]).await;
    let shown = fleet.dat(&["dead", "show", "verdict D-1"]).await;
    assert!(shown.contains(NOT_BINDING) && shown.contains("verdict_mismatch"), "{shown}");
    assert!(shown.contains("\"decision_id\": \"D-1\""), "{shown}");
    // Looking takes nothing away.
    parked(&fleet, Stage::PlanApproved, &[(NOT_BINDING, 1)]).await;

    let plan = submitted(&producer, &document).await;
    let said = act(&fleet, &["replay", "--id", "verdict D-1"]).await;
    assert!(said.contains("1 messages were replayed"), "{said}");
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    parked(&fleet, Stage::PlanApproved, &[]).await;
    let event = producer.wait_for("the act", |event| event.kind == "control.replay_dead").await;
    assert_eq!((&event.data["actor"], &event.data["subject"]), (&json!("ann"), &json!("verdict D-1")));
    fleet.check_everything().await;
}

/// What fails again is parked again, with its new reason; what is dropped is gone, and its event says who and why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_message_that_fails_again_is_parked_with_its_new_reason_until_it_is_dropped() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let document = waiting("too late");
    for n in 0..3 {
        producer.publish(Exchange::Plans, key::PLAN_APPROVED, approval(&document, &format!("D-{n}"))).await;
    }
    let garbage = Submission { body: b"{\"outcome\":".to_vec(), message_id: None };
    producer.publish(Exchange::Plans, key::PLAN_APPROVED, garbage).await;
    parked(&fleet, Stage::PlanApproved, &[("not a valid verdict", 1), (NOT_BINDING, 3)]).await;
    let fault = async || {
        let shown = fleet.dat(&["dead", "show", "verdict D-2", "--output", "json"]).await;
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        (shown["faults"][0]["message"].as_str().unwrap_or_default().to_owned(), shown["replays"].clone())
    };
    let (no_plan, none) = fault().await;
    assert_eq!(none, json!(0));

    // Governance decides otherwise in the meantime.
    let plan = submitted(&producer, &document).await;
    fleet.sandbox().decide(&SandboxClient::decision(plan, Outcome::Rejected)).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Rejected);
    act(&fleet, &["replay", "--parked-for", NOT_BINDING]).await;
    parked(&fleet, Stage::PlanApproved, &[("not a valid verdict", 1), (NOT_BINDING, 3)]).await;
    let (conflict, one) = fault().await;
    assert_eq!(one, json!(1));
    assert_ne!(conflict, no_plan, "it is parked for what is wrong with it now");

    // All of it at once: each is sent once, and what comes back meanwhile is left.
    let said = act(&fleet, &["replay", "--all", "--queue", "plan.approved"]).await;
    assert!(said.contains("4 messages were replayed"), "{said}");
    parked(&fleet, Stage::PlanApproved, &[("not a valid verdict", 1), (NOT_BINDING, 3)]).await;

    let refused = fleet.dat_refused(&["dead", "drop", "--all"]).await;
    assert!(refused.contains("--reason"), "{refused}");
    act(&fleet, &["drop", "--parked-for", "not a valid verdict"]).await;
    parked(&fleet, Stage::PlanApproved, &[(NOT_BINDING, 3)]).await;
    act(&fleet, &["drop", "--id", "verdict D-0", "--id", "verdict D-1"]).await;
    parked(&fleet, Stage::PlanApproved, &[(NOT_BINDING, 1)]).await;
    assert_eq!(producer.dead_letter(Stage::PlanApproved).await.message_id.as_deref(), Some("verdict D-2"));
    let dropped = producer
        .wait_for("the act", |event| {
            event.kind == "control.drop_dead" && event.data["subject"] == "verdict D-1"
        })
        .await;
    for (field, value) in [("actor", "ann"), ("reason", "GGP was early"), ("queue", "plan.approved")] {
        assert_eq!(dropped.data[field], value, "{dropped:?}");
    }
    fleet.check_everything().await;
}

/// Ended between the two queues, a replay leaves the message in both: it comes twice, which changes nothing, and is not
/// lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_is_killed_midway_repeats_its_message_and_loses_none() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let document = waiting("killed midway");
    producer.publish(Exchange::Plans, key::PLAN_APPROVED, approval(&document, "D-1")).await;
    parked(&fleet, Stage::PlanApproved, &[(NOT_BINDING, 1)]).await;
    let plan = submitted(&producer, &document).await;
    let replay = ["dead", "replay", "--all", "--actor", "ann", "--reason", "GGP was early"];
    fleet.dat_killed("dead.ack.before", &replay).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    parked(&fleet, Stage::PlanApproved, &[(NOT_BINDING, 1)]).await;
    fleet.dat(&replay).await;
    parked(&fleet, Stage::PlanApproved, &[]).await;
    assert_eq!(end.count("plan.approved"), 1, "{}", end.story());
    fleet.check_everything().await;
}
