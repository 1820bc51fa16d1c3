//! Constraint documents: every kind, every bound, every fault with its pointer.

use dat_plan::check::{self, CheckedConstraints};
use dat_plan::{Fault, FaultCode as F};
use serde_json::{Value, json};

use crate::{document, edited, faults, with_rules};

fn read(document: &Value) -> Result<CheckedConstraints, Vec<Fault>> {
    with_rules(|rules| check::constraint_document(document.to_string().as_bytes(), rules))
}

fn of(constraints: &[Value]) -> Value {
    json!({"format": 1, "constraints": constraints})
}

/// One of each kind, with every field that it can have.
fn every_kind() -> Vec<Value> {
    let rule = |id: &str, fields: Value| {
        let mut rule = json!({"id": id, "enforcement": "hard"});
        rule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        rule
    };
    vec![
        rule("w", json!({"kind": "time_window", "not_before": "2026-11-22T00:00:00Z"})),
        rule("q", json!({"kind": "quantity", "parameter": "n", "min": 1.5, "max": 2.5})),
        rule(
            "r",
            json!({"kind": "rate", "connector": "mux", "action": "ads.*", "per": "tenant", "count": 50,
                   "period_ms": 1000, "burst": 10}),
        ),
        rule(
            "c",
            json!({"kind": "concurrency", "connector": "mux", "action": "ads.enable", "per": "plan",
                   "parameter": "account", "max": 3}),
        ),
        rule(
            "s",
            json!({"kind": "spend", "connector": "mux", "action": "*", "per": "action", "period": "day",
                   "currency": "usd", "max": 5000}),
        ),
        rule("k", json!({"kind": "risk", "label": "score", "max": 0.7})),
        rule(
            "a",
            json!({"kind": "capability", "allow": [{"connector": "mux", "actions": ["ads.*"]}, {"connector": "echo"}]}),
        ),
        rule("p", json!({"kind": "predicate", "require": "budget.spent < 5"})),
    ]
}

#[test]
fn a_document_with_every_kind_is_read_and_hashed_as_it_stands() {
    let value = of(&every_kind());
    let checked = read(&value).unwrap_or_else(|faults| panic!("{faults:?}"));
    assert_eq!(checked.document.constraints.len(), 8);
    assert_eq!(checked.hash, dat_plan::PlanHash::of(&value).unwrap());
    // What is read is written again without loss.
    assert_eq!(json!(checked.document), value_with_defaults(value));
    // An empty list takes earlier rules back.
    assert!(read(&of(&[])).is_ok());
}

/// The one default among [`every_kind`] that is left out.
fn value_with_defaults(mut value: Value) -> Value {
    value["constraints"][6]["allow"][1]["actions"] = json!(["*"]);
    value
}

#[test]
fn a_plan_takes_every_kind_too() {
    let plan = edited(&document("every-field.json"), "/constraints", Some(every_kind().into()));
    assert_eq!(faults(&plan), []);
}

#[test]
fn each_fault_of_a_constraint_is_named_at_its_place() {
    for (pointer, value, code) in [
        ("/format", json!(2), F::OutOfRange),
        ("/format", json!("1"), F::WrongType),
        ("/more", json!(1), F::UnknownField),
        ("/constraints", json!({}), F::WrongType),
        ("/constraints/0/kind", json!("wish"), F::UnknownValue),
        ("/constraints/1/id", json!("w"), F::Duplicate),
        ("/constraints/2/connector", json!("smoke"), F::UnknownConnector),
        ("/constraints/2/action", json!("a*b"), F::OutOfRange),
        ("/constraints/2/per", json!("week"), F::UnknownValue),
        ("/constraints/2/count", json!(0), F::OutOfRange),
        ("/constraints/2/count", json!(1_000_001), F::OutOfRange),
        ("/constraints/2/period_ms", json!(86_400_001), F::OutOfRange),
        ("/constraints/2/burst", json!(0), F::OutOfRange),
        ("/constraints/2/enforcement", json!("soft"), F::OutOfRange),
        ("/constraints/2/max", json!(1), F::UnknownField),
        ("/constraints/3/max", json!(0), F::OutOfRange),
        ("/constraints/3/max", json!(1.5), F::WrongType),
        ("/constraints/3/parameter", json!(""), F::OutOfRange),
        ("/constraints/4/period", json!("week"), F::UnknownValue),
        ("/constraints/4/currency", json!("USD"), F::OutOfRange),
        ("/constraints/4/max", json!(-1), F::OutOfRange),
        ("/constraints/5/max", json!("low"), F::WrongType),
        ("/constraints/5/label", json!(1), F::WrongType),
        ("/constraints/6/allow", json!([]), F::OutOfRange),
        ("/constraints/6/allow/0/connector", json!("smoke"), F::UnknownConnector),
        ("/constraints/6/allow/0/actions", json!([]), F::OutOfRange),
        ("/constraints/6/allow/0/actions/0", json!("**"), F::OutOfRange),
        ("/constraints/6/allow/1/scope", json!("all"), F::UnknownField),
        ("/constraints/7/require", json!("budgett.spent < 5"), F::BadPredicate),
    ] {
        let broken = edited(&of(&every_kind()), pointer, Some(value.clone()));
        let found: Vec<(String, F)> =
            read(&broken).err().unwrap_or_default().into_iter().map(|f| (f.pointer, f.code)).collect();
        assert_eq!(found, [(pointer.to_owned(), code)], "{pointer} as {value}");
    }
}

#[test]
fn a_rate_that_no_schedule_keeps_is_refused() {
    let rate = |count: i64, period_ms: i64, burst: i64| {
        of(&[
            json!({"id": "r", "enforcement": "hard", "kind": "rate", "count": count, "period_ms": period_ms,
                    "burst": burst}),
        ])
    };
    let pointers = |document: &Value| -> Vec<String> {
        read(document).err().unwrap_or_default().into_iter().map(|fault| fault.pointer).collect()
    };
    assert_eq!(pointers(&rate(1_000, 1, 1)), [""; 0]);
    assert_eq!(pointers(&rate(1_001, 1, 1)), ["/constraints/0/count"]);
    assert_eq!(pointers(&rate(1, 86_400_000, 2)), ["/constraints/0/burst"]);
}

#[test]
fn what_must_be_there_is_missed() {
    for pointer in [
        "/format",
        "/constraints",
        "/constraints/2/count",
        "/constraints/2/period_ms",
        "/constraints/3/max",
        "/constraints/4/period",
        "/constraints/4/currency",
        "/constraints/4/max",
        "/constraints/5/max",
        "/constraints/6/allow",
        "/constraints/6/allow/0/connector",
    ] {
        let broken = edited(&of(&every_kind()), pointer, None);
        let found: Vec<(String, F)> =
            read(&broken).err().unwrap_or_default().into_iter().map(|f| (f.pointer, f.code)).collect();
        assert_eq!(found, [(pointer.to_owned(), F::Missing)]);
    }
}

#[test]
fn every_fault_is_found_at_once() {
    let broken =
        of(&[json!({"id": "a"}), json!(1), json!({"id": "b", "enforcement": "hard", "kind": "spend"})]);
    let found: Vec<String> =
        read(&broken).err().unwrap_or_default().into_iter().map(|fault| fault.pointer).collect();
    assert_eq!(
        found,
        [
            "/constraints/0/enforcement",
            "/constraints/0/kind",
            "/constraints/1",
            "/constraints/2/currency",
            "/constraints/2/max",
            "/constraints/2/period",
        ]
    );
}
