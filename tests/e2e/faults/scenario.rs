//! Three small plans that pass most points between them, and what must be the same of each whatever happened.

use std::collections::BTreeMap;

use dat_plan::{PlanKey, PlanState};
use dat_tests::{EndState, Fleet, PlanDraft, StepDraft};
use serde_json::{Value, json};

/// The scenarios, by name.
pub(super) const NAMES: [&str; 3] = ["errors", "unwound", "tokens"];

/// The document of one, under a new id.
pub(super) fn document(name: &str) -> Value {
    match name {
        // An error that is tried again, and an answer that is lost and found by a probe.
        "errors" => PlanDraft::new(name)
            .step(StepDraft::priced("s0", 10))
            .step(
                StepDraft::new("s1", &json!({"outcome": "error", "times": 1, "cost": 10}))
                    .undo(&json!({"refund": 10})),
            )
            .step(
                StepDraft::new("s2", &json!({"outcome": "lost_reply", "times": 1, "cost": 10}))
                    .undo(&json!({"refund": 10}))
                    .set("timeout_ms", 400)
                    .set("retry", json!({"max_attempts": 20, "initial_ms": 20, "max_ms": 100})),
            )
            .document(),
        // Two branches, then a final no: all of it is undone, one undo at its second try.
        "unwound" => PlanDraft::new(name)
            .step(StepDraft::priced("a", 10))
            .step(StepDraft::priced("b", 10).needs(&["a"]))
            .step(
                StepDraft::new("c", &json!({"cost": 10}))
                    .undo(&json!({"outcome": "error", "times": 1, "refund": 7}))
                    .needs(&["a"]),
            )
            .step(StepDraft::new("d", &json!({"outcome": "refuse"})).undo(&json!({})).needs(&["b", "c"]))
            .document(),
        // Side by side, counted by a token window and a rate; one takes long enough to renew its lease, and says
        // how far it is.
        "tokens" => (0..4)
            .fold(PlanDraft::new(name), |plan, n| {
                let sandbox = if n == 0 {
                    json!({"cost": 5, "delay_ms": 500, "progress": 8})
                } else {
                    json!({"cost": 5})
                };
                plan.step(StepDraft::new(&format!("t{n}"), &sandbox).needs(&[]).set("max_cost", 10))
            })
            .set("budget", json!({"amount": 1_000, "currency": "token"}))
            .document(),
        other => panic!("no scenario {other}"),
    }
}

/// What must be the same, whatever was killed on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Story {
    state: PlanState,
    way: Vec<PlanState>,
    spent: i64,
    /// Step, whether it is the undo, and what it cost less what came back: each once.
    effects: Vec<(String, bool, i64)>,
    /// What was announced of each step, but for attempts, leases and recovery: in order within a step, in any order
    /// between steps.
    steps: BTreeMap<String, Vec<String>>,
}

/// Lifecycle events that are not of attempts.
const LASTING: [&str; 8] = [
    "step.completed",
    "step.compensating",
    "step.rolled_back",
    "step.skipped",
    "step.stuck",
    "undo.completed",
    "undo.stuck",
    "undo.rolled_back",
];

/// What became of a plan.
pub(super) async fn story(fleet: &Fleet, plan: PlanKey, end: &EndState) -> Story {
    let mut steps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in end.events.iter().filter(|event| LASTING.contains(&event.kind.as_str())) {
        steps.entry(event.step.clone().unwrap_or_default()).or_default().push(event.kind.clone());
    }
    let mut effects: Vec<_> =
        fleet.sandbox().effects(plan).await.into_iter().filter(|e| !e.effect.no_op).collect();
    effects.sort_by_key(|applied| (applied.effect.step.clone(), applied.effect.undo_of.is_some()));
    Story {
        state: end.state,
        way: end.way(),
        spent: fleet.plan(plan).await.summary.spent,
        effects: effects
            .into_iter()
            .map(|a| (a.effect.step, a.effect.undo_of.is_some(), a.effect.cost - a.effect.refund))
            .collect(),
        steps,
    }
}
