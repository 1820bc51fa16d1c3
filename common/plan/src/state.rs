//! The states of plans, steps and undos, and one total transition function for each.
//!
//! The functions are used live, before a row is written, and in replay, over the recorded events; the database
//! repeats the sets of states as CHECKs. The habit is steno's (`src/saga_log.rs`): the lifecycle reads in one match.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::UnknownWord;

macro_rules! words {
    ($name:ident, $what:literal, { $($variant:ident => $word:literal, $doc:literal;)+ }) => {
        #[doc = concat!("The state of ", $what, ".")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $(#[doc = $doc] $variant,)+
        }

        impl $name {
            /// Every state.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word of the contract: in rows, events and routing keys.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { kind: concat!("state of ", $what), word: word.to_owned() }),
                }
            }
        }
    };
}

words!(PlanState, "a plan", {
    Draft => "draft", "Registered, with its readiness report.";
    SubmittedForApproval => "submitted_for_approval", "Governance was asked.";
    Approved => "approved", "A valid verdict is bound to it.";
    Rejected => "rejected", "Governance said no.";
    Staged => "staged", "Connectors and parameters are checked; admission is next, or refused for now.";
    Executing => "executing", "Steps run.";
    Paused => "paused", "Nothing forward starts until an operator says.";
    RollingBack => "rolling_back", "What was done is being undone.";
    Completed => "completed", "Every step completed.";
    Aborted => "aborted", "Ended without completing; what could be undone is undone.";
    Stuck => "stuck", "The rollback cannot finish; an operator must resolve it.";
    Archived => "archived", "Ended, and its log is exported.";
});

words!(StepState, "a step", {
    Pending => "pending", "Waits for what it needs.";
    Ready => "ready", "May be claimed when it is due.";
    Running => "running", "An attempt is under way, under a lease.";
    Completed => "completed", "Done; the result is recorded.";
    Failed => "failed", "An attempt failed, or the step was refused for good.";
    Unknown => "unknown", "The request may have left and no answer came: to be probed.";
    Compensating => "compensating", "Its undo is under way.";
    RolledBack => "rolled_back", "Undone.";
    Stuck => "stuck", "Its undo cannot finish.";
    Skipped => "skipped", "Never started, and the plan ended.";
});

/// A transition that the lifecycle does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {what} cannot go from {from} to {to}")]
pub struct IllegalTransition {
    what: &'static str,
    from: &'static str,
    to: &'static str,
}

impl PlanState {
    /// Goes to `to`, if the lifecycle has that arrow.
    pub const fn to(self, to: Self) -> Result<Self, IllegalTransition> {
        use PlanState as S;
        let legal = match self {
            S::Draft => matches!(to, S::SubmittedForApproval | S::Aborted),
            S::SubmittedForApproval => matches!(to, S::Approved | S::Rejected | S::Aborted),
            S::Approved => matches!(to, S::Staged | S::Aborted),
            S::Staged => matches!(to, S::Executing | S::Aborted),
            S::Executing => matches!(to, S::Completed | S::RollingBack | S::Paused),
            S::Paused => matches!(to, S::Executing | S::RollingBack),
            S::RollingBack => matches!(to, S::Aborted | S::Stuck),
            S::Stuck => matches!(to, S::RollingBack | S::Aborted),
            S::Rejected | S::Completed | S::Aborted => matches!(to, S::Archived),
            S::Archived => false,
        };
        if legal {
            Ok(to)
        } else {
            Err(IllegalTransition { what: "plan", from: self.as_str(), to: to.as_str() })
        }
    }

    /// Whether the plan is over: nothing of it runs or will run.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Rejected | Self::Aborted | Self::Archived)
    }

    /// Whether the plan occupies its id: at most one version of a plan is in such a state (invariant 9).
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Staged | Self::Executing | Self::Paused | Self::RollingBack | Self::Stuck)
    }

    /// Whether a new forward step may be claimed in it.
    #[must_use]
    pub const fn runs_forward(self) -> bool {
        matches!(self, Self::Executing)
    }
}

impl StepState {
    /// Goes to `to`, if the lifecycle has that arrow. The states of an undo are the same set, and its arrows a subset
    /// but for the end of its own: an undo that cannot finish is `failed → stuck`.
    pub const fn to(self, to: Self) -> Result<Self, IllegalTransition> {
        use StepState as S;
        let legal = match self {
            S::Pending => matches!(to, S::Ready | S::Skipped),
            S::Ready => matches!(to, S::Running | S::Failed | S::Skipped),
            S::Running => matches!(to, S::Completed | S::Failed | S::Unknown),
            S::Unknown => matches!(to, S::Completed | S::Failed),
            S::Failed => matches!(to, S::Ready | S::Compensating | S::Stuck),
            S::Completed => matches!(to, S::Compensating),
            S::Compensating => matches!(to, S::RolledBack | S::Stuck),
            S::Stuck => matches!(to, S::Compensating | S::RolledBack | S::Ready),
            S::RolledBack | S::Skipped => false,
        };
        if legal {
            Ok(to)
        } else {
            Err(IllegalTransition { what: "step", from: self.as_str(), to: to.as_str() })
        }
    }

    /// Whether an attempt may be having its effect right now: a rollback waits until no step is in such a state.
    #[must_use]
    pub const fn is_in_flight(self) -> bool {
        matches!(self, Self::Running | Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back() {
        for state in PlanState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
        for state in StepState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
        assert!("nowhere".parse::<PlanState>().is_err());
    }

    #[test]
    fn every_plan_state_can_end_and_an_end_only_archives() {
        for start in PlanState::ALL {
            let mut reached = vec![*start];
            let mut next = 0;
            while next < reached.len() {
                for to in PlanState::ALL {
                    if reached[next].to(*to).is_ok() && !reached.contains(to) {
                        reached.push(*to);
                    }
                }
                next += 1;
            }
            assert!(reached.iter().any(|s| s.is_end()), "{start} never ends");
            if start.is_end() {
                assert!(reached.iter().all(|s| s.is_end()), "{start} comes back to life");
            }
        }
    }

    #[test]
    fn what_is_in_flight_is_settled_before_it_is_undone() {
        for state in [StepState::Running, StepState::Unknown] {
            assert!(state.to(StepState::Compensating).is_err());
            assert!(state.to(StepState::Skipped).is_err());
        }
    }
}
