//! Constraints: a plan's, its tenant's, the fleet's and its approver's rules, compiled once and asked before everything
//! that acts.
//!
//! Asked twice. **Admission** looks at the plan as a whole: its time windows, the quantities of every step as far as
//! the document tells, what it declares and what it uses, and the predicates that read neither `step` nor `results`.
//! **Runtime** looks at one step, right before it acts, with its references resolved: everything. What needs a step is
//! never guessed at admission.
//!
//! Rules that count ([`counted`]) count nothing themselves: the claim transaction counts, under its locks, and gives
//! what it counted as inputs. So a decision stays a pure function of what is recorded with it.

mod counted;
mod declared;
#[cfg(test)]
mod tests;

use dat_plan::PlanDocument;
use dat_plan::document::{Constraint, Enforcement, Rule};

pub use counted::{Cap, Counter, RateRule, StepPlace};
use counted::{Concurrency, Spend};
use declared::{Capability, Risk};

use crate::decision::{Decision, Violation};
use crate::inputs::Inputs;
use crate::limits::{Breach, Quantity, Window};
use crate::predicate::{Outcome, Predicate, Reads};
use crate::rate::RateLimit;

/// Whose rules they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// The plan's own, and those that its verdict added.
    #[default]
    Plan,
    /// An operator's, for one tenant.
    Tenant,
    /// An operator's, for all.
    Fleet,
}

/// Constraints, compiled.
#[derive(Debug, Clone, Default)]
pub struct ConstraintSet {
    origin: Origin,
    constraints: Vec<Compiled>,
}

#[derive(Debug, Clone)]
struct Compiled {
    /// The constraint's id, as events name it.
    id: String,
    enforcement: Enforcement,
    rule: Rule,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Window(Window),
    Quantity(Quantity),
    /// A schedule: Redis keeps it, before the claim.
    Rate(RateLimit),
    Concurrency(Concurrency),
    Spend(Spend),
    Risk(Risk),
    Capability(Capability),
    Predicate(Predicate),
}

impl ConstraintSet {
    /// Compiles a plan's constraints; the error lists every one that cannot be, by its place, with what to change.
    pub fn compile(constraints: &[Constraint]) -> Result<Self, Vec<(usize, String)>> {
        Self::compile_for(Origin::Plan, constraints)
    }

    /// Compiles constraints of any origin; fails as [`ConstraintSet::compile`] does.
    pub fn compile_for(origin: Origin, constraints: &[Constraint]) -> Result<Self, Vec<(usize, String)>> {
        let mut compiled = Vec::with_capacity(constraints.len());
        let mut faults = Vec::new();
        let prefix = match origin {
            Origin::Plan => "",
            Origin::Tenant => "tenant/",
            Origin::Fleet => "fleet/",
        };
        for (index, Constraint { id, enforcement, rule }) in constraints.iter().enumerate() {
            match Test::compile(rule) {
                Ok(test) => compiled.push(Compiled {
                    id: format!("{prefix}{id}"),
                    enforcement: *enforcement,
                    rule: rule.clone(),
                    test,
                }),
                Err(fault) => faults.push((index, fault)),
            }
        }
        if faults.is_empty() { Ok(Self { origin, constraints: compiled }) } else { Err(faults) }
    }

    /// Whose rules they are.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether there is no rule in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.constraints.is_empty()
    }

    /// What its predicates read together: what a decision's inputs must hold.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.constraints.iter().fold(Reads::default(), |reads, constraint| match &constraint.test {
            Test::Predicate(predicate) => reads.union(predicate.reads()),
            _ => reads,
        })
    }

    /// Whether a plan may begin. `inputs.step`, `inputs.results` and what was counted are not looked at.
    #[must_use]
    pub fn admission(&self, inputs: &Inputs, document: &PlanDocument) -> Decision {
        self.decide(|constraint| match &constraint.test {
            Test::Window(window) => window.breach(inputs.now),
            Test::Quantity(quantity) => quantity.breach_of_plan(&document.steps),
            Test::Risk(risk) => risk.breach(inputs),
            Test::Capability(capability) => capability.breach_of_plan(document),
            Test::Predicate(predicate) if predicate.reads().plan_only() => breach(predicate, inputs),
            Test::Predicate(_) | Test::Rate(_) | Test::Concurrency(_) | Test::Spend(_) => None,
        })
    }

    /// Whether the step in `inputs` may act now. Without a step, what is about steps is not looked at, and predicates
    /// that read `step` are violated.
    #[must_use]
    pub fn runtime(&self, inputs: &Inputs) -> Decision {
        let step = inputs.step.as_ref();
        self.decide(|constraint| match &constraint.test {
            Test::Window(window) => window.breach(inputs.now),
            Test::Quantity(quantity) => {
                let step = step?;
                quantity.breach(step.key.as_str(), step.parameters.get(&quantity.parameter)?)
            }
            Test::Rate(_) => None,
            Test::Concurrency(concurrency) => concurrency.breach(&self.key(constraint, inputs)?, inputs),
            Test::Spend(spend) => spend.breach(self.origin, &self.key(constraint, inputs)?, inputs),
            Test::Risk(risk) => risk.breach(inputs),
            Test::Capability(capability) => capability.breach(step?),
            Test::Predicate(predicate) => breach(predicate, inputs),
        })
    }

    fn decide(&self, breach: impl Fn(&Compiled) -> Option<Breach>) -> Decision {
        let violations = self.constraints.iter().filter_map(|constraint| {
            let Breach { reason, retry_at, lasting } = breach(constraint)?;
            let enforcement = constraint.enforcement;
            // Nothing waits for a soft rule.
            let retry_at = retry_at.filter(|_| enforcement == Enforcement::Hard);
            Some(Violation { constraint: constraint.id.clone(), enforcement, reason, retry_at, lasting })
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
            Rule::Rate { count, period_ms, burst, .. } => {
                RateLimit::new(*count, std::time::Duration::from_millis(*period_ms), *burst)
                    .map(Self::Rate)
                    .map_err(|error| error.to_string())
            }
            Rule::Concurrency { max, .. } => Ok(Self::Concurrency(Concurrency { max: i64::from(*max) })),
            Rule::Spend { max, period, .. } => Ok(Self::Spend(Spend { max: *max, period: *period })),
            Rule::Risk { label, max } => Ok(Self::Risk(Risk { label: label.clone(), max: *max })),
            Rule::Capability { allow } => Ok(Self::Capability(Capability { allow: allow.clone() })),
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
