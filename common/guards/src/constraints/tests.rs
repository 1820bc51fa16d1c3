use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::{Currency, StepKey};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::conditions::{Conditions, When};
use crate::decision::Verdict;
use crate::inputs::{BudgetFacts, PlanFacts, StepFacts};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn inputs(now: i64, parameters: Value) -> Inputs {
    let Value::Object(parameters) = parameters else { panic!("parameters are an object") };
    Inputs {
        now: at(now),
        plan: PlanFacts {
            id: Uuid::nil(),
            version: 1,
            name: "p".to_owned(),
            priority: 4,
            labels: [].into(),
            steps: 2,
        },
        tenant: "acme".to_owned(),
        step: Some(StepFacts { key: StepKey("a".to_owned()), index: 0, attempt: 1, parameters }),
        budget: BudgetFacts { amount: 100, spent: 40, reserved: 0, currency: Currency("usd".to_owned()) },
        results: serde_json::Map::new(),
    }
}

fn constraint(json: Value) -> Constraint {
    serde_json::from_value(json).unwrap()
}

fn set(constraints: &[Value]) -> ConstraintSet {
    let constraints: Vec<Constraint> = constraints.iter().cloned().map(constraint).collect();
    ConstraintSet::compile(&constraints).unwrap()
}

fn step(key: &str, parameters: &Value) -> Step {
    serde_json::from_value(json!({"key": key, "connector": "mux", "action": "x", "parameters": parameters}))
        .unwrap()
}

fn window(enforcement: &str) -> Value {
    json!({"id": "w", "enforcement": enforcement, "kind": "time_window",
           "not_before": at(10), "not_after": at(20)})
}

fn quantity(enforcement: &str) -> Value {
    json!({"id": "q", "enforcement": enforcement, "kind": "quantity", "parameter": "n", "min": 1, "max": 100})
}

fn predicate(id: &str, enforcement: &str, require: &str) -> Value {
    json!({"id": id, "enforcement": enforcement, "kind": "predicate", "require": require})
}

#[test]
fn a_hard_window_waits_before_it_and_is_over_after_it() {
    let set = set(&[window("hard")]);
    for (now, verdict, wait, lasting) in [
        (9, Verdict::Deny, Some(at(10)), false),
        (10, Verdict::Pass, None, false),
        (19, Verdict::Pass, None, false),
        (20, Verdict::Deny, None, true),
    ] {
        for decision in [set.runtime(&inputs(now, json!({}))), set.admission(&inputs(now, json!({})), &[])] {
            let found = (decision.verdict, decision.wait_until(), decision.is_lasting());
            assert_eq!(found, (verdict, wait, lasting), "at {now}");
        }
    }
}

#[test]
fn a_soft_rule_warns_and_makes_nobody_wait() {
    let set = set(&[window("soft"), quantity("soft"), predicate("p", "soft", "budget.spent > 50")]);
    let decision = set.runtime(&inputs(0, json!({"n": 101})));
    assert_eq!((decision.verdict, decision.violations.len()), (Verdict::Warn, 3));
    assert_eq!((decision.wait_until(), decision.is_lasting()), (None, false));
    assert!(decision.violations.iter().all(|violation| violation.retry_at.is_none()));
}

#[test]
fn every_violated_rule_is_listed_and_waiting_does_not_mend_the_others() {
    let set = set(&[
        window("hard"),
        quantity("hard"),
        predicate("ok", "hard", "tenant == 'acme'"),
        predicate("p", "soft", "budget.spent * 5 < budget.amount"),
    ]);
    let decision = set.runtime(&inputs(0, json!({"n": 101})));
    let ids: Vec<&str> = decision.violations.iter().map(|violation| violation.constraint.as_str()).collect();
    assert_eq!((decision.verdict, ids), (Verdict::Deny, vec!["w", "q", "p"]));
    assert_eq!(decision.wait_until(), None, "the quantity does not change by waiting");
    let waits = set.runtime(&inputs(0, json!({"n": 100})));
    assert_eq!((waits.verdict, waits.wait_until()), (Verdict::Deny, Some(at(10))));
}

#[test]
fn a_quantity_is_a_number_within_bounds() {
    let set = set(&[quantity("hard")]);
    for (n, verdict) in [
        (json!(1), Verdict::Pass),
        (json!(100.0), Verdict::Pass),
        (json!(0.99), Verdict::Deny),
        (json!(101), Verdict::Deny),
        (json!("50"), Verdict::Deny),
        (json!(null), Verdict::Deny),
        (json!({"$from": "x", "path": ""}), Verdict::Deny),
    ] {
        assert_eq!(set.runtime(&inputs(0, json!({"n": n}))).verdict, verdict, "{n}");
    }
    assert_eq!(set.runtime(&inputs(0, json!({"other": 500}))).verdict, Verdict::Pass);
}

#[test]
fn admission_looks_at_every_step_but_not_at_what_is_not_known_yet() {
    let set = set(&[
        quantity("hard"),
        predicate("plan", "soft", "budget.amount > 1000"),
        predicate("step", "hard", "step.index > 5"),
        predicate("result", "hard", "results.a.ok"),
    ]);
    let fine = step("a", &json!({"n": 5}));
    let later = step("b", &json!({"n": {"$from": "a", "path": "/n"}}));
    let inputs = Inputs { step: None, ..inputs(0, json!({})) };
    let decision = set.admission(&inputs, &[fine.clone(), later.clone()]);
    assert_eq!((decision.verdict, decision.violations.len()), (Verdict::Warn, 1));
    let steps = [fine, later, step("c", &json!({"n": 500})), step("d", &json!({"n": 0}))];
    let decision = set.admission(&inputs, &steps);
    assert!(decision.is_lasting());
    assert_eq!(decision.violations[0].reason, "'n' of step 'c' is 500, more than 100, and 1 more");
}

#[test]
fn faults_are_all_found_with_their_place() {
    let constraints: Vec<Constraint> = [
        predicate("a", "hard", "budgett.spent < 5"),
        quantity("hard"),
        json!({"id": "b", "enforcement": "hard", "kind": "quantity", "parameter": "n"}),
        json!({"id": "c", "enforcement": "hard", "kind": "quantity", "parameter": "n", "min": 2, "max": 1}),
        json!({"id": "d", "enforcement": "hard", "kind": "time_window"}),
        json!({"id": "e", "enforcement": "hard", "kind": "time_window", "not_before": at(2), "not_after": at(2)}),
    ]
    .into_iter()
    .map(constraint)
    .collect();
    let faults = ConstraintSet::compile(&constraints).unwrap_err();
    assert_eq!(faults.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 2, 3, 4, 5]);
}

#[test]
fn conditions_always_bind_and_are_named_by_place() {
    let all = ["step.attempt == 1".to_owned(), "results.a.ok".to_owned(), "plan.steps > 2".to_owned()];
    let conditions = Conditions::compile(When::After, &all).unwrap();
    let decision = conditions.check(&inputs(0, json!({})));
    let found: Vec<_> = decision.violations.iter().map(|v| (v.constraint.as_str(), v.lasting)).collect();
    assert_eq!(found, [("postconditions/1", false), ("postconditions/2", true)]);
    assert_eq!(decision.verdict, Verdict::Deny);
    assert!(Conditions::compile(When::Before, &["1".to_owned()]).is_err());
}

#[test]
fn decisions_add_up() {
    let pass = Decision::from_violations(vec![]);
    assert_eq!(pass.verdict, Verdict::Pass);
    let warn = set(&[quantity("soft")]).runtime(&inputs(0, json!({"n": 0})));
    let deny = set(&[window("hard")]).runtime(&inputs(0, json!({})));
    let both = warn.and(deny).and(pass);
    assert_eq!((both.verdict, both.violations.len()), (Verdict::Deny, 2));
    let text = serde_json::to_string(&both).unwrap();
    assert_eq!(serde_json::from_str::<Decision>(&text).unwrap(), both);
}
