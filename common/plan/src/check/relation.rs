//! What steps are to each other: keys, needs, cycles, references.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::cycle;
use super::reference::{self, Steps};
use crate::document::limits;
use crate::fault::FaultCode;
use crate::graph;
use crate::json::{Faults, Place, quoted};

/// Reads what fields of different steps mean together. Says nothing of values of a wrong type, which is said where a
/// step is read by itself, nor anything of a plan without steps or with more than [`limits::STEPS`].
pub(super) fn read(plan: &Value, faults: &mut Faults) {
    let list = plan.get("steps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() || list.len() > limits::STEPS {
        return;
    }
    let index = read_keys(plan, list, faults);
    let needs = read_needs(list, &index, faults);
    let root = Place::ROOT;
    let place = root.field("steps");
    for step in cycle::members(&needs) {
        let message = "the step is on a cycle: it needs itself, directly or by way of others";
        faults.add(&place.item(step).field("needs"), FaultCode::Cycle, message);
    }
    reference::read(plan, &Steps { list, index, needs }, faults);
}

/// The plan's own rollback list, empty where there is none.
pub(super) fn rollback_steps(plan: &Value) -> &[Value] {
    let steps = plan.get("rollback").and_then(|rollback| rollback.get("steps"));
    steps.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Finds keys that stand twice, and where each of the steps' own stands first.
fn read_keys<'v>(plan: &'v Value, list: &'v [Value], faults: &mut Faults) -> HashMap<&'v str, usize> {
    let root = Place::ROOT;
    let mut index = HashMap::with_capacity(list.len());
    let mut seen = HashSet::with_capacity(list.len());
    let mut read = |list: &'v [Value], place: Place<'_>, mut first: Option<&mut HashMap<&'v str, usize>>| {
        for (step, found) in list.iter().enumerate() {
            let Some(key) = key(found) else { continue };
            if !seen.insert(key) {
                let message = format!("the key {} stands on an earlier step already", quoted(key));
                faults.add(&place.item(step).field("key"), FaultCode::Duplicate, message);
            } else if let Some(index) = first.as_mut() {
                index.insert(key, step);
            }
        }
    };
    read(list, root.field("steps"), Some(&mut index));
    read(rollback_steps(plan), root.field("rollback").field("steps"), None);
    index
}

/// The places of the steps that each step needs, of those that are there.
fn read_needs(list: &[Value], index: &HashMap<&str, usize>, faults: &mut Faults) -> Vec<Vec<usize>> {
    let root = Place::ROOT;
    let place = root.field("steps");
    let mut needs = Vec::with_capacity(list.len());
    for (step, found) in list.iter().enumerate() {
        let Some(value) = found.get("needs") else {
            needs.push(graph::implicit_need(step));
            continue;
        };
        let place = place.item(step);
        let place = place.field("needs");
        let mut own = Vec::new();
        let mut seen = HashSet::new();
        for (number, need) in value.as_array().into_iter().flatten().enumerate() {
            let Some(need) = need.as_str() else { continue };
            if !seen.insert(need) {
                let message = format!("{} stands in this list already", quoted(need));
                faults.add(&place.item(number), FaultCode::Duplicate, message);
            } else if let Some(needed) = index.get(need) {
                own.push(*needed);
            } else {
                let message = format!("{} is not a step of the plan", quoted(need));
                faults.add(&place.item(number), FaultCode::UnknownReference, message);
            }
        }
        needs.push(own);
    }
    needs
}

fn key(step: &Value) -> Option<&str> {
    step.get("key").and_then(Value::as_str)
}
