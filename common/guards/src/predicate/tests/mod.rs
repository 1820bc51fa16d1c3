mod bounds;
mod faults;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta};
use dat_plan::{Currency, StepKey};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::inputs::{BudgetFacts, PlanFacts, StepFacts};

fn object(json: Value) -> serde_json::Map<String, Value> {
    match json {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

fn inputs() -> Inputs {
    Inputs {
        now: DateTime::UNIX_EPOCH + TimeDelta::days(20_000),
        plan: PlanFacts {
            id: Uuid::nil(),
            version: 3,
            name: "Launch".to_owned(),
            priority: 4,
            labels: BTreeMap::from([
                ("team".to_owned(), "ops".to_owned()),
                ("area".to_owned(), "eu".to_owned()),
            ]),
            steps: 12,
        },
        tenant: "acme".to_owned(),
        step: Some(StepFacts {
            key: StepKey("order".to_owned()),
            index: 2,
            attempt: 1,
            connector: "mux".to_owned(),
            action: "order.place".to_owned(),
            parameters: object(json!({
                "quantity": 100, "price": 9.5, "whole": 2.0, "sku": "X", "tags": ["a", "b"], "none": null,
                "nested": {"deep": [{"n": 1}, {"n": 2}]}, "huge": 9_223_372_036_854_775_807_i64,
            })),
        }),
        budget: BudgetFacts { amount: 500, spent: 99, reserved: 10, currency: Currency("usd".to_owned()) },
        results: object(
            json!({"listing": {"listing_id": "L-1", "ok": true}, "ads": {"ok": true, "cost": 5}}),
        ),
        counts: crate::inputs::Counts::default(),
    }
}

fn outcome(expression: &str) -> Outcome {
    match Predicate::compile(expression) {
        Ok(predicate) => predicate.evaluate(&inputs()),
        Err(fault) => panic!("'{expression}': {fault}"),
    }
}

fn fault(expression: &str) -> PredicateFault {
    match Predicate::compile(expression) {
        Ok(_) => panic!("'{expression}' compiled"),
        Err(fault) => fault,
    }
}

#[test]
fn what_holds_holds() {
    for expression in [
        "true",
        "budget.spent * 5 < budget.amount",
        "budget.spent + budget.reserved <= budget.amount && budget.currency == 'usd'",
        "tenant == 'acme' && tenant in ['acme', 'globex']",
        "now > timestamp('2020-01-01T00:00:00Z') && now - timestamp('2020-01-01T00:00:00Z') > duration('24h')",
        "now.getHours() == 0 && now.getFullYear('Europe/Berlin') == 2024",
        "plan.id == '00000000-0000-0000-0000-000000000000' && plan.version == 3 && plan.name.startsWith('Lau')",
        "plan.priority == 4 && plan.steps == 12",
        "plan.labels.team == 'ops' && 'area' in plan.labels && !has(plan.labels.tier)",
        "plan.labels.map(l, l) == ['area', 'team']",
        "step.key == 'order' && step.index == 2 && step.attempt < 2",
        "step.parameters.quantity * 2 == 200 && step.parameters['price'] < 10",
        "step.parameters.quantity < 100.5 && double(step.parameters.quantity) * 0.5 == 50.0",
        "step.parameters.whole + 1 == 3",
        "'b' in step.parameters.tags && step.parameters.tags == ['a', 'b'] && ['a', 'b'] == step.parameters.tags",
        "step.parameters.none == null && size(step.parameters.tags) == 2 && step.parameters.tags.size() == 2",
        "step.parameters.nested.deep.all(d, d.n > 0) && step.parameters.nested.deep[1].n == 2",
        "step.parameters.nested == step.parameters.nested && results != step.parameters.nested",
        "results.listing.listing_id == 'L-1' && results['ads'].cost == 5 && has(results.ads)",
        "results.all(key, results[key].ok)",
        "results.exists_one(key, has(results[key].cost))",
        "results.filter(key, key != 'ads') == ['listing'] && results.map(key, results[key].ok) == [true, true]",
        "size(results) == 2 && (has(results.other) ? results.other.ok : true)",
        "results.all(key, step.parameters.nested.deep.exists(d, d.n == 2))",
        "true || results.other.ok",
    ] {
        assert_eq!(outcome(expression), Outcome::Holds, "{expression}");
    }
}

#[test]
fn what_does_not_hold_denies_with_its_reason() {
    for (expression, reason) in [
        ("budget.spent > budget.amount", "is false"),
        ("results.other.ok", "No such key: other"),
        ("results['other'].ok == true", "No such key: other"),
        ("plan.labels.tier == 'gold'", "No such key: tier"),
        ("step.parameters.tags[5] == 'x'", "out of bounds"),
        ("step.parameters.huge + 1 > 0", "Overflow"),
        ("budget.spent * 9223372036854775807 > 0", "Overflow"),
        ("budget.spent / (budget.amount - 500) == 0", "Division by zero"),
        ("step.parameters.quantity * 0.5 < 1.0", "Unsupported binary operator"),
        ("step.parameters.sku < 5", "no matching overload"),
        ("step.parameters.sku", "is string, neither true nor false"),
        ("results.listing", "is map, neither true nor false"),
        ("step.parameters.nested.deep.all(d, d.absent)", "No such key: absent"),
        ("int(step.parameters.sku) == 1", "string parse error"),
    ] {
        let Outcome::Fails(found) = outcome(expression) else { panic!("'{expression}' holds") };
        assert!(found.contains(reason), "'{expression}': {found}");
    }
}

#[test]
fn a_predicate_on_a_step_denies_without_one() {
    let predicate = Predicate::compile("step.index >= 0").unwrap();
    let outcome = predicate.evaluate(&Inputs { step: None, ..inputs() });
    assert!(matches!(outcome, Outcome::Fails(reason) if reason.contains("Undeclared reference")));
}

#[test]
fn what_is_read_is_known() {
    let reads = |expression| Predicate::compile(expression).unwrap().reads().clone();
    let of = |keys: &[&str]| ResultsRead::Of(keys.iter().map(|key| (*key).to_owned()).collect());
    assert_eq!(reads("results.a.x == results['b'].y").results, of(&["a", "b"]));
    assert_eq!(reads("has(results.a)").results, of(&["a"]));
    assert_eq!(reads("results[tenant] == 1 && results.a == 1").results, ResultsRead::All);
    assert_eq!(reads("size(results) > 0").results, ResultsRead::All);
    assert!(reads("tenant == 'x'").plan_only() && !reads("tenant == plan.name").can_change());
    assert!(reads("now > timestamp(0) && budget.spent < 5").plan_only());
    assert!(reads("budget.spent < 5").can_change() && reads("now > timestamp(0)").can_change());
    assert!(!reads("step.index == 0").plan_only());
}

#[test]
fn recorded_inputs_decide_alike() {
    let recorded = serde_json::to_string(&inputs()).unwrap();
    let read: Inputs = serde_json::from_str(&recorded).unwrap();
    assert_eq!(read, inputs());
}
