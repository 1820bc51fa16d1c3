//! What can go wrong with the plans of a run.

use serde::Serialize;
use uuid::Uuid;

/// How many faults are told in words; all are counted.
const EXAMPLES: usize = 10;

/// What went wrong, in plans, except `unreadable`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Faults {
    /// Never submitted, as the run was over before.
    pub(crate) unsubmitted: u32,
    /// Without an end.
    pub(crate) missing: u32,
    /// With more than one end.
    pub(crate) doubled: u32,
    /// Ended otherwise than they had to.
    pub(crate) unexpected: u32,
    /// With a step that completed twice, or completed without all steps.
    pub(crate) miscounted: u32,
    /// With an event that came after a later one.
    pub(crate) out_of_order: u32,
    /// Messages that are no event of the contract.
    pub(crate) unreadable: u32,
    /// The first of them, in words.
    pub(crate) examples: Vec<String>,
}

impl Faults {
    /// Whether nothing went wrong.
    pub(crate) fn none(&self) -> bool {
        *self == Self::default()
    }

    /// Tells of a plan what went wrong, if there is room.
    pub(crate) fn tell(&mut self, plan: Uuid, what: &str) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("plan {plan}: {what}"));
        }
    }
}
