//! Every answer of the sandbox, tried again or not, unwound wide or narrow, with an undo that works or does not: each
//! combination comes to the end that the table says, all of them side by side on one fleet.
//!
//! Each plan has three steps: `first`, which costs 10 and whose undo gives 10 back; `second`, which costs 20, whose undo
//! costs 1, and which the combination is about; and `third`, which is refused, so that what became of `second` is
//! undone wherever the scope of the rollback reaches it.

use std::collections::BTreeMap;

use dat_plan::PlanState::{self, Aborted, Stuck};
use dat_plan::StepState::{self, Compensating, Completed, Failed, Pending, RolledBack, Skipped};
use dat_plan::{PlanKey, StepState as S};
use dat_tests::{EndState, Fleet, PlanDraft, StepDraft};
use serde_json::{Value, json};

/// How `second` is tried again: not at all; once more, which helps where the answer is another then; once more, and the
/// answer is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    No,
    Helps,
    RunsOut,
}
use Retry::{Helps, No, RunsOut};

/// What the undo of `second` does: works, fails twice and then works, always fails. It is tried three times.
const UNDOS: [(&str, i32); 3] = [("works", 1), ("fails twice", 3), ("always fails", 3)];

/// How a plan ends.
#[derive(Debug)]
struct End {
    plan: PlanState,
    /// `first`, `second`, `third`.
    steps: [StepState; 3],
    /// The undos, by the step.
    undos: &'static [(&'static str, StepState)],
    /// What MUX did, in order; `~` before an undo.
    effects: &'static [&'static str],
    spent: i64,
}

/// `second` was done, and is undone with all the rest.
const UNWOUND: End = End {
    plan: Aborted,
    steps: [RolledBack, RolledBack, Failed],
    undos: &[("first", Completed), ("second", Completed)],
    effects: &["first", "second", "~second", "~first"],
    spent: 21,
};
/// `second` was done, and its undo cannot finish: what comes after it waits.
const HUNG: End = End {
    plan: Stuck,
    steps: [Compensating, S::Stuck, Failed],
    undos: &[("first", Pending), ("second", S::Stuck)],
    effects: &["first", "second"],
    spent: 30,
};
/// `second` was done, and stays: only the failed step is undone, and `third` has nothing to undo.
const KEPT: End = End {
    plan: Aborted,
    steps: [Completed, Completed, Failed],
    undos: &[],
    effects: &["first", "second"],
    spent: 30,
};
/// `second` failed without effect; its undo finds nothing, and the rest is undone.
const SEALED: End = End {
    plan: Aborted,
    steps: [RolledBack, RolledBack, Skipped],
    undos: &[("first", Completed), ("second", Completed)],
    effects: &["first", "~second of nothing", "~first"],
    spent: 1,
};
/// `second` failed without effect, and its undo cannot finish: what comes after it waits.
const HUNG_EMPTY: End = End {
    plan: Stuck,
    steps: [Compensating, S::Stuck, Skipped],
    undos: &[("first", Pending), ("second", S::Stuck)],
    effects: &["first"],
    spent: 10,
};
/// `second` failed without effect; its undo finds nothing, and `first` stays.
const SEALED_ALONE: End = End {
    plan: Aborted,
    steps: [Completed, RolledBack, Skipped],
    undos: &[("second", Completed)],
    effects: &["first", "~second of nothing"],
    spent: 11,
};
/// `second` failed without effect, its undo cannot finish, and `first` stays.
const HUNG_ALONE: End = End {
    plan: Stuck,
    steps: [Completed, S::Stuck, Skipped],
    undos: &[("second", S::Stuck)],
    effects: &["first"],
    spent: 10,
};

/// What MUX answers; how it is tried again; how much is undone; how often `second` is tried; and the end for each of
/// [`UNDOS`].
type Row = (&'static str, Retry, &'static str, i32, [&'static End; 3]);

#[rustfmt::skip]
const TABLE: [Row; 30] = [
    ("ok",         No,      "plan", 1, [&UNWOUND,      &UNWOUND,      &HUNG]),
    ("ok",         No,      "step", 1, [&KEPT,         &KEPT,         &KEPT]),
    ("ok",         Helps,   "plan", 1, [&UNWOUND,      &UNWOUND,      &HUNG]),
    ("ok",         Helps,   "step", 1, [&KEPT,         &KEPT,         &KEPT]),
    ("ok",         RunsOut, "plan", 1, [&UNWOUND,      &UNWOUND,      &HUNG]),
    ("ok",         RunsOut, "step", 1, [&KEPT,         &KEPT,         &KEPT]),
    ("error",      No,      "plan", 1, [&SEALED,       &SEALED,       &HUNG_EMPTY]),
    ("error",      No,      "step", 1, [&SEALED_ALONE, &SEALED_ALONE, &HUNG_ALONE]),
    ("error",      Helps,   "plan", 2, [&UNWOUND,      &UNWOUND,      &HUNG]),
    ("error",      Helps,   "step", 2, [&KEPT,         &KEPT,         &KEPT]),
    ("error",      RunsOut, "plan", 2, [&SEALED,       &SEALED,       &HUNG_EMPTY]),
    ("error",      RunsOut, "step", 2, [&SEALED_ALONE, &SEALED_ALONE, &HUNG_ALONE]),
    // A final no is not asked again.
    ("refuse",     No,      "plan", 1, [&SEALED,       &SEALED,       &HUNG_EMPTY]),
    ("refuse",     No,      "step", 1, [&SEALED_ALONE, &SEALED_ALONE, &HUNG_ALONE]),
    ("refuse",     Helps,   "plan", 1, [&SEALED,       &SEALED,       &HUNG_EMPTY]),
    ("refuse",     Helps,   "step", 1, [&SEALED_ALONE, &SEALED_ALONE, &HUNG_ALONE]),
    ("refuse",     RunsOut, "plan", 1, [&SEALED,       &SEALED,       &HUNG_EMPTY]),
    ("refuse",     RunsOut, "step", 1, [&SEALED_ALONE, &SEALED_ALONE, &HUNG_ALONE]),
    // The probe seals the key, and then it is as an error.
    ("timeout",    No,      "plan", 1, [&SEALED,       &SEALED,       &HUNG_EMPTY]),
    ("timeout",    No,      "step", 1, [&SEALED_ALONE, &SEALED_ALONE, &HUNG_ALONE]),
    ("timeout",    Helps,   "plan", 2, [&UNWOUND,      &UNWOUND,      &HUNG]),
    ("timeout",    Helps,   "step", 2, [&KEPT,         &KEPT,         &KEPT]),
    ("timeout",    RunsOut, "plan", 2, [&SEALED,       &SEALED,       &HUNG_EMPTY]),
    ("timeout",    RunsOut, "step", 2, [&SEALED_ALONE, &SEALED_ALONE, &HUNG_ALONE]),
    // The probe finds that it was done, and nothing is tried again.
    ("lost_reply", No,      "plan", 1, [&UNWOUND,      &UNWOUND,      &HUNG]),
    ("lost_reply", No,      "step", 1, [&KEPT,         &KEPT,         &KEPT]),
    ("lost_reply", Helps,   "plan", 1, [&UNWOUND,      &UNWOUND,      &HUNG]),
    ("lost_reply", Helps,   "step", 1, [&KEPT,         &KEPT,         &KEPT]),
    ("lost_reply", RunsOut, "plan", 1, [&UNWOUND,      &UNWOUND,      &HUNG]),
    ("lost_reply", RunsOut, "step", 1, [&KEPT,         &KEPT,         &KEPT]),
];

/// How long `second` is waited for where no answer comes. What is answered has the contract's default.
const TIMEOUT_MS: u64 = 2_000;

fn document(&(outcome, retry, scope, ..): &Row, undo: &str) -> Value {
    let mut told = json!({"outcome": outcome, "cost": 20});
    if retry != RunsOut {
        told["times"] = json!(1);
    }
    let undoes = match undo {
        "works" => json!({"cost": 1}),
        "fails twice" => json!({"outcome": "error", "times": 2, "cost": 1}),
        _ => json!({"outcome": "error", "cost": 1}),
    };
    let again = json!({"max_attempts": 3, "initial_ms": 20, "max_ms": 100});
    let compensation =
        json!({"action": "test.undo", "parameters": {"sandbox": undoes}, "max_cost": 1, "retry": again});
    let attempts = if retry == No { 1 } else { 2 };
    let mut second = StepDraft::new("second", &told)
        .undo(&undoes)
        .set("compensation", compensation)
        .set("retry", json!({"max_attempts": attempts, "initial_ms": 20, "max_ms": 100}));
    if matches!(outcome, "timeout" | "lost_reply") {
        second = second.set("timeout_ms", TIMEOUT_MS);
    }
    PlanDraft::new(&format!("{outcome}, retry {retry:?}, scope {scope}, undo {undo}"))
        .set("rollback", json!({"scope": scope}))
        .step(StepDraft::priced("first", 10))
        .step(second)
        .step(StepDraft::new("third", &json!({"outcome": "refuse"})))
        .document()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_outcome_ends_as_the_table_says() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let mut plans = Vec::new();
    for row in &TABLE {
        for (undo, expected) in UNDOS.into_iter().zip(row.4) {
            let document = document(row, undo.0);
            plans.push((producer.submit(&document).await, document["name"].clone(), row.3, undo.1, expected));
        }
    }
    let mut seen = Vec::with_capacity(plans.len());
    for (plan, ..) in &plans {
        seen.push(producer.wait_for_end(*plan).await);
    }
    let mut effects: BTreeMap<PlanKey, Vec<String>> = BTreeMap::new();
    for applied in fleet.sandbox().all_effects().await {
        let effect = applied.effect;
        let undo = if effect.undo_of.is_some() { "~" } else { "" };
        let nothing = if effect.no_op { " of nothing" } else { "" };
        let of = effects.entry(PlanKey::new(effect.plan_id, effect.plan_version)).or_default();
        of.push(format!("{undo}{}{nothing}", effect.step));
    }
    for ((plan, name, attempts, undo_attempts, expected), end) in plans.into_iter().zip(seen) {
        ended(&fleet, plan, &name, expected, &end).await;
        assert_eq!(effects.remove(&plan).unwrap_or_default(), expected.effects, "{name}: what MUX did");
        let view = fleet.plan(plan).await;
        for unit in view.steps.iter().filter(|unit| unit.key == "second") {
            let tried = if unit.kind == "action" { attempts } else { undo_attempts };
            assert_eq!(unit.attempts, tried, "{name}: attempts of the {}\n{}", unit.kind, end.story());
        }
    }
    fleet.check_everything().await;
}

/// The rows, and what a producer was told.
async fn ended(fleet: &Fleet, plan: PlanKey, name: &Value, expected: &End, end: &EndState) {
    let view = fleet.plan(plan).await;
    let story = end.story();
    assert_eq!((end.state, view.summary.state), (expected.plan, expected.plan), "{name}\n{story}");
    assert_eq!(view.summary.spent, expected.spent, "{name}: spent\n{story}");
    let states = |kind: &str| -> Vec<(&str, StepState)> {
        let of = view.steps.iter().filter(|unit| unit.kind == kind);
        of.map(|unit| (unit.key.as_str(), unit.state)).collect()
    };
    let steps: Vec<_> = ["first", "second", "third"].into_iter().zip(expected.steps).collect();
    assert_eq!(states("action"), steps, "{name}: steps\n{story}");
    assert_eq!(states("undo"), expected.undos, "{name}: undos\n{story}");
}

/// Attempts stop when the time for all of them is over, however many would be left; and each bound is told of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_is_tried_for_no_longer_than_it_says() {
    let fleet = Fleet::standard().await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    sandbox.hold("test.act").await;
    let retry = json!({"max_attempts": 100, "initial_ms": 100, "max_ms": 100, "within_ms": 400});
    let step = StepDraft::new("asked", &json!({"outcome": "error"})).set("retry", retry);
    let draft = PlanDraft::new("for so long").set("deadline", "2099-01-01T00:00:00Z").step(step);
    let plan = producer.submit(&draft.document()).await;
    sandbox.wait_for_held(1).await;
    let explained = fleet.dat(&["plan", "explain", &plan.plan_id.to_string()]).await;
    for bound in ["(timeout_ms)", "(retry.within_ms)", "its deadline is 2099-01-01"] {
        assert!(explained.contains(bound), "{bound} is not in {explained}");
    }
    sandbox.release().await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, Aborted, "{}", end.story());
    let attempts = fleet.plan(plan).await.steps[0].attempts;
    assert!((1..100).contains(&attempts), "{attempts} attempts\n{}", end.story());
    fleet.check_everything().await;
}
