//! The view: the inputs of a decision under the names that a predicate uses.
//!
//! `cel` asks a resolver for the longest dotted name first, so a field of a record is answered as one name and no
//! record is ever built; an evaluation costs what it reads.

use cel::common::types::{CelInt, CelString, CelTimestamp};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;

use super::json::{Entries, Object};
use super::meter::Meter;
use crate::inputs::Inputs;

/// Answers names from the inputs.
pub(super) struct View<'a> {
    inputs: &'a Inputs,
    pub(super) meter: Meter,
}

impl<'a> View<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        Self { inputs, meter: Meter::default() }
    }
}

fn int<'b>(number: impl Into<i64>) -> CowVal<'b, 'b> {
    CowVal::owned(CelInt::from(number.into()))
}

fn text(text: &str) -> CowVal<'_, '_> {
    CowVal::owned(CelString::from(text))
}

impl VariableResolver for View<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        let Inputs { now, plan, tenant, step, budget, results, .. } = self.inputs;
        let object = |entries| {
            let object: Box<dyn Val + 'b> = Box::new(Object::new(entries, &self.meter));
            CowVal::Owned(object)
        };
        Some(match name {
            "now" => CowVal::owned(CelTimestamp::from(now.fixed_offset())),
            "tenant" => text(tenant),
            "results" => object(Entries::Json(results)),
            "plan.id" => CowVal::owned(CelString::from(plan.id.to_string())),
            "plan.version" => int(plan.version),
            "plan.name" => text(&plan.name),
            "plan.priority" => int(plan.priority),
            "plan.labels" => object(Entries::Labels(&plan.labels)),
            "plan.steps" => int(plan.steps),
            "budget.amount" => int(budget.amount),
            "budget.spent" => int(budget.spent),
            "budget.reserved" => int(budget.reserved),
            "budget.currency" => text(budget.currency.as_str()),
            "step.key" => text(step.as_ref()?.key.as_str()),
            "step.index" => int(step.as_ref()?.index),
            "step.attempt" => int(step.as_ref()?.attempt),
            "step.parameters" => object(Entries::Json(&step.as_ref()?.parameters)),
            _ => return None,
        })
    }
}
