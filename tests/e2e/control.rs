//! Operators' acts: each holds at once and for every worker, is explained, and leaves an event that says who and why.

use dat_plan::{PlanKey, PlanState};
use dat_tests::{Announcement, Fleet, PlanDraft, Producer, eventually};

/// Acts as an operator who gives a name and a reason.
async fn act(fleet: &Fleet, words: &[&str], reason: &str) {
    fleet.dat(&[words, &["--actor", "ann", "--reason", reason]].concat()).await;
}

/// Waits for the event of an act.
async fn announced(producer: &Producer, kind: &str, subject: &str, reason: &str) {
    let is_it = |event: &Announcement| event.kind == kind && event.data["reason"] == reason;
    let event = producer.wait_for(&format!("{kind} is announced"), is_it).await;
    assert_eq!(event.plan, PlanKey::CONTROL, "{event:?}");
    assert_eq!(event.data["actor"], "ann", "{event:?}");
    assert_eq!(event.data["subject"], subject, "{event:?}");
}

/// Waits until workers have looked at a plan and found why not.
async fn held_because(fleet: &Fleet, plan: PlanKey, reason: &str) {
    eventually(format_args!("plan {plan} waits because {reason}"), async || {
        let seen = fleet.plan(plan).await.summary;
        if seen.reason.as_ref().is_some_and(|said| said.contains(reason)) { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn explained(fleet: &Fleet, plan: PlanKey) -> String {
    fleet.dat(&["plan", "explain", &plan.plan_id.to_string()]).await
}

async fn submit(producer: &Producer, name: &str) -> PlanKey {
    producer.submit(&PlanDraft::in_order(name, 2).document()).await
}

async fn completes(producer: &Producer, plan: PlanKey) {
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_fleet_starts_nothing() {
    let fleet = Fleet::standard().await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    sandbox.hold("test.act").await;
    let begun = submit(&producer, "begun before").await;
    sandbox.wait_for_held(1).await;
    act(&fleet, &["control", "pause"], "the ad platform is down").await;
    announced(&producer, "control.pause", "", "the ad platform is down").await;
    // What runs ends; what comes next does not start, in this plan or in another.
    sandbox.release().await;
    let fresh = submit(&producer, "submitted after").await;
    let because = "the fleet is paused by ann: the ad platform is down";
    held_because(&fleet, begun, because).await;
    held_because(&fleet, fresh, because).await;
    assert_eq!(sandbox.requests(begun).await.len(), 1);
    assert_eq!(sandbox.requests(fresh).await, []);
    for plan in [begun, fresh] {
        let said = explained(&fleet, plan).await;
        assert!(
            said.contains("the fleet is paused by ann") && said.contains("the ad platform is down"),
            "{said}"
        );
    }
    act(&fleet, &["control", "resume"], "it is back").await;
    announced(&producer, "control.resume", "", "it is back").await;
    completes(&producer, begun).await;
    completes(&producer, fresh).await;
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_plan_stands_still_alone() {
    let fleet = Fleet::standard().await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    sandbox.hold("test.act").await;
    let plan = submit(&producer, "paused").await;
    sandbox.wait_for_held(1).await;
    let id = plan.plan_id.to_string();
    act(&fleet, &["control", "pause", "--plan", &id], "wrong SKU?").await;
    announced(&producer, "control.pause", &id, "wrong SKU?").await;
    sandbox.release().await;
    let other = submit(&producer, "not paused").await;
    completes(&producer, other).await;
    let done =
        producer.wait_for("the step that ran ends", |e| e.plan == plan && e.is("step.completed", "s0"));
    done.await;
    assert_eq!(fleet.plan(plan).await.summary.state, PlanState::Paused);
    let said = explained(&fleet, plan).await;
    assert!(said.contains("the plan is paused by ann") && said.contains("wrong SKU?"), "{said}");
    assert_eq!(sandbox.requests(plan).await.len(), 1);
    act(&fleet, &["control", "resume", "--plan", &id], "SKU is right").await;
    announced(&producer, "control.resume", &id, "SKU is right").await;
    completes(&producer, plan).await;
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_connector_is_not_called() {
    let fleet = Fleet::standard().await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    act(&fleet, &["control", "connector", "disable", "mux"], "maintenance").await;
    announced(&producer, "control.disable_connector", "mux", "maintenance").await;
    let plan = submit(&producer, "needs mux").await;
    held_because(&fleet, plan, "connector mux is disabled by ann: maintenance").await;
    assert_eq!(sandbox.requests(plan).await, []);
    let said = explained(&fleet, plan).await;
    assert!(said.contains("connector mux is disabled by ann") && said.contains("maintenance"), "{said}");
    let shown = fleet.dat(&["control", "show"]).await;
    assert!(shown.contains("mux") && shown.contains("ann") && shown.contains("maintenance"), "{shown}");
    act(&fleet, &["control", "connector", "enable", "mux"], "it is over").await;
    announced(&producer, "control.enable_connector", "mux", "it is over").await;
    completes(&producer, plan).await;
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_plan_lets_what_runs_end_and_undoes_it() {
    let fleet = Fleet::standard().await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let plan = PlanDraft::in_order("aborted", 3).document();
    // The first step is done, the second is held.
    let mut plan = plan;
    plan["steps"][1]["action"] = "test.held".into();
    sandbox.hold("test.held").await;
    let plan = producer.submit(&plan).await;
    sandbox.wait_for_held(1).await;
    let id = plan.plan_id.to_string();
    act(&fleet, &["plan", "abort", &id], "the SKU is recalled").await;
    announced(&producer, "control.abort", &id, "the SKU is recalled").await;
    let rolling = |event: &Announcement| event.plan == plan && event.kind == "plan.rolling_back";
    let rolling = producer.wait_for("the plan is rolled back", rolling).await;
    assert_eq!(rolling.data["reason"], "aborted by ann: the SKU is recalled");
    assert_eq!(sandbox.mux_summary(plan).await.undos, 0, "undone while a step was running");
    sandbox.release().await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    assert_eq!(end.steps("step.completed"), ["s0", "s1"], "{}", end.story());
    assert_eq!(end.steps("step.skipped"), ["s2"], "{}", end.story());
    assert_eq!(end.steps("step.rolled_back"), ["s1", "s0"], "{}", end.story());
    assert_eq!(fleet.plan(plan).await.summary.spent, 0);
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_weight_is_set_shown_and_announced() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    act(&fleet, &["control", "weight", "--tenant", "acme", "--weight", "3"], "they pay for it").await;
    announced(&producer, "control.set_weight", "acme", "they pay for it").await;
    let shown = fleet.dat(&["control", "show"]).await;
    assert!(shown.contains("tenant acme has weight 3, set by ann"), "{shown}");
    let plan = submit(&producer, "of a tenant with a weight").await;
    completes(&producer, plan).await;
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_act_that_takes_two_waits_for_a_second_operator() {
    let fleet = Fleet::standard().await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    act(&fleet, &["control", "two-person", "set", "--act", "abort"], "four eyes").await;
    announced(&producer, "control.set_two_person", "", "four eyes").await;
    sandbox.hold("test.act").await;
    let plan = submit(&producer, "aborted by two").await;
    sandbox.wait_for_held(1).await;
    let id = plan.plan_id.to_string();
    let abort = ["plan", "abort", &id, "--actor", "ann", "--reason", "the SKU is recalled"];
    let said = fleet.dat(&abort).await;
    assert!(said.contains("request 1 waits"), "{said}");
    announced(&producer, "control.request", &id, "the SKU is recalled").await;
    let shown = fleet.dat(&["control", "show"]).await;
    assert!(shown.contains("the SKU is recalled"), "{shown}");
    let confirm = |who| ["control", "confirm", "1", "--actor", who, "--reason", "so it is"];
    let refused = fleet.dat_refused(&confirm("ann")).await;
    assert!(refused.contains("a second operator must confirm"), "{refused}");
    assert_eq!(fleet.plan(plan).await.summary.state, PlanState::Executing, "nothing is in force yet");
    fleet.dat(&confirm("bob")).await;
    announced(&producer, "control.abort", &id, "the SKU is recalled").await;
    let both = producer.wait_for("the act", |event| event.kind == "control.abort").await;
    assert_eq!(
        (&both.data["confirmed_by"], &both.data["confirmed_because"]),
        (&"bob".into(), &"so it is".into())
    );
    sandbox.release().await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    fleet.check_everything().await;
}
