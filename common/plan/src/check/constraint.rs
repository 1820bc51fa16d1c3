//! Constraints: of a plan, of a verdict, of an operator.

use std::collections::HashSet;

use super::node::{Node, Object};
use super::{Check, counted, predicate};
use crate::document::{Enforcement, limits};
use crate::fault::FaultCode;
use crate::ids::StepKey;
use crate::json::{Faults, quoted};

/// The kinds of rules.
const KINDS: &str =
    "`time_window`, `quantity`, `rate`, `concurrency`, `spend`, `risk`, `capability` or `predicate`";
const TIME_WINDOW: &[&str] = &["id", "enforcement", "kind", "not_before", "not_after"];
const QUANTITY: &[&str] = &["id", "enforcement", "kind", "parameter", "min", "max"];
const RISK: &[&str] = &["id", "enforcement", "kind", "label", "max"];
const PREDICATE: &[&str] = &["id", "enforcement", "kind", "require"];
const DOCUMENT: &[&str] = &["format", "constraints"];

/// Reads an operator's constraint document.
pub(super) fn read_document(node: Node<'_, '_>, check: &mut Check<'_>) {
    let Some(document) = node.object(DOCUMENT, &mut check.faults) else { return };
    if let Some(node) = document.require("format", &mut check.faults) {
        node.integer(1..=1, &mut check.faults);
    }
    if let Some(node) = document.require("constraints", &mut check.faults) {
        read_list(node, check);
    }
}

/// Reads a list of constraints.
pub(super) fn read_list(node: Node<'_, '_>, check: &mut Check<'_>) {
    let list = node.list_of_at_most(limits::CONSTRAINTS, &mut check.faults).unwrap_or_default();
    let mut ids = HashSet::new();
    for (index, item) in list.iter().enumerate().take(limits::CONSTRAINTS) {
        let Some(constraint) = node.item(index, item).map(&mut check.faults) else { continue };
        let id = constraint.require("id", &mut check.faults);
        if let Some(id) = id.and_then(|node| read_id(node, &mut check.faults))
            && !ids.insert(id)
        {
            let message = format!("the id {} stands on an earlier constraint already", quoted(id));
            constraint.fault_at("id", FaultCode::Duplicate, message, &mut check.faults);
        }
        if let Some(node) = constraint.require("enforcement", &mut check.faults) {
            node.word::<Enforcement>(&mut check.faults);
        }
        read_rule(&constraint, check);
    }
}

fn read_id<'v>(node: Node<'v, '_>, faults: &mut Faults) -> Option<&'v str> {
    node.form(
        StepKey::is_valid,
        "1 to 100 characters of A-Z a-z 0-9 . _ - that start with a letter or digit",
        faults,
    )
}

fn read_rule(constraint: &Object<'_, '_>, check: &mut Check<'_>) {
    let kind = constraint.require("kind", &mut check.faults);
    let Some(kind) = kind.and_then(|node| Some((node, node.any_text(&mut check.faults)?))) else { return };
    match kind {
        (_, "time_window") => read_time_window(constraint, &mut check.faults),
        (_, "quantity") => read_quantity(constraint, &mut check.faults),
        (_, "rate") => counted::read_rate(constraint, check),
        (_, "concurrency") => counted::read_concurrency(constraint, check),
        (_, "spend") => counted::read_spend(constraint, check),
        (_, "risk") => read_risk(constraint, &mut check.faults),
        (_, "capability") => counted::read_capability(constraint, check),
        (_, "predicate") => {
            constraint.refuse_unknown(PREDICATE, &mut check.faults);
            if let Some(node) = constraint.require("require", &mut check.faults) {
                predicate::read(node, check);
            }
        }
        (node, other) => {
            let message = format!("{} is not {KINDS}", quoted(other));
            check.faults.add(&node.place, FaultCode::UnknownValue, message);
        }
    }
}

fn read_risk(constraint: &Object<'_, '_>, faults: &mut Faults) {
    constraint.refuse_unknown(RISK, faults);
    if let Some(node) = constraint.get("label") {
        node.text(1..=limits::LABEL_NAME_CHARS, faults);
    }
    if let Some(node) = constraint.require("max", faults) {
        node.number(faults);
    }
}

fn read_time_window(constraint: &Object<'_, '_>, faults: &mut Faults) {
    constraint.refuse_unknown(TIME_WINDOW, faults);
    let not_before = constraint.get("not_before").and_then(|node| node.time(faults));
    let not_after = constraint.get("not_after").and_then(|node| node.time(faults));
    if !constraint.has("not_before") && !constraint.has("not_after") {
        let message = "a time window needs `not_before`, `not_after` or both";
        constraint.fault_at("not_after", FaultCode::Missing, message, faults);
    }
    if let (Some(from), Some(to)) = (not_before, not_after)
        && from >= to
    {
        constraint.fault_at("not_after", FaultCode::OutOfRange, "the window ends before it begins", faults);
    }
}

fn read_quantity(constraint: &Object<'_, '_>, faults: &mut Faults) {
    constraint.refuse_unknown(QUANTITY, faults);
    if let Some(node) = constraint.require("parameter", faults) {
        node.text(1..=limits::TEXT_CHARS, faults);
    }
    let min = constraint.get("min").and_then(|node| node.number(faults));
    let max = constraint.get("max").and_then(|node| node.number(faults));
    if !constraint.has("min") && !constraint.has("max") {
        let message = "a quantity needs `min`, `max` or both";
        constraint.fault_at("max", FaultCode::Missing, message, faults);
    }
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        constraint.fault_at("max", FaultCode::OutOfRange, format!("{max} is less than `min`, {min}"), faults);
    }
}
