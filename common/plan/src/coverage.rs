//! Rollback coverage: what of a plan can be undone, by what, and for how much at most. For whoever approves it.
//!
//! **Owns** that reading of a document. **May be called** by whoever shows a plan. **Must never** decide how a plan is
//! unwound: that is [`crate::rollback`] and the graph.

use serde::{Deserialize, Serialize};

use crate::amount::MAX;
use crate::document::{PlanDocument, RollbackKind, RollbackScope, RollbackStep};

/// What of a plan can be undone. As large as the plan's list of steps, at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Who starts a rollback.
    #[serde(rename = "type")]
    pub kind: RollbackKind,
    /// How much one undoes.
    pub scope: RollbackScope,
    /// Steps that something undoes.
    pub covered: usize,
    /// Steps that nothing undoes.
    pub uncovered: usize,
    /// What all undos may cost together at most, each tried once; smallest unit.
    pub max_cost: i64,
    /// Of each step, in the document's order.
    pub steps: Vec<StepCoverage>,
    /// The plan's own list, in its order, where it has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub list: Vec<Undo>,
}

/// What undoes one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepCoverage {
    /// The step's key.
    pub step: String,
    /// What undoes it; absent, nothing does by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone_by: Option<Undo>,
    /// The plan says that it cannot be undone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub irreversible: bool,
}

/// An undo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Undo {
    /// Its key, in the plan's own list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The outside system.
    pub connector: String,
    /// The action.
    pub action: String,
    /// What it may cost at most, tried once; smallest unit.
    pub max_cost: i64,
}

impl Coverage {
    /// Reads it from a document. A plan with a list of its own is undone by that, and no step by its own compensation.
    #[must_use]
    pub fn of(document: &PlanDocument) -> Self {
        let rollback = &document.rollback;
        let by_list = rollback.kind == RollbackKind::Compensating;
        let list: Vec<Undo> =
            if by_list { rollback.steps.iter().map(Undo::listed).collect() } else { Vec::new() };
        let steps: Vec<StepCoverage> = document
            .steps
            .iter()
            .map(|step| {
                let undo = step.compensation.as_ref().filter(|_| !by_list).map(|undo| Undo {
                    key: None,
                    connector: undo.connector.clone().unwrap_or_else(|| step.connector.clone()),
                    action: undo.action.clone(),
                    max_cost: undo.max_cost,
                });
                StepCoverage { step: step.key.0.clone(), undone_by: undo, irreversible: step.irreversible }
            })
            .collect();
        let is_covered = |step: &&StepCoverage| {
            step.undone_by.is_some() || (by_list && !list.is_empty() && !step.irreversible)
        };
        let covered = steps.iter().filter(is_covered).count();
        let undos = list.iter().chain(steps.iter().filter_map(|step| step.undone_by.as_ref()));
        let max_cost = undos.fold(0_i64, |sum, undo| sum.saturating_add(undo.max_cost).min(MAX));
        Self {
            kind: rollback.kind,
            scope: rollback.scope,
            covered,
            uncovered: steps.len() - covered,
            max_cost,
            steps,
            list,
        }
    }
}

impl Undo {
    fn listed(step: &RollbackStep) -> Self {
        Self {
            key: Some(step.key.0.clone()),
            connector: step.connector.clone(),
            action: step.action.clone(),
            max_cost: step.max_cost,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn coverage(rollback: &Value) -> Coverage {
        let document: PlanDocument = serde_json::from_value(json!({
            "plan_id": uuid::Uuid::nil(), "plan_version": 1, "tenant": "acme", "name": "a test",
            "budget": {"amount": 1, "currency": "usd"}, "rollback": rollback,
            "steps": [
                {"key": "a", "connector": "mux", "action": "x", "max_cost": 10,
                 "compensation": {"action": "y", "max_cost": 3}},
                {"key": "b", "connector": "mux", "action": "x",
                 "compensation": {"action": "z", "connector": "http", "max_cost": 4}},
                {"key": "c", "connector": "mux", "action": "x", "irreversible": true},
            ],
        }))
        .expect("a plan");
        Coverage::of(&document)
    }

    #[test]
    fn each_step_says_what_undoes_it_and_for_how_much() {
        let coverage = coverage(&json!({"scope": "step"}));
        assert_eq!((coverage.covered, coverage.uncovered, coverage.max_cost), (2, 1, 7));
        let undos: Vec<_> = coverage
            .steps
            .iter()
            .map(|step| step.undone_by.as_ref().map(|undo| (undo.connector.as_str(), undo.action.as_str())))
            .collect();
        assert_eq!(undos, [Some(("mux", "y")), Some(("http", "z")), None]);
        assert!(coverage.steps[2].irreversible && coverage.list.is_empty());
    }

    #[test]
    fn a_plans_own_list_stands_instead_of_the_steps_own() {
        let list = json!([{"key": "u", "connector": "mux", "action": "undo.all", "max_cost": 9}]);
        let coverage = coverage(&json!({"type": "compensating", "steps": list}));
        assert_eq!((coverage.covered, coverage.uncovered, coverage.max_cost), (2, 1, 9));
        assert!(coverage.steps.iter().all(|step| step.undone_by.is_none()));
        assert_eq!(coverage.list[0].key.as_deref(), Some("u"));
    }
}
