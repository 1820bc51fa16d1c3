//! Nothing runs that was not approved, and only within what was approved, for as long as it is.

use chrono::TimeDelta;
use dat_plan::approval::Outcome;
use dat_plan::clock::SystemClock;
use dat_plan::{Amount, Clock as _, Currency, PlanHash, PlanKey, PlanState, StepState};
use dat_sandbox::report::Decision;
use dat_tests::{Announcement, EndState, Fleet, PlanDraft, SandboxClient, StepDraft, Submission};
use dat_topology::{Exchange, Stage, key};
use serde_json::json;

/// A plan that governance decides about when the test says so.
fn judged(name: &str, steps: usize) -> PlanDraft {
    PlanDraft::in_order(name, steps).label("sandbox.ggp", "wait")
}

fn approval(plan: PlanKey) -> Decision {
    SandboxClient::decision(plan, Outcome::Approved)
}

fn revocation(plan: PlanKey) -> Decision {
    SandboxClient::decision(plan, Outcome::Revoked)
}

/// Nothing of the plan ever left.
async fn nothing_was_sent(fleet: &Fleet, plan: PlanKey, end: &EndState) {
    let requests = fleet.sandbox().requests(plan).await;
    assert!(requests.is_empty(), "{requests:#?}\n{}", end.story());
    assert_eq!(end.count("plan.executing"), 0, "{}", end.story());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_runs_only_after_its_approval_and_a_rejected_one_never() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let rejected = producer.submit(&judged("rejected", 2).label("sandbox.ggp", "reject").document()).await;
    let waiting = producer.submit(&judged("waits", 2).document()).await;
    let end = producer.wait_for_end(rejected).await;
    assert_eq!(end.state, PlanState::Rejected);
    nothing_was_sent(&fleet, rejected, &end).await;
    assert_eq!(fleet.sandbox().requests(waiting).await.len(), 0, "it is not approved yet");
    let verdict = fleet.sandbox().decide(&approval(waiting)).await;
    let end = producer.wait_for_end(waiting).await;
    assert_eq!(end.state, PlanState::Completed);
    let approved = end.events.iter().find(|event| event.kind == "plan.approved").expect("it was approved");
    assert_eq!(approved.data["approver"], verdict.approver);
    assert_eq!(approved.data["decision_id"], verdict.decision_id);
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tighter_budget_of_the_verdict_binds() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    // Three steps of 10 each fit the plan's budget, and two do not fit the verdict's.
    let labelled =
        producer.submit(&PlanDraft::in_order("by label", 3).label("sandbox.budget", "15").document()).await;
    let decided = producer.submit(&judged("by decision", 3).document()).await;
    let budget = Some(Amount { amount: 15, currency: Currency("usd".to_owned()) });
    fleet.sandbox().decide(&Decision { budget, ..approval(decided) }).await;
    for plan in [labelled, decided] {
        let end = producer.wait_for_end(plan).await;
        assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
        assert!(end.count("budget.refused") > 0, "{}", end.story());
        let summary = fleet.plan(plan).await.summary;
        assert_eq!((summary.limit, summary.spent, summary.reserved), (15, 0, 0));
        let sent: Vec<String> = fleet.sandbox().requests(plan).await.into_iter().map(|r| r.step).collect();
        assert_eq!(sent, ["s0", "s0"], "one step, and its undo");
    }
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_stops_a_running_plan_and_unwinds_it() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    fleet.sandbox().hold("test.held").await;
    let held = StepDraft::priced("held", 10).set("action", "test.held");
    let draft = PlanDraft::in_order("revoked", 1).step(held).step(StepDraft::priced("never", 10));
    let plan = producer.submit(&draft.document()).await;
    fleet.sandbox().wait_for_held(1).await;
    fleet.sandbox().decide(&revocation(plan)).await;
    let unwinding = |event: &Announcement| event.plan == plan && event.kind == "plan.rolling_back";
    producer.wait_for("the rollback", unwinding).await;
    // What was in flight when it was revoked ends as it ends, and is undone like the rest.
    fleet.sandbox().release().await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted);
    assert_eq!(end.steps("step.rolled_back"), ["held", "s0"], "newest first\n{}", end.story());
    let view = fleet.plan(plan).await;
    assert_eq!(view.summary.spent, 0);
    assert!(view.steps.iter().any(|step| step.key == "never" && step.state == StepState::Skipped));
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_before_the_approval_binds_and_the_approval_is_parked() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let plan = producer.submit(&judged("revoked early", 2).document()).await;
    fleet.sandbox().decide(&revocation(plan)).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted);
    fleet.sandbox().decide(&approval(plan)).await;
    let letter = producer.dead_letter(Stage::PlanApproved).await;
    assert_eq!(letter.faults[0]["code"], "verdict_mismatch", "{letter:?}");
    nothing_was_sent(&fleet, plan, &end).await;
    assert_eq!(fleet.plan(plan).await.summary.state, PlanState::Aborted);
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_about_other_content_is_parked() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let draft = judged("as registered", 1);
    let plan = producer.submit(&draft.clone().document()).await;
    let registered = |event: &Announcement| event.plan == plan && event.kind == "plan.submitted_for_approval";
    producer.wait_for("the registration", registered).await;
    let other = PlanHash::of(&draft.set("name", "another").document()).expect("a hash");
    let verdict = json!({
        "decision_id": "D-1", "plan_id": plan.plan_id, "plan_version": 1, "plan_hash": other,
        "outcome": "approved", "approver": "ann",
    });
    for (routing_key, outcome, stage) in [
        (key::PLAN_APPROVED, "approved", Stage::PlanApproved),
        (key::PLAN_REJECTED, "rejected", Stage::PlanRejected),
        (key::PLAN_REVOKED, "revoked", Stage::PlanRejected),
    ] {
        let mut verdict = verdict.clone();
        verdict["outcome"] = json!(outcome);
        let submission = Submission { body: verdict.to_string().into_bytes(), message_id: None };
        producer.publish(Exchange::Plans, routing_key, submission).await;
        let letter = producer.dead_letter(stage).await;
        assert_eq!(letter.body, verdict.to_string().into_bytes());
        assert_eq!(letter.faults[0]["code"], "verdict_mismatch", "{letter:?}");
    }
    assert_eq!(fleet.plan(plan).await.summary.state, PlanState::SubmittedForApproval);
    fleet.sandbox().decide(&approval(plan)).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_that_expired_lets_nothing_run() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let plan = producer.submit(&judged("too late", 2).document()).await;
    let expires_at = Some(SystemClock.now() - TimeDelta::seconds(1));
    fleet.sandbox().decide(&Decision { expires_at, ..approval(plan) }).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted);
    nothing_was_sent(&fleet, plan, &end).await;
    fleet.check_everything().await;
}

/// However far it came by then, it is unwound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_that_expires_on_the_way_acts_as_a_revocation() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    // Its last step is answered only after the rollback has begun, so it cannot end before the approval does.
    fleet.sandbox().hold("test.held").await;
    let held = StepDraft::priced("held", 10).set("action", "test.held").set("timeout_ms", 60_000);
    let draft = judged("expires", 3).step(held).step(StepDraft::priced("never", 10));
    let plan = producer.submit(&draft.document()).await;
    let expires_at = Some(SystemClock.now() + TimeDelta::seconds(2));
    fleet.sandbox().decide(&Decision { expires_at, ..approval(plan) }).await;
    let stopped = |event: &Announcement| {
        event.plan == plan && matches!(event.plan_state(), Some(PlanState::RollingBack | PlanState::Aborted))
    };
    producer.wait_for("the end of the approval", stopped).await;
    fleet.sandbox().release().await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    assert_eq!(fleet.plan(plan).await.summary.spent, 0);
    assert!(fleet.sandbox().requests(plan).await.iter().all(|request| request.step != "never"));
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_waits_while_an_earlier_one_is_active() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    fleet.sandbox().hold("test.held").await;
    let held = StepDraft::priced("held", 10).set("action", "test.held");
    let draft = PlanDraft::new("versions").step(held).step(StepDraft::priced("then", 10));
    let first = producer.submit(&draft.clone().document()).await;
    fleet.sandbox().wait_for_held(1).await;
    let second = draft.set("plan_version", 2).set("name", "versions, changed").document();
    let second = producer.submit(&second).await;
    let approved = |event: &Announcement| event.plan == second && event.kind == "plan.approved";
    producer.wait_for("the approval of the second version", approved).await;
    // Another plan that is approved later goes all the way meanwhile.
    let beside = producer.submit(&PlanDraft::in_order("beside", 2).document()).await;
    assert_eq!(producer.wait_for_end(beside).await.state, PlanState::Completed);
    assert_eq!(fleet.plan(second).await.summary.state, PlanState::Approved);
    fleet.sandbox().release().await;
    for end in producer.wait_for_ends(&[first, second]).await {
        assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    }
    let last = fleet.sandbox().requests(first).await.iter().filter_map(|request| request.finished).max();
    let next = fleet.sandbox().requests(second).await.iter().map(|request| request.received).min();
    assert!(last < next, "the second version began ({next:?}) before the first had ended ({last:?})");
    fleet.check_everything().await;
}
