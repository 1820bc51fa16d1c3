//! The limits of a document: what is just within passes in bounded work, what is just beyond is refused.

use std::sync::atomic::{AtomicUsize, Ordering};

use dat_plan::FaultCode;
use dat_plan::check::{self, PredicateCheck, Rules};
use dat_plan::document::limits;
use serde_json::{Value, json};

use super::{document, edited, faults, submit, with_rules};

fn step(key: usize) -> Value {
    json!({"key": format!("s{key}"), "connector": "mux", "action": "x.do", "irreversible": true})
}

fn plan_of(steps: Vec<Value>) -> Value {
    edited(&document("defaults.json"), "/steps", Some(Value::Array(steps)))
}

#[test]
fn the_longest_chain_passes_with_a_reference_to_the_step_before_in_each() {
    let chain = (0..limits::STEPS).map(|key| {
        let before = json!({"$from": format!("s{}", key.max(1) - 1), "path": "/id"});
        if key == 0 { step(0) } else { edited(&step(key), "/parameters", Some(json!({"of": before}))) }
    });
    let checked =
        submit(plan_of(chain.collect()).to_string().as_bytes()).unwrap_or_else(|f| panic!("{:?}", f[0]));
    assert_eq!(checked.graph.order(), (0..limits::STEPS).collect::<Vec<_>>());
    assert!(checked.graph.is_ancestor(0, limits::STEPS - 1));
    assert_eq!(checked.graph.ancestors(limits::STEPS - 1).len(), limits::STEPS - 1);
}

#[test]
fn the_longest_ring_is_refused_up_to_the_faults_that_are_listed() {
    let ring = (0..limits::STEPS)
        .map(|key| edited(&step(key), "/needs", Some(json!([format!("s{}", (key + 1) % limits::STEPS)]))));
    let found = faults(&plan_of(ring.collect()));
    assert_eq!(found.len(), 1_000);
    assert_eq!(found[999], ("/steps/999/needs".to_owned(), FaultCode::Cycle));
}

#[test]
fn one_step_too_many_is_refused_without_a_look_at_what_steps_are_to_each_other() {
    let mut steps: Vec<Value> = (0..limits::STEPS).map(step).collect();
    steps.push(step(0));
    assert_eq!(faults(&plan_of(steps)), [("/steps".to_owned(), FaultCode::TooLarge)]);
}

#[test]
fn lists_have_their_most() {
    let plan = document("defaults.json");
    let constraint = |id: usize| json!({"id": format!("c{id}"), "kind": "quantity", "enforcement": "soft", "parameter": "q", "max": 1});
    let constraints = |count: usize| Some((0..count).map(constraint).collect());
    assert_eq!(faults(&edited(&plan, "/constraints", constraints(limits::CONSTRAINTS))), []);
    let found = faults(&edited(&plan, "/constraints", constraints(limits::CONSTRAINTS + 1)));
    assert_eq!(found, [("/constraints".to_owned(), FaultCode::TooLarge)]);

    let labels = |count: usize| Some((0..count).map(|label| (label.to_string(), json!("x"))).collect());
    assert_eq!(faults(&edited(&plan, "/labels", labels(limits::LABELS))), []);
    let found = faults(&edited(&plan, "/labels", labels(limits::LABELS + 1)));
    assert_eq!(found, [("/labels".to_owned(), FaultCode::TooLarge)]);

    let conditions = |count: usize| Some(json!(vec!["budget.spent < 1"; count]));
    assert_eq!(faults(&edited(&plan, "/steps/0/preconditions", conditions(limits::CONDITIONS))), []);
    let found = faults(&edited(&plan, "/steps/0/preconditions", conditions(limits::CONDITIONS + 1)));
    assert_eq!(found, [("/steps/0/preconditions".to_owned(), FaultCode::TooLarge)]);
}

#[test]
fn a_label_name_is_one_to_a_hundred_characters() {
    let plan = document("defaults.json");
    let named = |name: &str| edited(&plan, "/labels", Some(json!({name: "x"})));
    assert_eq!(faults(&named(&"ä".repeat(100))), []);
    assert_eq!(faults(&named("")), [("/labels/".to_owned(), FaultCode::OutOfRange)]);
    let long = "ä".repeat(101);
    assert_eq!(faults(&named(&long)), [(format!("/labels/{long}"), FaultCode::OutOfRange)]);
}

#[test]
fn depth_counts_the_whole_document() {
    // The document, `steps`, the step and its `parameters` are four.
    let nested = |depth: usize| {
        let parameters = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let body = plan_of(vec![edited(&step(0), "/parameters", Some(json!({"deep": "HERE"})))]).to_string();
        submit(body.replace("\"HERE\"", &parameters).as_bytes())
    };
    assert!(nested(limits::DEPTH - 4).is_ok());
    let found = nested(limits::DEPTH - 3).err().unwrap_or_default();
    assert_eq!((found.len(), found[0].pointer.as_str(), found[0].code), (1, "", FaultCode::TooLarge));
}

/// Counts what it is asked.
#[derive(Debug, Default)]
struct Counting(AtomicUsize);

impl PredicateCheck for Counting {
    fn check(&self, _: &str) -> Result<(), String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Checks a plan, and says how many predicates were judged.
fn judged(plan: &Value) -> (Vec<(String, FaultCode)>, usize) {
    let counting = Counting::default();
    let body = plan.to_string();
    let checked =
        with_rules(|rules| check::plan(body.as_bytes(), &Rules { predicates: &counting, ..*rules }));
    let faults = checked.err().unwrap_or_default().into_iter().map(|fault| (fault.pointer, fault.code));
    (faults.collect(), counting.0.into_inner())
}

#[test]
fn a_predicate_that_many_steps_share_is_judged_once() {
    let shared = |key| edited(&step(key), "/preconditions", Some(json!(["budget.spent < 1"])));
    assert_eq!(judged(&plan_of((0..100).map(shared).collect())), (vec![], 1));
}

#[test]
fn an_empty_predicate_is_none_whoever_judges() {
    let empty = edited(&step(0), "/preconditions", Some(json!([""])));
    let expected = vec![("/steps/0/preconditions/0".to_owned(), FaultCode::BadPredicate)];
    assert_eq!(judged(&plan_of(vec![empty])), (expected, 0));
}

#[test]
fn different_predicates_have_their_most() {
    let steps = limits::PREDICATES.div_ceil(limits::CONDITIONS);
    let conditions = |key: usize| {
        let numbers = key * limits::CONDITIONS..((key + 1) * limits::CONDITIONS).min(limits::PREDICATES);
        let conditions: Vec<String> = numbers.map(|number| format!("budget.spent < {number}")).collect();
        edited(&step(key), "/preconditions", Some(json!(conditions)))
    };
    let plan = plan_of((0..steps).map(conditions).collect());
    assert_eq!(judged(&plan), (vec![], limits::PREDICATES));
    let one_more = edited(&plan, "/steps/0/postconditions", Some(json!(["budget.spent < -1"])));
    let (faults, count) = judged(&one_more);
    // The steps are judged in their order, so it is the last predicate that no longer fits.
    let last = (limits::PREDICATES - 1) % limits::CONDITIONS;
    let expected = (format!("/steps/{}/preconditions/{last}", steps - 1), FaultCode::TooLarge);
    assert_eq!((faults, count), (vec![expected], limits::PREDICATES));
}

#[test]
fn the_answer_to_long_keys_stays_small() {
    let key = "k".repeat(1_000_000);
    let references: Vec<Value> = (0..1_000).map(|_| json!({"$from": "gone", "path": ""})).collect();
    let body = plan_of(vec![edited(&step(0), "/parameters", Some(json!({key: references})))]).to_string();
    let found = submit(body.as_bytes()).err().unwrap_or_default();
    let bytes: usize = found.iter().map(|fault| fault.pointer.len() + fault.message.len()).sum();
    assert!(!found.is_empty() && bytes <= 1024 * 1024, "{bytes} bytes");
}
