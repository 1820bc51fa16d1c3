//! The checks of verdicts.

use dat_plan::approval::{Outcome, Verdict};
use dat_plan::check::{self, CheckedVerdict};
use dat_plan::{Fault, FaultCode};
use serde_json::{Value, json};

use super::{edited, with_rules};

fn verdict(value: &Value) -> Result<CheckedVerdict, Vec<Fault>> {
    with_rules(|rules| check::verdict(value.to_string().as_bytes(), rules))
}

fn approval() -> Value {
    json!({
        "decision_id": "GGP-1", "plan_id": "0199d3a4-7c1e-7b1a-9c44-0a3f5d0c7421", "plan_version": 1,
        "plan_hash": format!("sha256:{}", "0a".repeat(32)), "outcome": "approved", "approver": "ops"
    })
}

fn full() -> Value {
    let mut value = approval();
    let more = json!({
        "constraint_set_hash": "sha256:00", "reason": "fits", "expires_at": "2026-12-06T00:00:00+01:00",
        "budget": {"amount": 5, "currency": "usd"}, "key_id": "k", "signature": "c2ln",
        "constraints": [{"id": "a", "kind": "predicate", "enforcement": "hard", "require": "budget.spent < 5"}]
    });
    if let (Value::Object(fields), Value::Object(more)) = (&mut value, more) {
        fields.extend(more);
    }
    value
}

#[test]
fn a_verdict_is_read_and_kept_as_sent() {
    let short = verdict(&approval()).map(|checked| checked.verdict.outcome);
    assert_eq!(short, Ok(Outcome::Approved));
    let sent = full();
    let checked = verdict(&sent).unwrap_or_else(|faults| panic!("{faults:?}"));
    assert_eq!(checked.value, sent, "the signature is over this");
    let again = serde_json::to_value(&checked.verdict).and_then(serde_json::from_value::<Verdict>);
    assert_eq!(again.ok(), Some(checked.verdict));
}

#[test]
fn every_fault_of_a_verdict_is_found_at_its_place() {
    use FaultCode as F;
    let cases = [
        ("/plan_hash", json!("sha256:00"), F::OutOfRange),
        ("/plan_hash", json!(format!("sha256:{}", "0A".repeat(32))), F::OutOfRange),
        ("/outcome", json!("maybe"), F::UnknownValue),
        ("/plan_id", json!("x"), F::OutOfRange),
        ("/plan_version", json!(0), F::OutOfRange),
        ("/decision_id", json!(""), F::OutOfRange),
        ("/approver", json!("x".repeat(201)), F::TooLarge),
        ("/expires_at", json!("soon"), F::OutOfRange),
        ("/reason", json!(7), F::WrongType),
        ("/approver", json!(null), F::WrongType),
        ("/budget/amount", json!(-1), F::OutOfRange),
        ("/constraints/0/require", json!("budgett.spent < 5"), F::BadPredicate),
        ("/comment", json!("x"), F::UnknownField),
    ];
    for (place, value, code) in cases {
        let found = verdict(&edited(&full(), place, Some(value))).err().unwrap_or_default();
        let found: Vec<_> = found.into_iter().map(|fault| (fault.pointer, fault.code)).collect();
        assert_eq!(found, [(place.to_owned(), code)]);
    }
    for required in ["/decision_id", "/plan_id", "/plan_version", "/plan_hash", "/outcome", "/approver"] {
        let found = verdict(&edited(&full(), required, None)).err().unwrap_or_default();
        let found: Vec<_> = found.into_iter().map(|fault| (fault.pointer, fault.code)).collect();
        assert_eq!(found, [(required.to_owned(), F::Missing)]);
    }
}

#[test]
fn what_a_governance_system_has_not_may_be_null() {
    for optional in
        ["reason", "expires_at", "budget", "constraints", "key_id", "signature", "constraint_set_hash"]
    {
        let place = format!("/{optional}");
        let checked = verdict(&edited(&full(), &place, Some(json!(null))));
        assert!(checked.is_ok(), "{optional}: {checked:?}");
    }
}

#[test]
fn several_faults_and_repeated_keys_are_one_answer() {
    let body = br#"{"outcome": "approved", "outcome": "rejected", "plan_version": 0, "approver": "a",
        "decision_id": "d", "plan_id": "0199d3a4-7c1e-7b1a-9c44-0a3f5d0c7421"}"#;
    let found = with_rules(|rules| check::verdict(body, rules)).err().unwrap_or_default();
    let pointers: Vec<String> = found.into_iter().map(|fault| fault.pointer).collect();
    assert_eq!(pointers, ["/outcome", "/plan_hash", "/plan_version"]);
}
