//! References: parameters that take a result of another step.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::ancestry::{self, Pair};
use crate::fault::FaultCode;
use crate::graph;
use crate::json::{Faults, Place, quoted};

const FROM: &str = "$from";
const PATH: &str = "path";

/// The steps of a plan, as far as they could be read.
pub(super) struct Steps<'v> {
    /// The items of `steps`.
    pub(super) list: &'v [Value],
    /// The place of each key; of steps with the same key, of the first.
    pub(super) index: HashMap<&'v str, usize>,
    /// The places of the steps that each needs.
    pub(super) needs: Vec<Vec<usize>>,
}

/// Whose parameters take results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taker {
    /// The action of the step at this place: of an ancestor.
    Action(usize),
    /// The compensation of the step at this place: of an ancestor, or of the step itself.
    Undo(usize),
    /// A step of the plan's own rollback list: of any step.
    Rollback,
}

impl Taker {
    /// What must hold for it to take a result of a step.
    fn asks(self, target: usize) -> Option<Pair> {
        match self {
            Self::Undo(step) if step == target => None,
            Self::Action(step) | Self::Undo(step) => Some((step, target)),
            Self::Rollback => None,
        }
    }
}

/// Reads all references of a plan. Nothing is said of the ancestors of a step on a cycle, or behind one.
pub(super) fn read(plan: &Value, steps: &Steps<'_>, faults: &mut Faults) {
    let order = graph::order(&steps.needs);
    let mut ordered = vec![false; steps.list.len()];
    for step in &order {
        ordered[*step] = true;
    }

    let mut pairs = BTreeSet::new();
    visit_plan(plan, steps, &mut |taker, reference, place| {
        let target = read_form(reference, place, steps, faults);
        pairs.extend(target.and_then(|target| taker.asks(target)).filter(|(step, _)| ordered[*step]));
    });
    let refused = ancestry::not_ancestors(&steps.needs, &order, &pairs);
    if refused.is_empty() {
        return;
    }
    // A second walk, as a pointer is written only for a fault: with long keys, those of all would take gigabytes.
    visit_plan(plan, steps, &mut |taker, reference, place| {
        let target = reference.get(FROM).and_then(|key| steps.index.get(key.as_str()?)).copied();
        if target.and_then(|target| taker.asks(target)).is_some_and(|pair| refused.contains(&pair)) {
            let message = "the step named need not have completed by then: it is no ancestor through `needs`";
            faults.add(&place.field(FROM), FaultCode::UnknownReference, message);
        }
    });
}

/// Reads one reference by itself, and finds the step it names.
fn read_form(
    reference: &Map<String, Value>,
    place: &Place<'_>,
    steps: &Steps<'_>,
    faults: &mut Faults,
) -> Option<usize> {
    for name in reference.keys().filter(|name| !matches!(name.as_str(), FROM | PATH)) {
        let message = format!("an object with `{FROM}` has `{PATH}` besides and nothing else");
        faults.add(&place.field(name), FaultCode::UnknownField, message);
    }
    match reference.get(PATH) {
        None => faults.add(&place.field(PATH), FaultCode::Missing, format!("`{FROM}` needs a `{PATH}`")),
        Some(Value::String(path)) if is_pointer(path) => {}
        Some(Value::String(path)) => {
            let message = format!("{} is not an RFC 6901 pointer such as '' or '/listing_id'", quoted(path));
            faults.add(&place.field(PATH), FaultCode::OutOfRange, message);
        }
        Some(_) => faults.add(&place.field(PATH), FaultCode::WrongType, "expected a text"),
    }
    let Some(key) = reference.get(FROM).and_then(Value::as_str) else {
        faults.add(&place.field(FROM), FaultCode::WrongType, "expected a text, the key of a step");
        return None;
    };
    let target = steps.index.get(key).copied();
    if target.is_none() {
        let message = format!("{} is not a step of the plan", quoted(key));
        faults.add(&place.field(FROM), FaultCode::UnknownReference, message);
    }
    target
}

type Visitor<'a> = &'a mut dyn FnMut(Taker, &Map<String, Value>, &Place<'_>);

fn visit_plan(plan: &Value, steps: &Steps<'_>, visitor: Visitor<'_>) {
    let root = Place::ROOT;
    let place = root.field("steps");
    for (index, step) in steps.list.iter().enumerate() {
        let place = place.item(index);
        visit_parameters(step, &place, Taker::Action(index), visitor);
        if let Some(undo) = step.get("compensation") {
            visit_parameters(undo, &place.field("compensation"), Taker::Undo(index), visitor);
        }
    }
    let place = root.field("rollback");
    let place = place.field("steps");
    for (index, step) in super::relation::rollback_steps(plan).iter().enumerate() {
        visit_parameters(step, &place.item(index), Taker::Rollback, visitor);
    }
}

fn visit_parameters(object: &Value, place: &Place<'_>, taker: Taker, visitor: Visitor<'_>) {
    if let Some(parameters) = object.get("parameters") {
        visit(parameters, &place.field("parameters"), taker, visitor);
    }
}

/// Visits each object that has `$from`, be it `parameters` itself. It is one reference and nothing else, so nothing in
/// it is visited.
fn visit(value: &Value, place: &Place<'_>, taker: Taker, visitor: Visitor<'_>) {
    match value {
        Value::Object(fields) if fields.contains_key(FROM) => visitor(taker, fields, place),
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| visit(value, &place.field(name), taker, visitor));
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, item)| visit(item, &place.item(index), taker, visitor));
        }
        _ => {}
    }
}

/// RFC 6901: empty, or tokens that each start with `/`, in which `~` stands only as `~0` or `~1`.
fn is_pointer(text: &str) -> bool {
    (text.is_empty() || text.starts_with('/'))
        && text.split('~').skip(1).all(|escaped| escaped.starts_with(['0', '1']))
}
