//! The checks of plans and verdicts, over documents as they come from outside; and the check of a model of the budget
//! protocol, which is built of this crate's own decisions.

mod budget_protocol;
mod canonical;
mod collection;
mod constraints;
mod contract;
mod limits;
mod limits_document;
mod mutation;
mod order;
mod states;
mod verdict;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dat_plan::check::{self, Checked, PredicateCheck, Rules};
use dat_plan::{Fault, FaultCode};
use serde_json::Value;

/// Takes for a predicate what compares something, and knows no `budgett`.
#[derive(Debug)]
struct Comparisons;

impl PredicateCheck for Comparisons {
    fn check(&self, expression: &str) -> Result<(), String> {
        if expression.contains("budgett") {
            return Err("unknown name 'budgett'".to_owned());
        }
        if expression.contains(['<', '=']) { Ok(()) } else { Err("not boolean".to_owned()) }
    }
}

/// Runs with the rules of a fleet that has `echo`, `http` and `mux`.
fn with_rules<T>(run: impl FnOnce(&Rules<'_>) -> T) -> T {
    let connectors: BTreeSet<String> = ["echo", "http", "mux"].map(str::to_owned).into();
    run(&Rules { connectors: &connectors, predicates: &Comparisons })
}

fn submit(body: &[u8]) -> Result<Checked, Vec<Fault>> {
    with_rules(|rules| check::plan(body, rules))
}

/// The faults of a document: pointer and kind, in the order they are answered in.
fn faults(document: &Value) -> Vec<(String, FaultCode)> {
    let faults = submit(document.to_string().as_bytes()).err().unwrap_or_default();
    faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect()
}

fn pointers(body: &[u8]) -> Vec<String> {
    let faults = submit(body).err().unwrap_or_default();
    faults.into_iter().map(|fault| fault.pointer).collect()
}

/// This crate's own documents.
fn own(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans").join(name)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn document(name: &str) -> Value {
    serde_json::from_slice(&read(&own(name))).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The document with the value at a pointer set, be it there or not; `None` removes it.
fn edited(document: &Value, pointer: &str, value: Option<Value>) -> Value {
    let mut document = document.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap_or_else(|| panic!("{pointer} names no field"));
    let parent = document.pointer_mut(parent).unwrap_or_else(|| panic!("nothing stands at {parent}"));
    match (parent, value) {
        (Value::Object(fields), Some(value)) => {
            fields.insert(name.to_owned(), value);
        }
        (Value::Object(fields), None) => {
            fields.remove(name);
        }
        (Value::Array(items), value) => {
            let index: usize = name.parse().unwrap_or_else(|_| panic!("{name} is no place in a list"));
            items.splice(index..(index + 1).min(items.len()), value);
        }
        (other, _) => panic!("{other} has no fields"),
    }
    document
}
