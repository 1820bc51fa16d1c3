//! A verdict's form.

use super::node::Node;
use super::plan::{read_amount, read_identity};
use super::{Check, constraint};
use crate::approval::Outcome;
use crate::document::limits;
use crate::hash::PlanHash;

const VERDICT: &[&str] = &[
    "decision_id",
    "plan_id",
    "plan_version",
    "plan_hash",
    "constraint_set_hash",
    "outcome",
    "approver",
    "reason",
    "expires_at",
    "budget",
    "constraints",
    "key_id",
    "signature",
];

/// Reads a verdict. Whether it tightens or widens, and whether it is signed, is judged against the plan it names.
pub(super) fn read(node: Node<'_, '_>, check: &mut Check<'_>) {
    let Some(verdict) = node.object(VERDICT, &mut check.faults) else { return };
    let faults = &mut check.faults;
    read_identity(&verdict, faults);
    for name in ["decision_id", "approver"] {
        if let Some(node) = verdict.require(name, faults) {
            node.text(1..=limits::TEXT_CHARS, faults);
        }
    }
    if let Some(node) = verdict.require("plan_hash", faults) {
        node.form(PlanHash::is_valid, "a plan hash: 'sha256:' and 64 hex digits in lowercase", faults);
    }
    if let Some(node) = verdict.require("outcome", faults) {
        node.word::<Outcome>(faults);
    }
    // Governance systems write `null` for what they have not; a plan document has one way to say absent.
    for name in ["constraint_set_hash", "reason", "key_id", "signature"] {
        if let Some(node) = verdict.get_unless_null(name) {
            node.any_text(faults);
        }
    }
    if let Some(node) = verdict.get_unless_null("expires_at") {
        node.time(faults);
    }
    if let Some(node) = verdict.get_unless_null("budget") {
        read_amount(node, faults);
    }
    if let Some(node) = verdict.get_unless_null("constraints") {
        constraint::read_list(node, check);
    }
}
