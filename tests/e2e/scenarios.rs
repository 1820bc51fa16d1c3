//! Every valid plan document comes out as the table says: rows, events, the world outside, FLO and PTE.

use std::collections::{BTreeMap, BTreeSet};

use dat_plan::{PlanKey, PlanState, StepState};
use dat_sandbox::report::{Request, RequestStatus};
use dat_store::PlanView;
use dat_tests::{EndState, Fleet, SandboxClient};
use serde_json::Value;

use crate::documents::Documents;
use crate::scenario_table::{COMMON, Expect, OWN, Steps, WORKFLOWS};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_plans_come_out_as_the_table_says() {
    run(&Documents::own(), &[&COMMON[..], &OWN[..]].concat()).await;
}

/// Where the contract's documents are not, there is nothing to run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contracts_plans_come_out_as_their_table_says() {
    if let Some(documents) = Documents::shared() {
        run(&documents, &[&COMMON[..], &WORKFLOWS[..]].concat()).await;
    }
}

async fn run(documents: &Documents, table: &[Expect]) {
    let listed: BTreeSet<String> = table.iter().map(|expect| expect.file.to_owned()).collect();
    assert_eq!(documents.names(), listed, "the table (right) has a row for each document (left)");
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let mut plans = Vec::new();
    for expect in table {
        let document = documents.value(expect.file);
        plans.push((expect, producer.submit(&document).await, document));
    }
    for (expect, plan, document) in plans {
        let end = producer.wait_for_end(plan).await;
        rows(expect, &fleet.plan(plan).await, &end);
        events(expect, &end);
        outside(expect, &fleet.sandbox(), plan, &document).await;
    }
    fleet.check_everything().await;
    for expect in table {
        let document = documents.value(expect.file);
        booked(expect, &fleet.sandbox(), &document).await;
    }
}

/// The state, the money, every step.
fn rows(expect: &Expect, view: &PlanView, end: &EndState) {
    let (file, summary) = (expect.file, &view.summary);
    assert_eq!((end.state, summary.state), (expect.state, expect.state), "{file}:\n{}", end.story());
    assert_eq!((summary.spent, summary.reserved), (expect.spent, 0), "{file}: spent and reserved");
    assert_eq!(summary.limit - summary.spent, expect.left, "{file}: left of the budget");
    let steps: BTreeMap<&str, StepState> = view
        .steps
        .iter()
        .filter(|step| step.kind == "action")
        .map(|step| (step.key.as_str(), step.state))
        .collect();
    match expect.steps {
        Steps::All(count, state) => {
            assert_eq!(steps.len(), count, "{file}: steps");
            assert!(steps.values().all(|found| *found == state), "{file}: {steps:?}");
        }
        Steps::Each(expected) => assert_eq!(steps, expected.iter().copied().collect(), "{file}: steps"),
    }
    if let Some((key, attempts)) = expect.attempts {
        let step = view.steps.iter().find(|step| step.key == key).expect("the step is there");
        assert_eq!(step.attempts, attempts, "{file}: attempts of {key}");
    }
}

/// What a producer is told.
fn events(expect: &Expect, end: &EndState) {
    let soft: Vec<(&str, &str)> = end
        .events
        .iter()
        .filter(|event| event.kind == "constraint.violated")
        .filter_map(|event| Some((soft_constraint(&event.data["violation"])?, event.step.as_deref()?)))
        .collect();
    assert_eq!(soft, expect.soft, "{}: violations\n{}", expect.file, end.story());
    assert_eq!(end.steps("undo.completed"), expect.undone, "{}: undone\n{}", expect.file, end.story());
    let way = end.way();
    let ran = expect.state != PlanState::Rejected;
    assert_eq!(way.contains(&PlanState::Executing), ran, "{}: {way:?}", expect.file);
}

/// The constraint that a violation is of, if it is one that changes nothing.
fn soft_constraint(violation: &Value) -> Option<&str> {
    (violation["enforcement"] == "soft").then(|| violation["constraint"].as_str())?
}

/// What MUX saw.
async fn outside(expect: &Expect, sandbox: &SandboxClient, plan: PlanKey, document: &Value) {
    let file = expect.file;
    let requests = sandbox.requests(plan).await;
    let forward: Vec<&Request> = requests.iter().filter(|request| request.undo_of.is_none()).collect();
    for key in expect.unsent {
        assert!(requests.iter().all(|request| request.step != *key), "{file}: {key} was sent: {requests:#?}");
    }
    let done: BTreeMap<&str, &Request> = forward
        .iter()
        .filter(|request| matches!(request.status, RequestStatus::Ok | RequestStatus::LostReply))
        .map(|request| (request.step.as_str(), *request))
        .collect();
    for (step, needs) in needs(document) {
        for request in forward.iter().filter(|request| request.step == step) {
            for need in &needs {
                let finished = done.get(need.as_str()).and_then(|needed| needed.finished);
                let finished =
                    finished.unwrap_or_else(|| panic!("{file}: {step} was sent and {need} never completed"));
                assert!(request.received > finished, "{file}: {step} was sent before {need} had completed");
            }
        }
    }
    let effects = sandbox.effects(plan).await;
    let had_effect = |key: &str| effects.iter().any(|applied| applied.effect.idempotency_key == key);
    for undo in effects.iter().map(|applied| &applied.effect) {
        // An undo of what had no effect seals it, and does nothing else.
        let of_nothing = undo.undo_of.as_deref().is_some_and(|key| !had_effect(key));
        assert_eq!(undo.no_op, of_nothing, "{file}: {undo:?}");
    }
    let most = sandbox.mux_summary(plan).await.max_in_flight;
    assert!(!expect.side_by_side || most > 1, "{file}: no more than {most} in flight at once");
}

/// What each step needs, by key, as the contract's defaults have it.
fn needs(document: &Value) -> Vec<(String, Vec<String>)> {
    let keys = |value: &Value| value.as_str().expect("a key").to_owned();
    let mut before = Vec::new();
    let mut found = Vec::new();
    for step in document["steps"].as_array().expect("steps") {
        let key = keys(&step["key"]);
        let needs = step["needs"].as_array().map_or(before, |needs| needs.iter().map(keys).collect());
        before = vec![key.clone()];
        found.push((key, needs));
    }
    found
}

/// What FLO nets, and what PTE received: each completed step, each undone one, and the end.
async fn booked(expect: &Expect, sandbox: &SandboxClient, document: &Value) {
    let file = expect.file;
    let net: i64 = sandbox
        .ledger()
        .await
        .iter()
        .filter(|line| document["plan_id"] == line.plan_id.to_string())
        .map(|line| line.net)
        .sum();
    assert_eq!(net, expect.spent, "{file}: FLO's net");
    let id = document["plan_id"].as_str().and_then(|id| id.parse().ok()).expect("plan_id");
    let pte = sandbox.pte_events(PlanKey::new(id, 1)).await;
    if expect.state == PlanState::Rejected {
        assert!(pte.is_empty(), "{file}: PTE received {pte:?}");
        return;
    }
    let last = pte.last().unwrap_or_else(|| panic!("{file}: PTE received nothing"));
    assert_eq!(last.kind, format!("dat.plan.{}", expect.state), "{file}: PTE's last event");
    assert_eq!(last.data["spent"], expect.spent, "{file}: {last:?}");
    if let Steps::All(count, StepState::Completed) = expect.steps {
        let completed = pte.iter().filter(|event| event.kind == "dat.step.completed").count();
        assert_eq!(completed, count, "{file}: steps that PTE heard of");
        assert_eq!(last.data["steps"], count, "{file}: {last:?}");
    }
}
