//! One step: its action, its limits, and its way back.

use super::node::{Node, Object};
use super::{Check, predicate};
use crate::amount::MAX;
use crate::document::limits;
use crate::fault::FaultCode;
use crate::ids::StepKey;
use crate::json::{Faults, quoted};
use crate::mux;

/// The connector whose actions are routing keys, one of which is taken.
const MUX: &str = "mux";

const STEP: &[&str] = &[
    "key",
    "connector",
    "action",
    "parameters",
    "needs",
    "max_cost",
    "timeout_ms",
    "not_before",
    "retry",
    "preconditions",
    "postconditions",
    "compensation",
    "irreversible",
];
const COMPENSATION: &[&str] = &["action", "parameters", "connector", "max_cost", "retry"];
const ROLLBACK_STEP: &[&str] = &["key", "connector", "action", "parameters", "max_cost", "retry"];
const RETRY: &[&str] = &["max_attempts", "initial_ms", "max_ms", "factor", "within_ms"];

const KEY_FORM: &str =
    "a step's key: 1 to 100 characters of A-Z a-z 0-9 . _ - that start with a letter or digit";

/// Reads a step of the plan.
pub(super) fn read(node: Node<'_, '_>, check: &mut Check<'_>) {
    let Some(step) = node.object(STEP, &mut check.faults) else { return };
    read_key(&step, &mut check.faults);
    let connector = step.require("connector", &mut check.faults).and_then(|node| read_connector(node, check));
    read_action(&step, connector, &mut check.faults);
    let faults = &mut check.faults;
    if let Some(node) = step.get("needs") {
        for (index, item) in
            node.list_of_at_most(limits::STEPS, faults).unwrap_or_default().iter().enumerate()
        {
            node.item(index, item).any_text(faults);
        }
    }
    if let Some(node) = step.get("timeout_ms") {
        node.integer(1..=bound(limits::TIMEOUT_MS), faults);
    }
    if let Some(node) = step.get("not_before") {
        node.time(faults);
    }
    for conditions in ["preconditions", "postconditions"] {
        if let Some(node) = step.get(conditions) {
            predicate::read_list(node, check);
        }
    }
    read_way_back(&step, connector, check);
}

/// Reads a step of the plan's own rollback list.
pub(super) fn read_rollback(node: Node<'_, '_>, check: &mut Check<'_>) {
    let Some(step) = node.object(ROLLBACK_STEP, &mut check.faults) else { return };
    read_key(&step, &mut check.faults);
    let connector = step.require("connector", &mut check.faults).and_then(|node| read_connector(node, check));
    read_action(&step, connector, &mut check.faults);
}

/// A step can be undone, or says that it cannot; never neither, never both.
fn read_way_back(step: &Object<'_, '_>, connector: Option<&str>, check: &mut Check<'_>) {
    let irreversible = step.get("irreversible").map_or(Some(false), |node| node.boolean(&mut check.faults));
    let compensation = step.get("compensation");
    let message = match (compensation.is_some(), irreversible) {
        (false, Some(false)) => Some("the step has neither `compensation` nor `irreversible: true`"),
        (true, Some(true)) => Some("the step has both `compensation` and `irreversible: true`"),
        _ => None,
    };
    if let Some(message) = message {
        step.fault(FaultCode::NoWayBack, message, &mut check.faults);
    }
    let Some(compensation) = compensation.and_then(|node| node.object(COMPENSATION, &mut check.faults))
    else {
        return;
    };
    let connector = compensation.get("connector").map_or(connector, |node| read_connector(node, check));
    read_action(&compensation, connector, &mut check.faults);
}

fn read_key(step: &Object<'_, '_>, faults: &mut Faults) {
    if let Some(node) = step.require("key", faults) {
        node.form(StepKey::is_valid, KEY_FORM, faults);
    }
}

/// The name of a connector that this fleet has.
pub(super) fn read_connector<'v>(node: Node<'v, '_>, check: &mut Check<'_>) -> Option<&'v str> {
    let name = node.any_text(&mut check.faults)?;
    if check.rules.connectors.contains(name) {
        return Some(name);
    }
    let known: Vec<&str> = check.rules.connectors.iter().map(String::as_str).collect();
    let message =
        format!("{} is not a connector of this fleet, which has {}", quoted(name), known.join(", "));
    check.faults.add(&node.place, FaultCode::UnknownConnector, message);
    None
}

/// Reads what an action and an undo have in common.
fn read_action(object: &Object<'_, '_>, connector: Option<&str>, faults: &mut Faults) {
    if let Some(node) = object.require("action", faults) {
        let form =
            "an action: 1 to 200 characters of A-Z a-z 0-9 . _ : / - that start with a letter or digit";
        let action = node.form(is_action, form, faults);
        if connector == Some(MUX) && action == Some(mux::PROBE) {
            let message = format!("'{}' is how DAT asks after a key, and no action", mux::PROBE);
            faults.add(&node.place, FaultCode::OutOfRange, message);
        }
    }
    if let Some(node) = object.get("parameters") {
        node.map(faults);
    }
    if let Some(node) = object.get("max_cost") {
        amount(node, faults);
    }
    if let Some(node) = object.get("retry") {
        read_retry(node, faults);
    }
}

fn read_retry(node: Node<'_, '_>, faults: &mut Faults) {
    let Some(retry) = node.object(RETRY, faults) else { return };
    if let Some(node) = retry.get("max_attempts") {
        node.integer(1..=i64::from(limits::ATTEMPTS), faults);
    }
    for wait in ["initial_ms", "max_ms"] {
        if let Some(node) = retry.get(wait) {
            node.integer(0..=bound(limits::BACKOFF_MS), faults);
        }
    }
    if let Some(node) = retry.get("within_ms") {
        node.integer(1..=bound(limits::WITHIN_MS), faults);
    }
    if let Some(node) = retry.get("factor")
        && node.number(faults).is_some_and(|factor| !(1.0..=10.0).contains(&factor))
    {
        faults.add(&node.place, FaultCode::OutOfRange, "the factor is not within 1 to 10");
    }
}

/// Reads an amount in the smallest unit.
pub(super) fn amount(node: Node<'_, '_>, faults: &mut Faults) {
    node.integer(0..=MAX, faults);
}

fn bound(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn is_action(text: &str) -> bool {
    text.len() <= limits::ACTION_CHARS
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '/' | '-'))
}
