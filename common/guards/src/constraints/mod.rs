//! Constraints: a plan's, its tenant's and its approver's rules, compiled once and asked before everything that acts.
//!
//! Asked twice. **Admission** looks at the plan as a whole: its time windows, the quantities of every step as far as
//! the document tells, and the predicates that read neither `step` nor `results`. **Runtime** looks at one step, right
//! before it acts, with its references resolved: everything. What needs a step is never guessed at admission.

#[cfg(test)]
mod tests;

use dat_plan::document::{Constraint, Enforcement, Rule, Step};

use crate::decision::{Decision, Violation};
use crate::inputs::Inputs;
use crate::limits::{Breach, Quantity, Window};
use crate::predicate::{Outcome, Predicate, Reads};

/// Constraints, compiled.
#[derive(Debug, Clone, Default)]
pub struct ConstraintSet {
    constraints: Vec<Compiled>,
}

#[derive(Debug, Clone)]
struct Compiled {
    id: String,
    enforcement: Enforcement,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Window(Window),
    Quantity(Quantity),
    Predicate(Predicate),
}

impl ConstraintSet {
    /// Compiles constraints; the error lists every one that cannot be, by its place, with what to change.
    pub fn compile(constraints: &[Constraint]) -> Result<Self, Vec<(usize, String)>> {
        let mut compiled = Vec::with_capacity(constraints.len());
        let mut faults = Vec::new();
        for (index, Constraint { id, enforcement, rule }) in constraints.iter().enumerate() {
            match Test::compile(rule) {
                Ok(test) => compiled.push(Compiled { id: id.clone(), enforcement: *enforcement, test }),
                Err(fault) => faults.push((index, fault)),
            }
        }
        if faults.is_empty() { Ok(Self { constraints: compiled }) } else { Err(faults) }
    }

    /// What its predicates read together: what a decision's inputs must hold.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.constraints.iter().fold(Reads::default(), |reads, constraint| match &constraint.test {
            Test::Predicate(predicate) => reads.union(predicate.reads()),
            _ => reads,
        })
    }

    /// Whether a plan may begin. `inputs.step` and `inputs.results` are not looked at.
    #[must_use]
    pub fn admission(&self, inputs: &Inputs, steps: &[Step]) -> Decision {
        self.decide(|test| match test {
            Test::Window(window) => window.breach(inputs.now),
            Test::Quantity(quantity) => quantity.breach_of_plan(steps),
            Test::Predicate(predicate) if predicate.reads().plan_only() => breach(predicate, inputs),
            Test::Predicate(_) => None,
        })
    }

    /// Whether the step in `inputs` may act now. Without a step, quantities are not looked at, and predicates that
    /// read `step` are violated.
    #[must_use]
    pub fn runtime(&self, inputs: &Inputs) -> Decision {
        self.decide(|test| match test {
            Test::Window(window) => window.breach(inputs.now),
            Test::Quantity(quantity) => inputs.step.as_ref().and_then(|step| {
                quantity.breach(step.key.as_str(), step.parameters.get(&quantity.parameter)?)
            }),
            Test::Predicate(predicate) => breach(predicate, inputs),
        })
    }

    fn decide(&self, breach: impl Fn(&Test) -> Option<Breach>) -> Decision {
        let violations = self.constraints.iter().filter_map(|Compiled { id, enforcement, test }| {
            let Breach { reason, retry_at, lasting } = breach(test)?;
            // Nothing waits for a soft rule.
            let retry_at = retry_at.filter(|_| *enforcement == Enforcement::Hard);
            Some(Violation { constraint: id.clone(), enforcement: *enforcement, reason, retry_at, lasting })
        });
        Decision::from_violations(violations.collect())
    }
}

impl Test {
    fn compile(rule: &Rule) -> Result<Self, String> {
        match rule {
            Rule::TimeWindow { not_before, not_after } => {
                Window::new(*not_before, *not_after).map(Self::Window)
            }
            Rule::Quantity { parameter, min, max } => {
                Quantity::new(parameter, *min, *max).map(Self::Quantity)
            }
            Rule::Predicate { require } => {
                Predicate::compile(require).map(Self::Predicate).map_err(|fault| fault.to_string())
            }
        }
    }
}

fn breach(predicate: &Predicate, inputs: &Inputs) -> Option<Breach> {
    match predicate.evaluate(inputs) {
        Outcome::Holds => None,
        Outcome::Fails(reason) => {
            Some(Breach { reason, retry_at: None, lasting: !predicate.reads().can_change() })
        }
    }
}
