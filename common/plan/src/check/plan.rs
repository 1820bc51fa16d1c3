//! The plan document: its own fields, and the list of its steps.

use super::node::{Node, Object};
use super::step::{self, amount};
use super::{Check, constraint};
use crate::amount::Currency;
use crate::document::{Mode, OnUnknown, RollbackKind, RollbackScope, limits};
use crate::fault::FaultCode;
use crate::json::{Faults, quoted};

const PLAN: &[&str] = &[
    "plan_id",
    "plan_version",
    "tenant",
    "name",
    "insight",
    "budget",
    "constraints",
    "rollback",
    "steps",
    "priority",
    "deadline",
    "mode",
    "labels",
    "on_unknown",
];

/// Reads a plan, each field by itself; what fields mean together is read by [`super::relation`].
pub(super) fn read(node: Node<'_, '_>, check: &mut Check<'_>) {
    let Some(plan) = node.object(PLAN, &mut check.faults) else { return };
    let faults = &mut check.faults;
    read_identity(&plan, faults);
    if let Some(node) = plan.require("tenant", faults) {
        node.form(
            is_tenant,
            "1 to 200 characters of A-Z a-z 0-9 . _ - that start with a letter or digit",
            faults,
        );
    }
    if let Some(node) = plan.require("name", faults) {
        node.text(1..=limits::TEXT_CHARS, faults);
    }
    if let Some(node) = plan.get("insight") {
        read_insight(node, faults);
    }
    if let Some(node) = plan.require("budget", faults) {
        read_amount(node, faults);
    }
    if let Some(node) = plan.get("priority") {
        node.integer(0..=9, faults);
    }
    if let Some(node) = plan.get("deadline") {
        node.time(faults);
    }
    if let Some(node) = plan.get("mode") {
        node.word::<Mode>(faults);
    }
    if let Some(node) = plan.get("on_unknown") {
        node.word::<OnUnknown>(faults);
    }
    if let Some(node) = plan.get("labels") {
        read_labels(node, faults);
    }
    if let Some(node) = plan.get("constraints") {
        constraint::read_list(node, check);
    }
    if let Some(node) = plan.get("rollback") {
        read_rollback(node, check);
    }
    if let Some(node) = plan.require("steps", &mut check.faults)
        && read_steps(node, check, step::read) == Some(0)
    {
        check.faults.add(&node.place, FaultCode::Missing, "at least one step is needed");
    }
}

/// Reads which plan version a plan or a verdict is about.
pub(super) fn read_identity(object: &Object<'_, '_>, faults: &mut Faults) {
    if let Some(node) = object.require("plan_id", faults) {
        node.form(is_uuid, "a UUID in lowercase with hyphens", faults);
    }
    if let Some(node) = object.require("plan_version", faults) {
        node.integer(1..=i64::from(i32::MAX), faults);
    }
}

/// Reads an amount with its currency.
pub(super) fn read_amount(node: Node<'_, '_>, faults: &mut Faults) {
    let Some(object) = node.object(&["amount", "currency"], faults) else { return };
    if let Some(node) = object.require("amount", faults) {
        amount(node, faults);
    }
    if let Some(node) = object.require("currency", faults) {
        let form = "a currency: 1 to 16 of a-z 0-9 _ - that start with a letter, such as 'usd' or 'token'";
        node.form(Currency::is_valid, form, faults);
    }
}

fn read_insight(node: Node<'_, '_>, faults: &mut Faults) {
    let Some(insight) = node.object(&["id", "version"], faults) else { return };
    if let Some(node) = insight.require("id", faults) {
        node.text(1..=limits::TEXT_CHARS, faults);
    }
    if let Some(node) = insight.require("version", faults) {
        node.integer(0..=i64::from(i32::MAX), faults);
    }
}

fn read_labels(node: Node<'_, '_>, faults: &mut Faults) {
    let Some(labels) = node.map(faults) else { return };
    let count = labels.iter().count();
    if count > limits::LABELS {
        let message = format!("{count} labels, more than the {} allowed", limits::LABELS);
        labels.fault(FaultCode::TooLarge, message, faults);
    }
    for (name, node) in labels.iter() {
        if !(1..=limits::LABEL_NAME_CHARS).contains(&name.chars().count()) {
            let message = format!(
                "the label's name {} has not 1 to {} characters",
                quoted(name),
                limits::LABEL_NAME_CHARS
            );
            faults.add(&node.place, FaultCode::OutOfRange, message);
        }
        node.text(0..=limits::TEXT_CHARS, faults);
    }
}

fn read_rollback(node: Node<'_, '_>, check: &mut Check<'_>) {
    let Some(rollback) = node.object(&["type", "scope", "steps"], &mut check.faults) else { return };
    let faults = &mut check.faults;
    let kind = rollback.get("type").map_or(Some(RollbackKind::default()), |node| node.word(faults));
    if let Some(node) = rollback.get("scope") {
        node.word::<RollbackScope>(faults);
    }
    let steps = rollback.get("steps");
    let count = steps.map_or(Some(0), |node| read_steps(node, check, step::read_rollback));
    let fault = match (kind, count) {
        (Some(RollbackKind::Compensating), Some(0)) => {
            Some((FaultCode::Missing, "a rollback of type `compensating` needs its steps"))
        }
        (Some(RollbackKind::Automatic | RollbackKind::Manual), Some(1..)) => {
            Some((FaultCode::UnknownField, "only a rollback of type `compensating` has steps"))
        }
        _ => None,
    };
    if let Some((code, message)) = fault {
        rollback.fault_at("steps", code, message, &mut check.faults);
    }
}

/// Reads each step of a list, and says how many there are.
fn read_steps(
    node: Node<'_, '_>,
    check: &mut Check<'_>,
    read: fn(Node<'_, '_>, &mut Check<'_>),
) -> Option<usize> {
    let list = node.list_of_at_most(limits::STEPS, &mut check.faults)?;
    for (index, item) in list.iter().enumerate() {
        read(node.item(index, item), check);
    }
    Some(list.len())
}

pub(super) fn is_tenant(text: &str) -> bool {
    text.len() <= limits::TEXT_CHARS
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// UUIDs have many spellings; one of them is the contract's, so that ids compare as texts everywhere.
fn is_uuid(text: &str) -> bool {
    uuid::Uuid::parse_str(text)
        .is_ok_and(|id| id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()) == text)
}
