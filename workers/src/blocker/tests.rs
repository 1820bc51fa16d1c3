//! Every state that is no end has a blocker, and says what would help.

use chrono::TimeDelta;
use dat_plan::{PlanKey, Progress};
use dat_store::{AttemptView, PlanSummary};
use uuid::Uuid;

use super::*;
use crate::moments;

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

fn unit(kind: &str, index: i32, key: &str, state: StepState) -> StepView {
    StepView {
        kind: kind.to_owned(),
        index,
        key: key.to_owned(),
        connector: "mux".to_owned(),
        action: "ads.promotion.enable".to_owned(),
        state,
        waits_for: 1,
        attempts: 1,
        cost: 0,
        refund: 0,
        not_before: now() - TimeDelta::seconds(5),
        wait_reason: None,
        detail: None,
        worker: Some("w1".to_owned()),
        lease_until: Some(now() + TimeDelta::seconds(5)),
        result: None,
    }
}

fn view(state: PlanState, steps: Vec<StepView>) -> PlanView {
    PlanView {
        summary: PlanSummary {
            plan: PlanKey::new(Uuid::nil(), 1),
            tenant: "acme".to_owned(),
            name: "Launch".to_owned(),
            state,
            steps_done: 0,
            steps_total: 2,
            spent: 0,
            reserved: 0,
            limit: 100,
            currency: "usd".to_owned(),
            reason: None,
            progress: None,
            sequence: 3,
            state_since: now() - TimeDelta::minutes(3),
        },
        plan_hash: String::new(),
        approval_decision: None,
        approval_expires_at: None,
        submitter: None,
        supersedes: None,
        superseded_by: Vec::new(),
        registered_at: now(),
        steps,
        attempts: Vec::new(),
    }
}

/// Two steps in order.
fn document() -> PlanDocument {
    serde_json::from_value(serde_json::json!({
        "plan_id": Uuid::nil(), "plan_version": 1, "tenant": "acme", "name": "Launch",
        "budget": {"amount": 100, "currency": "usd"}, "deadline": now() + TimeDelta::hours(1),
        "steps": [
            {"key": "a", "connector": "mux", "action": "x", "irreversible": true, "timeout_ms": 60_000,
             "retry": {"within_ms": 600_000}},
            {"key": "b", "connector": "mux", "action": "x", "irreversible": true},
        ],
    }))
    .expect("a plan")
}

fn explained(view: &PlanView, stops: &[Stop], step: Option<&str>) -> Vec<Blocker> {
    let facts = Facts { view, stops, document: &document(), needs: &[vec![], vec![0]], now: now() };
    step.map_or_else(|| facts.of_plan(), |step| facts.of_step(step))
}

fn stop(scope: &str, subject: &str) -> Stop {
    Stop {
        scope: scope.to_owned(),
        subject: subject.to_owned(),
        actor: "ann".to_owned(),
        reason: "audit".to_owned(),
        since: now(),
    }
}

#[test]
fn every_state_of_a_plan_that_is_no_end_names_a_blocker_and_a_remedy() {
    for state in PlanState::ALL {
        let steps =
            vec![unit("action", 0, "a", StepState::Running), unit("action", 1, "b", StepState::Pending)];
        let blockers = explained(&view(*state, steps), &[], None);
        assert!(!blockers.is_empty(), "{state}");
        assert!(blockers.iter().all(|b| b.unblocked_by.is_some() != state.is_end()), "{state}: {blockers:?}");
    }
}

#[test]
fn every_state_of_a_step_is_explained() {
    for state in StepState::ALL {
        for kind in ["action", "undo"] {
            let blockers =
                explained(&view(PlanState::Executing, vec![unit(kind, 0, "a", *state)]), &[], Some("a"));
            assert!(blockers.iter().all(|b| b.because.contains(state.as_str())), "{state}: {blockers:?}");
        }
    }
}

#[test]
fn a_pending_step_names_what_it_needs() {
    let steps = vec![unit("action", 0, "a", StepState::Running), unit("action", 1, "b", StepState::Pending)];
    let blockers = explained(&view(PlanState::Executing, steps), &[], Some("b"));
    assert_eq!(blockers[0].because, "pending, it needs a (running)");
}

#[test]
fn a_ready_step_is_held_by_the_widest_stop_then_by_its_time() {
    let mut step = unit("action", 0, "a", StepState::Ready);
    step.not_before = now() + TimeDelta::seconds(9);
    step.wait_reason = Some("the rate is used up".to_owned());
    let view = view(PlanState::Executing, vec![step]);
    let because = |stops: &[Stop]| explained(&view, stops, Some("a"))[0].because.clone();
    assert!(because(&[]).contains("because the rate is used up"));
    assert!(because(&[stop("connector", "mux")]).contains("connector mux is disabled by ann"));
    assert!(because(&[stop("breaker", "mux")]).contains("breaker of connector mux is forced open by ann"));
    assert!(because(&[stop("connector", "mux"), stop("fleet", "")]).contains("the fleet is paused by ann"));
    assert!(!because(&[stop("connector", "echo"), stop("tenant", "other")]).contains("ann"));
}

#[test]
fn a_stop_says_how_it_is_lifted() {
    let view = view(PlanState::Staged, vec![unit("action", 0, "a", StepState::Pending)]);
    let remedy = |stops: &[Stop]| explained(&view, stops, None)[0].unblocked_by.clone();
    let lifted = |command: &str| Some(format!("'dat control {command} --reason …'"));
    assert_eq!(remedy(&[stop("tenant", "acme")]), lifted("resume --tenant acme"));
    assert_eq!(remedy(&[stop("fleet", "")]), lifted("resume"));
    assert_eq!(remedy(&[stop("connector", "mux")]), lifted("connector enable mux"));
    assert_eq!(remedy(&[stop("breaker", "mux")]), lifted("connector auto mux"));
}

#[test]
fn a_lease_that_ran_out_waits_for_the_sweeper() {
    let mut step = unit("action", 0, "a", StepState::Running);
    step.lease_until = Some(now() - TimeDelta::seconds(1));
    let blockers = explained(&view(PlanState::Executing, vec![step]), &[], None);
    assert!(blockers[0].because.contains("the lease of w1 ran out"), "{blockers:?}");
}

#[test]
fn the_bounds_of_an_attempt_of_all_attempts_and_of_the_plan_are_each_named() {
    let mut view = view(PlanState::Executing, vec![unit("action", 0, "a", StepState::Running)]);
    view.attempts.push(AttemptView {
        kind: "action".to_owned(),
        index: 0,
        attempt: 1,
        worker: "w1".to_owned(),
        idempotency_key: String::new(),
        started_at: now(),
        send_before: None,
        ended_at: None,
        outcome: None,
        detail: None,
        progress: Some(Progress { done: Some(3), total: Some(10), message: Some("packing".to_owned()) }),
        progress_at: Some(now() - TimeDelta::seconds(2)),
    });
    let said: Vec<String> = explained(&view, &[], None).into_iter().map(|blocker| blocker.because).collect();
    let at = |later| moments::moment(now() + later);
    let bounds = [
        format!("its deadline is {}", at(TimeDelta::hours(1))),
        format!("times out at {} (timeout_ms)", at(TimeDelta::minutes(1))),
        format!("after {} (retry.within_ms)", at(TimeDelta::minutes(10))),
        "its connector said 2 s ago: 3 of 10, packing".to_owned(),
    ];
    for bound in bounds {
        assert!(said.iter().any(|said| said.contains(&bound)), "{bound} is not in {said:#?}");
    }
}

#[test]
fn what_is_stuck_or_unknown_names_the_command_that_resolves_it() {
    let plan = PlanKey::new(Uuid::nil(), 1);
    let steps = vec![
        unit("action", 0, "a", StepState::Stuck),
        unit("action", 1, "b", StepState::Unknown),
        unit("undo", 0, "a", StepState::Stuck),
    ];
    let blockers = explained(&view(PlanState::Stuck, steps), &[], None);
    let remedies: Vec<&str> = blockers.iter().filter_map(|b| b.unblocked_by.as_deref()).collect();
    for (about, command) in [
        ("step a", format!("'dat plan resolve {plan} a --retry --reason …'")),
        ("step b", format!("'dat plan resolve {plan} b --no-effect --reason …'")),
        ("undo of a", format!("'dat plan resolve {plan} a --undone --reason …'")),
    ] {
        let blocker = blockers.iter().find(|b| b.about == about).unwrap_or_else(|| panic!("{blockers:?}"));
        assert!(blocker.unblocked_by.as_ref().is_some_and(|r| r.contains(&command)), "{remedies:?}");
    }
}
