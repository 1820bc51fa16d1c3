//! Conditions: a step's `preconditions` and `postconditions`, which are predicates that always bind.

use dat_plan::document::Enforcement;

use crate::decision::{Decision, Violation};
use crate::inputs::Inputs;
use crate::predicate::{Outcome, Predicate, Reads};

/// Which of a step's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before it starts.
    Before,
    /// After it answered; `results` then holds its own result too.
    After,
}

impl When {
    /// The field of the step that holds them.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Before => "preconditions",
            Self::After => "postconditions",
        }
    }
}

/// The conditions of one step, compiled.
#[derive(Debug, Clone)]
pub struct Conditions {
    when: When,
    predicates: Vec<Predicate>,
}

impl Conditions {
    /// Compiles conditions; the error lists every one that cannot be, by its place, with what to change.
    pub fn compile(when: When, expressions: &[String]) -> Result<Self, Vec<(usize, String)>> {
        let mut predicates = Vec::with_capacity(expressions.len());
        let mut faults = Vec::new();
        for (index, expression) in expressions.iter().enumerate() {
            match Predicate::compile(expression) {
                Ok(predicate) => predicates.push(predicate),
                Err(fault) => faults.push((index, fault.to_string())),
            }
        }
        if faults.is_empty() { Ok(Self { when, predicates }) } else { Err(faults) }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.predicates.is_empty()
    }

    /// What they read together: what the inputs must hold.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.predicates.iter().fold(Reads::default(), |reads, predicate| reads.union(predicate.reads()))
    }

    /// Checks all of them; each that fails is a hard violation named by its place, `preconditions/0`.
    #[must_use]
    pub fn check(&self, inputs: &Inputs) -> Decision {
        let violations = self.predicates.iter().enumerate().filter_map(|(index, predicate)| {
            let Outcome::Fails(reason) = predicate.evaluate(inputs) else { return None };
            Some(Violation {
                constraint: format!("{}/{index}", self.when.field()),
                enforcement: Enforcement::Hard,
                reason,
                retry_at: None,
                lasting: !predicate.reads().can_change(),
            })
        });
        Decision::from_violations(violations.collect())
    }
}
