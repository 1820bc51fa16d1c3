//! Workers as an operator sees them: health, figures, and any subset of roles.

use std::collections::BTreeSet;

use dat_plan::PlanState;
use dat_tests::{Fleet, FleetOptions, PlanDraft, StepDraft, WorkerOptions, within};
use serde_json::{Value, json};

/// Every role of a worker.
const ROLES: [&str; 7] =
    ["plan-submitted", "plan-approved", "plan-rejected", "step-dispatch", "step-failed", "relay", "sweeper"];

/// What a figure counts or measures; one of these is in its name.
const UNITS: [&str; 10] =
    ["total", "seconds", "steps", "plans", "events", "slots", "messages", "ratio", "server_up", "info"];

/// The page that lists every figure.
const PAGE: &str = include_str!("../../docs/metrics.md");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_says_that_it_lives_is_ready_and_what_it_did() {
    let mut fleet = Fleet::start(FleetOptions { workers: 1, ..FleetOptions::default() }).await;
    let producer = fleet.producer().await;
    let plan = producer.submit(&PlanDraft::in_order("counted", 3).document()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    let worker = fleet.worker(0);
    assert_eq!(worker.get("/livez").await.0, 200);
    let (status, body) = worker.get("/readyz").await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &body["ready"], &body["draining"]), (200, &json!(true), &json!(false)), "{body}");

    // The relay notes what it published a little after it was heard.
    let caught_up = |(_, text): &(u16, String)| text.lines().any(|line| line == "dat_relay_lag_events 0");
    within("the relay catches up", worker.get_until("/metrics", caught_up)).await;
    let (status, text) = worker.get("/metrics").await;
    assert_eq!(status, 200);
    let families: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for (family, kind) in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
        let row = format!("| `{family}` | {kind} |");
        assert!(PAGE.contains(&row), "docs/metrics.md does not have {row}");
    }
    for family in &families {
        assert!(UNITS.iter().any(|unit| family.contains(unit)), "{family} has no unit in its name");
    }
    for (about, family) in [
        ("queues", "dat_queue_deliveries_total"),
        ("claims", "dat_claim_steps_total"),
        ("steps", "dat_step_attempts_total"),
        ("budgets", "dat_spend_units_total"),
        ("queues that wait", "dat_queue_messages"),
        ("their age", "dat_queue_oldest_seconds"),
        ("verdicts", "dat_verdict_wait_seconds"),
        ("servers", "dat_server_up"),
        ("constraints", "dat_steps_refused_total"),
        ("the relay", "dat_relay_lag_events"),
    ] {
        assert!(families.contains(family), "there is no figure of {about}, {family}:\n{text}");
    }
    let figure = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    for (entry, amount) in [("reserved", "30"), ("incurred", "30")] {
        let name = format!("dat_spend_units_total{{currency=\"usd\",entry=\"{entry}\"}}");
        assert_eq!(figure(&name), Some(amount), "{text}");
    }
    assert_eq!(figure("dat_log_events_total{kind=\"plan.completed\"}"), Some("1"));
    assert_eq!(figure("dat_verdict_wait_seconds_count{outcome=\"approved\"}"), Some("1"));
    assert_eq!(figure("dat_submissions_total{outcome=\"registered\"}"), Some("1"));
    for server in ["broker", "database", "redis"] {
        assert_eq!(figure(&format!("dat_server_up{{server=\"{server}\"}}")), Some("1"), "{text}");
    }
    let attempts = "dat_step_attempts_total{connector=\"mux\",outcome=\"completed\",unit=\"action\"}";
    assert_eq!(figure(attempts), Some("3"));
    assert_eq!(figure("dat_queue_deliveries_total{queue=\"plan.submitted\"}"), Some("1"));
    assert!(!text.contains(&plan.plan_id.to_string()), "a plan's id is no label");
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_of_one_role_each_are_a_fleet() {
    let mut fleet = Fleet::start(FleetOptions { workers: 0, ..FleetOptions::default() }).await;
    for role in ROLES {
        fleet.spawn_worker(&WorkerOptions::role(role)).await;
    }
    let producer = fleet.producer().await;
    let retried = StepDraft::new("retried", &json!({"outcome": "error", "times": 1}));
    let completed = producer.submit(&PlanDraft::in_order("completes", 3).step(retried).document()).await;
    let refused = StepDraft::new("refused", &json!({"outcome": "refuse"}));
    let aborted = producer.submit(&PlanDraft::in_order("aborts", 2).step(refused).document()).await;
    let rejected = PlanDraft::in_order("rejected", 1).label("sandbox.ggp", "reject");
    let rejected = producer.submit(&rejected.document()).await;
    let ends = producer.wait_for_ends(&[completed, aborted, rejected]).await;
    let states: Vec<PlanState> = ends.iter().map(|end| end.state).collect();
    assert_eq!(states, [PlanState::Completed, PlanState::Aborted, PlanState::Rejected]);
    fleet.check_everything().await;
}
