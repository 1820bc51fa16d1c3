//! What a plan declares of itself, and what it uses: rules that the document answers.

use dat_plan::PlanDocument;
use dat_plan::constraint::{Allowed, is_action};

use crate::inputs::{Inputs, StepFacts};
use crate::limits::Breach;

/// A threshold on a score that the plan declares in a label.
#[derive(Debug, Clone)]
pub(super) struct Risk {
    pub(super) label: String,
    pub(super) max: f64,
}

impl Risk {
    pub(super) fn breach(&self, inputs: &Inputs) -> Option<Breach> {
        let Self { label, max } = self;
        let problem = match inputs.plan.labels.get(label) {
            None => format!("the plan declares no score: it has no label '{label}'"),
            Some(text) => match text.trim().parse::<f64>() {
                Ok(score) if score <= *max => return None,
                Ok(score) => format!("the declared score '{label}' is {score}, more than {max}"),
                Err(_) => format!("the declared score '{label}' is no number"),
            },
        };
        Some(Breach { reason: problem, retry_at: None, lasting: true })
    }
}

/// Connectors and actions that may be used.
#[derive(Debug, Clone)]
pub(super) struct Capability {
    pub(super) allow: Vec<Allowed>,
}

impl Capability {
    fn allows(&self, connector: &str, action: &str) -> bool {
        self.allow.iter().any(|allowed| {
            allowed.connector == connector && allowed.actions.iter().any(|one| is_action(one, action))
        })
    }

    /// One step, about to act.
    pub(super) fn breach(&self, step: &StepFacts) -> Option<Breach> {
        let StepFacts { key, connector, action, .. } = step;
        (!self.allows(connector, action)).then(|| not_allowed(key.as_str(), connector, action))
    }

    /// Every step, its undo, and the rollback's own list.
    pub(super) fn breach_of_plan(&self, document: &PlanDocument) -> Option<Breach> {
        let steps = document.steps.iter().flat_map(|step| {
            let undo = step
                .compensation
                .as_ref()
                .map(|undo| (&step.key, undo.connector.as_ref().unwrap_or(&step.connector), &undo.action));
            std::iter::once((&step.key, &step.connector, &step.action)).chain(undo)
        });
        let rollback = document.rollback.steps.iter().map(|step| (&step.key, &step.connector, &step.action));
        let mut refused =
            steps.chain(rollback).filter(|(_, connector, action)| !self.allows(connector, action));
        let (key, connector, action) = refused.next()?;
        let mut first = not_allowed(key.as_str(), connector, action);
        match refused.count() {
            0 => {}
            more => first.reason = format!("{}, and {more} more", first.reason),
        }
        Some(first)
    }
}

fn not_allowed(step: &str, connector: &str, action: &str) -> Breach {
    let shown: String = action.chars().take(100).collect();
    let reason = format!("step '{step}' uses '{shown}' of connector '{connector}', which is not allowed");
    Breach { reason, retry_at: None, lasting: true }
}
