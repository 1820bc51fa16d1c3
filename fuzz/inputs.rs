//! What comes from outside, as bytes: nothing of it may panic, and what is refused is refused with words and a place.
//!
//! **Owns** one function for each kind of input. **May be called** by the fuzz targets of this folder, and by the bounded
//! run that `make test` makes of the same functions. **Must never** need a server.

use std::collections::BTreeSet;

use dat_guards::{CelCheck, Conditions, Inputs, Predicate, When};
use dat_plan::check::{self, Rules};
use dat_plan::checkpoint::Checkpoint;
use dat_plan::export::Export;
use dat_plan::signing::Trust;
use dat_plan::{Fault, PlanHash};
use serde_json::json;

/// Asks one kind of input.
type Input = fn(&[u8]);

/// Every kind, by its name.
pub(crate) const KINDS: [(&str, Input); 7] = [
    ("plan", plan),
    ("verdict", verdict),
    ("constraints", constraints),
    ("limits", limits),
    ("predicate", predicate),
    ("export", export),
    ("references", references),
];

/// Faults are never more than this; a message to a producer is no place for a million.
const FAULTS: usize = 100_000;

fn rules<T>(run: impl FnOnce(&Rules<'_>) -> T) -> T {
    let connectors: BTreeSet<String> = ["echo", "http", "mux"].map(str::to_owned).into();
    run(&Rules { connectors: &connectors, predicates: &CelCheck })
}

/// Every refusal says where and why.
fn are_clear(faults: &[Fault]) {
    assert!(!faults.is_empty() && faults.len() <= FAULTS, "{} faults", faults.len());
    for fault in faults {
        assert!(!fault.message.is_empty(), "{fault:?} does not say why");
        assert!(fault.pointer.is_empty() || fault.pointer.starts_with('/'), "{fault:?} points nowhere");
    }
}

/// A plan document, its `$from` references and predicates among what is checked.
pub(crate) fn plan(body: &[u8]) {
    match rules(|rules| check::plan(body, rules)) {
        Ok(_) => {
            let value: serde_json::Value = serde_json::from_slice(body).expect("what is taken is JSON");
            assert!(PlanHash::of(&value).is_ok(), "it was taken and has no hash");
        }
        Err(faults) => are_clear(&faults),
    }
}

/// A verdict.
pub(crate) fn verdict(body: &[u8]) {
    if let Err(faults) = rules(|rules| check::verdict(body, rules)) {
        are_clear(&faults);
    }
}

/// A constraint set of the operators.
pub(crate) fn constraints(body: &[u8]) {
    if let Err(faults) = rules(|rules| check::constraint_document(body, rules)) {
        are_clear(&faults);
    }
}

/// Limits of tenants.
pub(crate) fn limits(body: &[u8]) {
    if let Err(faults) = check::limits_document(body) {
        are_clear(&faults);
    }
}

/// A predicate: compiled, and where that is possible asked.
pub(crate) fn predicate(body: &[u8]) {
    let Ok(source) = std::str::from_utf8(body) else { return };
    if let Err(fault) = Predicate::compile(source) {
        assert!(!fault.to_string().is_empty(), "it does not say why");
        return;
    }
    let conditions = Conditions::compile(When::Before, &[source.to_owned()]).expect("it compiled alone");
    let _ = conditions.check(&facts());
}

/// What predicates see, with something in every place.
fn facts() -> Inputs {
    serde_json::from_value(json!({
        "now": "2026-11-25T10:00:00Z", "tenant": "acme",
        "plan": {"id": "0199d3a4-7c1e-7b1a-9c44-0a3f5d0c7421", "version": 1, "name": "a", "priority": 4,
                 "labels": {"a": "b"}, "steps": 3},
        "step": {"key": "a", "index": 0, "attempt": 1, "parameters": {"quantity": 3, "list": [1, 2, {"b": null}]}},
        "budget": {"amount": 100, "currency": "usd", "spent": 10, "reserved": 5},
        "results": {"a": {"listing_id": "x", "numbers": [1.5, 9_007_199_254_740_991_i64]}},
    }))
    .expect("the facts of a decision")
}

/// `$from` references as a step meets them: parameters as they were approved, and results as a connector answered. Two
/// JSON objects, one a line.
pub(crate) fn references(body: &[u8]) {
    let mut objects = body.splitn(2, |byte| *byte == b'\n').map(serde_json::from_slice);
    let (Some(Ok(parameters)), Some(Ok(results))) = (objects.next(), objects.next()) else { return };
    match dat_plan::references::resolve(&parameters, &results) {
        Ok(_) => assert!(dat_plan::references::unresolved(&parameters, &results).is_empty()),
        Err(dangling) => assert!(!dangling.to_string().is_empty(), "it does not say why"),
    }
    let _ = dat_plan::references::resolve_or_null(&parameters, &results);
    dat_plan::references::named(&parameters, &mut Vec::new());
}

/// An exported plan, or a checkpoint that someone kept.
pub(crate) fn export(body: &[u8]) {
    if let Ok(export) = serde_json::from_slice::<Export>(body)
        && let Ok(report) = export.verify(&Trust::default())
    {
        assert!(report.faults.iter().all(|fault| !fault.is_empty()), "a fault says nothing");
    }
    if let Ok(text) = std::str::from_utf8(body)
        && let Err(error) = Checkpoint::read(text)
    {
        assert!(!error.to_string().is_empty(), "it does not say why");
    }
}
