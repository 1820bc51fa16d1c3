//! What all plans of a run have in common, and what a completed one does in the world.

use std::path::Path;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::command::{Connector, Shape};
use crate::failure::Failure;

/// What a generated step costs in MUX, and what its undo gives back, in the smallest unit.
const STEP_COST: i64 = 3;

/// What a completed plan does in the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Charges {
    /// How many effects it has in MUX.
    pub(crate) effects: usize,
    /// What they cost, net of refunds.
    pub(crate) cost: i64,
}

/// A plan document without its id and tenant.
#[derive(Debug, Clone)]
pub(crate) struct Blueprint {
    template: Map<String, Value>,
    steps: Vec<Value>,
}

impl Blueprint {
    /// A plan of so many steps that do nothing, or as good as nothing.
    pub(crate) fn generated(shape: Shape, connector: Connector, steps: u32) -> Self {
        let step = |n: u32| {
            let mut step = match connector {
                Connector::Echo => json!({"connector": "echo", "action": "echo", "irreversible": true}),
                Connector::Mux => json!({
                    "connector": "mux", "action": "loadtest.step", "max_cost": STEP_COST,
                    "parameters": {"sandbox": {"cost": STEP_COST}},
                    "compensation": {
                        "action": "loadtest.step.undo", "parameters": {"sandbox": {"refund": STEP_COST}},
                    },
                }),
            };
            step["key"] = json!(format!("s{n}"));
            if shape == Shape::Fanout && n > 0 {
                step["needs"] = json!(["s0"]);
            }
            step
        };
        let budget = json!({"amount": i64::from(steps) * STEP_COST * 2, "currency": "usd"});
        let template = Map::from_iter([
            ("plan_version".to_owned(), json!(1)),
            ("name".to_owned(), json!("Load test")),
            ("budget".to_owned(), budget),
        ]);
        Self { template, steps: (0..steps).map(step).collect() }
    }

    /// The document in a file.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let failure = |why: String| Failure::Document { path: path.to_owned(), why };
        let text = std::fs::read(path).map_err(|error| failure(error.to_string()))?;
        let mut template: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|error| failure(error.to_string()))?;
        let Some(Value::Array(steps)) = template.remove("steps") else {
            return Err(failure("it has no steps".to_owned()));
        };
        template.insert("plan_version".to_owned(), json!(1));
        Ok(Self { template, steps })
    }

    /// How many steps a plan has.
    pub(crate) fn steps(&self) -> usize {
        self.steps.len()
    }

    /// What a completed plan does in the world, if MUX is the sandbox's.
    pub(crate) fn charges(&self) -> Charges {
        let mux = || self.steps.iter().filter(|step| step["connector"] == "mux");
        let amount = |step: &Value, name: &str| step["parameters"]["sandbox"][name].as_i64().unwrap_or(0);
        let cost = mux().map(|step| amount(step, "cost") - amount(step, "refund")).sum();
        Charges { effects: mux().count(), cost }
    }

    /// The document of one plan. MUX refuses the step at the place `refused`, if one is given.
    pub(crate) fn document(&self, id: Uuid, tenant: &str, refused: Option<usize>) -> Vec<u8> {
        let mut document = self.template.clone();
        let mut steps = self.steps.clone();
        if let Some(step) = refused.and_then(|place| steps.get_mut(place)) {
            step["parameters"]["sandbox"] = json!({"outcome": "refuse"});
            // Undoing what never happened gives nothing back.
            step["compensation"]["parameters"] = json!({});
        }
        document.insert("plan_id".to_owned(), json!(id));
        document.insert("tenant".to_owned(), json!(tenant));
        document.insert("steps".to_owned(), Value::Array(steps));
        Value::Object(document).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(blueprint: &Blueprint, refused: Option<usize>) -> Value {
        serde_json::from_slice(&blueprint.document(Uuid::from_u128(7), "load-0", refused)).expect("JSON")
    }

    #[test]
    fn a_generated_document_is_as_the_contract_has_it() {
        for (connector, refused) in
            [(Connector::Echo, None), (Connector::Mux, None), (Connector::Mux, Some(1))]
        {
            for shape in [Shape::Sequence, Shape::Fanout] {
                let document = document(&Blueprint::generated(shape, connector, 3), refused);
                let read: Result<dat_plan::PlanDocument, _> = serde_json::from_value(document.clone());
                let plan = read.unwrap_or_else(|fault| panic!("{fault}: {document}"));
                assert_eq!(plan.steps.len(), 3);
                assert!(plan.max_cost() <= plan.budget.amount, "{document}");
            }
        }
    }

    #[test]
    fn echo_costs_nothing_and_mux_what_its_steps_say() {
        let charges = |connector| Blueprint::generated(Shape::Sequence, connector, 4).charges();
        assert_eq!(charges(Connector::Echo), Charges { effects: 0, cost: 0 });
        assert_eq!(charges(Connector::Mux), Charges { effects: 4, cost: 4 * STEP_COST });
    }

    #[test]
    fn one_step_is_refused_and_its_undo_gives_nothing_back() {
        let document = document(&Blueprint::generated(Shape::Fanout, Connector::Mux, 3), Some(1));
        let outcomes: Vec<&str> = document["steps"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|step| step["parameters"]["sandbox"]["outcome"].as_str().unwrap_or("ok"))
            .collect();
        assert_eq!(outcomes, ["ok", "refuse", "ok"]);
        assert_eq!(document["steps"][1]["compensation"]["parameters"], json!({}));
        assert_eq!(document["steps"][2]["needs"], json!(["s0"]));
    }
}
