//! What an operator says of a unit, and what comes of it.

use chrono::{DateTime, Utc};
use dat_plan::{PlanState, StepState, UnitKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::two_person::Requested;

/// What an operator found out, or wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "resolution")]
pub enum Resolution {
    /// Of what is unknown: the effect happened.
    Done {
        /// The result; `{}` where there is none.
        result: Value,
        /// What it cost, smallest unit.
        cost: i64,
        /// What came back.
        refund: i64,
    },
    /// Of what is unknown: it had no effect and never will, as after a probe that sealed the key.
    NoEffect {
        /// How long its request may be accepted once it was sent, by the document; milliseconds. Until that is over for
        /// the latest moment of sending nobody can know.
        timeout_ms: u64,
    },
    /// Of a stuck undo: someone undid it by hand.
    Undone {
        /// What that cost, smallest unit.
        cost: i64,
        /// What came back.
        refund: i64,
    },
    /// Of a stuck undo: it is tried again, its attempts anew.
    Retry,
}

impl Resolution {
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Done { .. } => "done",
            Self::NoEffect { .. } => "no_effect",
            Self::Undone { .. } => "undone",
            Self::Retry => "retry",
        }
    }

    /// The state of the units that it is for.
    pub(super) const fn applies_to(&self) -> StepState {
        match self {
            Self::Done { .. } | Self::NoEffect { .. } => StepState::Unknown,
            Self::Undone { .. } | Self::Retry => StepState::Stuck,
        }
    }
}

/// One unit that is resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolve {
    /// The unit. Of a stuck undo, the undo and not its step.
    pub unit: UnitKey,
    /// Its last attempt, as the operator saw it: what was found out is of this one, and of no later one.
    pub attempt: i32,
    /// How.
    pub resolution: Resolution,
    /// An action: the steps that need it, by index, from the document.
    pub successors: Vec<i32>,
}

/// Why a unit is not resolved. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotResolved {
    /// There is no such unit.
    #[error("the plan has no such step or undo")]
    NotThere,
    /// It is in another state than the resolution is for.
    #[error("{unit} is {state} and not {wanted}: there is nothing to resolve in that way")]
    NotSo {
        /// The unit, for people.
        unit: String,
        /// Where it stands.
        state: StepState,
        /// Where it would have to stand.
        wanted: StepState,
    },
    /// A worker asks the outside system about it right now.
    #[error("{unit} is being probed by {worker}, whose lease holds until {until}: try again then")]
    Held {
        /// The unit, for people.
        unit: String,
        /// Who holds the lease.
        worker: String,
        /// Until when.
        until: DateTime<Utc>,
    },
    /// Another attempt was made since.
    #[error(
        "{unit} has made attempt {made} since attempt {seen} was looked at: see 'dat plan explain' and decide anew"
    )]
    Moved {
        /// The unit, for people.
        unit: String,
        /// The attempt that the operator saw.
        seen: i32,
        /// The last one now.
        made: i32,
    },
    /// Its request may still be accepted.
    #[error("the request of {unit} may have its effect until {until}: say after that that it had none")]
    TooSoon {
        /// The unit, for people.
        unit: String,
        /// Until when.
        until: DateTime<Utc>,
    },
    /// A step is resolved as done, an undo as undone.
    #[error("{unit} is no undo: only an undo is undone by hand or tried again here")]
    NoUndo {
        /// The unit, for people.
        unit: String,
    },
}

impl NotResolved {
    /// When it may be so no more by itself.
    #[must_use]
    pub const fn until(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Held { until, .. } | Self::TooSoon { until, .. } => Some(*until),
            Self::NotThere | Self::NotSo { .. } | Self::Moved { .. } | Self::NoUndo { .. } => None,
        }
    }
}

/// What came of resolving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// It is in force.
    Done {
        /// Where the plan stands now.
        plan: PlanState,
        /// How many undos of it are stuck still.
        stuck: i64,
    },
    /// It takes a second operator: nothing is changed yet.
    Requested(Requested),
    /// It cannot be resolved so.
    Refused(NotResolved),
}
