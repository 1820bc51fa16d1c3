//! Rules that count (rate, concurrency, spend) and the list of what may be used.

use super::Check;
use super::node::{Node, Object};
use super::step::read_connector;
use crate::amount::{Currency, MAX};
use crate::constraint::{Per, SpendPeriod};
use crate::document::limits;
use crate::fault::FaultCode;
use crate::json::{Faults, quoted};

const RATE: &[&str] =
    &["id", "enforcement", "kind", "connector", "action", "per", "count", "period_ms", "burst"];
const CONCURRENCY: &[&str] = &["id", "enforcement", "kind", "connector", "action", "per", "parameter", "max"];
const SPEND: &[&str] =
    &["id", "enforcement", "kind", "connector", "action", "per", "period", "currency", "max"];
const CAPABILITY: &[&str] = &["id", "enforcement", "kind", "allow"];
const ALLOWED: &[&str] = &["connector", "actions"];
const DAY_MS: i64 = 86_400_000;

pub(super) fn read_rate(rule: &Object<'_, '_>, check: &mut Check<'_>) {
    rule.refuse_unknown(RATE, &mut check.faults);
    read_selection(rule, check);
    let faults = &mut check.faults;
    if rule.get("enforcement").and_then(|node| node.value.as_str()) == Some("soft") {
        let message = "a rate is a schedule, it delays and refuses nothing: its enforcement is `hard`";
        rule.fault_at("enforcement", FaultCode::OutOfRange, message, faults);
    }
    let count = rule.require("count", faults).and_then(|node| node.integer(1..=limits::RATE, faults));
    let period = rule.require("period_ms", faults).and_then(|node| node.integer(1..=DAY_MS, faults));
    let burst = rule.get("burst").and_then(|node| node.integer(1..=limits::RATE, faults)).unwrap_or(1);
    let (Some(count), Some(period)) = (count, period) else { return };
    // What the schedule can keep: a call a microsecond at most, and a burst that fills in a day.
    if period * 1_000 < count {
        let message = format!("{count} calls in {period} ms are more than one a microsecond");
        rule.fault_at("count", FaultCode::OutOfRange, message, faults);
    } else if burst > 1 && burst.saturating_mul(period) / count > DAY_MS {
        let message = format!("a burst of {burst} takes more than a day to fill at this rate");
        rule.fault_at("burst", FaultCode::OutOfRange, message, faults);
    }
}

pub(super) fn read_concurrency(rule: &Object<'_, '_>, check: &mut Check<'_>) {
    rule.refuse_unknown(CONCURRENCY, &mut check.faults);
    read_selection(rule, check);
    let faults = &mut check.faults;
    if let Some(node) = rule.get("parameter") {
        node.text(1..=limits::TEXT_CHARS, faults);
    }
    if let Some(node) = rule.require("max", faults) {
        node.integer(1..=limits::CONCURRENCY, faults);
    }
}

pub(super) fn read_spend(rule: &Object<'_, '_>, check: &mut Check<'_>) {
    rule.refuse_unknown(SPEND, &mut check.faults);
    read_selection(rule, check);
    let faults = &mut check.faults;
    if let Some(node) = rule.require("period", faults) {
        node.word::<SpendPeriod>(faults);
    }
    if let Some(node) = rule.require("currency", faults) {
        node.form(Currency::is_valid, "a currency: 1 to 16 of a-z 0-9 _ -, such as usd or token", faults);
    }
    if let Some(node) = rule.require("max", faults) {
        node.integer(0..=MAX, faults);
    }
}

pub(super) fn read_capability(rule: &Object<'_, '_>, check: &mut Check<'_>) {
    rule.refuse_unknown(CAPABILITY, &mut check.faults);
    let Some(allow) = rule.require("allow", &mut check.faults) else { return };
    let list = allow.list_of_at_most(limits::CAPABILITIES, &mut check.faults).unwrap_or_default();
    if allow.value.as_array().is_some_and(Vec::is_empty) {
        let message = "nothing is allowed: name a connector at least, or pause the fleet";
        check.faults.add(&allow.place, FaultCode::OutOfRange, message);
    }
    for (index, item) in list.iter().enumerate().take(limits::CAPABILITIES) {
        let Some(entry) = allow.item(index, item).object(ALLOWED, &mut check.faults) else { continue };
        if let Some(node) = entry.require("connector", &mut check.faults) {
            read_connector(node, check);
        }
        let Some(actions) = entry.get("actions") else { continue };
        let names = actions.list_of_at_most(limits::CAPABILITIES, &mut check.faults).unwrap_or_default();
        if actions.value.as_array().is_some_and(Vec::is_empty) {
            let message = "no action is allowed: leave `actions` out for all of them, or the entry for none";
            check.faults.add(&actions.place, FaultCode::OutOfRange, message);
        }
        for (place, name) in names.iter().enumerate().take(limits::CAPABILITIES) {
            read_action(actions.item(place, name), &mut check.faults);
        }
    }
}

/// Which steps a rule is about, and what is counted for itself.
fn read_selection(rule: &Object<'_, '_>, check: &mut Check<'_>) {
    if let Some(node) = rule.get("connector") {
        read_connector(node, check);
    }
    if let Some(node) = rule.get("action") {
        read_action(node, &mut check.faults);
    }
    if let Some(node) = rule.get("per") {
        node.word::<Per>(&mut check.faults);
    }
}

fn read_action(node: Node<'_, '_>, faults: &mut Faults) {
    let Some(pattern) = node.text(1..=limits::ACTION_CHARS, faults) else { return };
    if pattern.strip_suffix('*').unwrap_or(pattern).contains('*') {
        let message = format!("{} has a * that is not its last character", quoted(pattern));
        faults.add(&node.place, FaultCode::OutOfRange, message);
    }
}
