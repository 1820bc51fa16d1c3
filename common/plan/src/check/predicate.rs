//! Predicates of a document, each distinct one judged once.

use std::collections::HashMap;

use super::Check;
use super::node::Node;
use crate::document::limits;
use crate::fault::FaultCode;

/// What was found of the predicates judged so far: ten thousand steps often share one.
#[derive(Debug, Default)]
pub(super) struct Predicates {
    judged: HashMap<String, Result<(), String>>,
}

/// Reads one predicate.
pub(super) fn read(node: Node<'_, '_>, check: &mut Check<'_>) {
    let Some(expression) = node.any_text(&mut check.faults) else { return };
    if expression.len() > limits::PREDICATE_BYTES {
        let message =
            format!("{} bytes, more than the {} allowed", expression.len(), limits::PREDICATE_BYTES);
        return check.faults.add(&node.place, FaultCode::TooLarge, message);
    }
    if expression.is_empty() {
        return check.faults.add(&node.place, FaultCode::BadPredicate, "the predicate is empty");
    }
    let judged = &mut check.predicates.judged;
    if !judged.contains_key(expression) {
        if check.faults.is_full() {
            return;
        }
        if judged.len() == limits::PREDICATES {
            let message = format!("more than the {} different predicates allowed", limits::PREDICATES);
            return check.faults.add(&node.place, FaultCode::TooLarge, message);
        }
        judged.insert(expression.to_owned(), check.rules.predicates.check(expression));
    }
    if let Some(Err(message)) = judged.get(expression) {
        check.faults.add(&node.place, FaultCode::BadPredicate, message);
    }
}

/// Reads a list of predicates.
pub(super) fn read_list(node: Node<'_, '_>, check: &mut Check<'_>) {
    let list = node.list_of_at_most(limits::CONDITIONS, &mut check.faults).unwrap_or_default();
    for (index, item) in list.iter().enumerate().take(limits::CONDITIONS) {
        read(node.item(index, item), check);
    }
}
