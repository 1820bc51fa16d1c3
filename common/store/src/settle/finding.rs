//! What was found out about an attempt, and what settling it did.

use chrono::{DateTime, Utc};
use dat_plan::{PlanKey, PlanState, StepState, UnitKey};
use serde_json::Value;

use crate::account::AccountView;
use crate::lease::Lease;

/// What was found out about an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// The effect happened.
    Done {
        /// The answer; `{}` where it had none.
        result: Value,
        /// What it cost.
        cost: i64,
        /// What came back.
        refund: i64,
    },
    /// A dry run: the connector has checked the request, and nothing was sent.
    Rehearsed {
        /// What would have been done, for people.
        detail: String,
        /// What would have been answered, as far as that is known; `{}` else.
        result: Value,
    },
    /// A definite answer without effect, that may be tried again.
    Error {
        /// What it cost all the same.
        cost: i64,
        /// For people.
        detail: String,
        /// What the outside system asked to wait, milliseconds.
        retry_after_ms: i64,
    },
    /// A definite answer without effect, for good; or an answer that cannot be stored.
    Refused {
        /// What it cost all the same.
        cost: i64,
        /// For people.
        detail: String,
    },
    /// The effect happened, and its answer cannot be used: it breaks a postcondition, or cannot be stored.
    Unusable {
        /// What it cost.
        cost: i64,
        /// What came back.
        refund: i64,
        /// For people.
        detail: String,
    },
    /// Certainly nothing left this worker.
    NotSent {
        /// For people.
        detail: String,
    },
    /// The request may have left and no answer came.
    Unanswered {
        /// For people.
        detail: String,
    },
    /// A probe: the key has had no effect and never will.
    Sealed,
    /// A probe could not tell.
    CannotTell {
        /// For people.
        detail: String,
        /// When to ask again.
        again_at: DateTime<Utc>,
    },
    /// The connector's breaker holds its probe back: nobody was asked.
    HeldBack {
        /// Why, for people.
        reason: String,
        /// When to look again.
        until: DateTime<Utc>,
    },
    /// Nobody can be asked, and the same key can be sent again without a second effect.
    Repeatable {
        /// For people.
        detail: String,
    },
    /// Nobody can tell, and the plan's `on_unknown` says to roll back: charged its `max_cost`.
    GivenUp {
        /// What is charged.
        charge: i64,
    },
}

/// What came of one attempt, with the right to write it.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The right to write it; consumed.
    pub lease: Lease,
    /// What was found.
    pub finding: Finding,
    /// An action: the steps that need it, by index, from the document.
    pub successors: Vec<i32>,
    /// The decision on its postconditions with its inputs, where it has any.
    pub decision: Option<Value>,
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Written; the unit is in this state now.
    Written(StepState),
    /// The lease was lost: nothing was changed.
    Fenced,
}

/// What a group of settlements did.
#[derive(Debug, Default)]
pub struct SettleReport {
    /// In the order asked.
    pub settled: Vec<Settled>,
    /// Units that became ready: ring `step.dispatch`.
    pub ready: Vec<UnitKey>,
    /// Units that need the coordinator: ring `step.failed`.
    pub undecided: usize,
    /// Answers that came too late and are not what is on record: an event each, nothing else.
    pub late: usize,
    /// Plans that ended, and how.
    pub ended: Vec<(PlanKey, PlanState)>,
    /// The accounts as they are now, for the live copies.
    pub accounts: Vec<AccountView>,
}
