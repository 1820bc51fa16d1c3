//! The kinds of events: their words, which are routing keys, and where each goes.

use serde::{Deserialize, Serialize};

use crate::ids::UnknownWord;
use crate::state::{PlanState, StepState};

/// An operator's act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlAct {
    /// Nothing forward is claimed.
    Pause,
    /// It is again.
    Resume,
    /// End the plan, undoing what was done.
    Abort,
    /// No claim for this connector.
    DisableConnector,
    /// Claims again.
    EnableConnector,
    /// A limit was set.
    SetBudget,
    /// A constraint set was registered.
    SetConstraints,
    /// A tenant's share of the claims was set.
    SetWeight,
    /// A connector's breaker is held open: no claim for it.
    OpenBreaker,
    /// It is held closed, whatever it says by itself.
    CloseBreaker,
    /// It moves by itself again.
    FreeBreaker,
    /// An operator settled what nobody could tell, or what was stuck.
    Resolve,
    /// An act that takes two was asked for by the first of them.
    Request,
    /// It was said which acts take two.
    SetTwoPerson,
    /// A parked message was sent to its queue again.
    ReplayDead,
    /// A parked message was thrown away.
    DropDead,
}

impl ControlAct {
    /// The word of the contract, after `control.`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::DisableConnector => "disable_connector",
            Self::EnableConnector => "enable_connector",
            Self::SetBudget => "set_budget",
            Self::SetConstraints => "set_constraints",
            Self::SetWeight => "set_weight",
            Self::OpenBreaker => "open_breaker",
            Self::CloseBreaker => "close_breaker",
            Self::FreeBreaker => "free_breaker",
            Self::Resolve => "resolve",
            Self::Request => "request",
            Self::SetTwoPerson => "set_two_person",
            Self::ReplayDead => "replay_dead",
            Self::DropDead => "drop_dead",
        }
    }

    const ALL: [Self; 16] = [
        Self::Pause,
        Self::Resume,
        Self::Abort,
        Self::DisableConnector,
        Self::EnableConnector,
        Self::SetBudget,
        Self::SetConstraints,
        Self::SetWeight,
        Self::OpenBreaker,
        Self::CloseBreaker,
        Self::FreeBreaker,
        Self::Resolve,
        Self::Request,
        Self::SetTwoPerson,
        Self::ReplayDead,
        Self::DropDead,
    ];
}

impl std::str::FromStr for ControlAct {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|act| act.as_str() == word)
            .ok_or_else(|| UnknownWord { kind: "operator's act", word: word.to_owned() })
    }
}

/// What happened. The word is the routing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A plan came to a state: `plan.<state>`.
    Plan(PlanState),
    /// A step came to a state: `step.<state>`.
    Step(StepState),
    /// An undo came to a state: `undo.<state>`. The step it undoes has its own `step.compensating` and what follows.
    Undo(StepState),
    /// Governance is asked: `plan.approval_requested`.
    ApprovalRequested,
    /// A revocation was bound: `plan.revoked`, with the verdict. What it makes of the plan are events of their own.
    Revoked,
    /// Rows of a plan do not say what was approved, and nothing of it is claimed: `seal.broken`.
    SealBroken,
    /// Room was taken in the budget: `spend.reserved`.
    SpendReserved,
    /// Money was spent: `spend.incurred`.
    SpendIncurred,
    /// Reserved room was given back: `spend.released`.
    SpendReleased,
    /// Money came back: `refund.issued`.
    RefundIssued,
    /// More was spent than was reserved: `budget.overrun`.
    BudgetOverrun,
    /// A step does not fit the budget, for now or for good: `budget.refused`.
    BudgetRefused,
    /// A rule does not hold: `constraint.violated`.
    ConstraintViolated,
    /// A submission was refused: `submission.rejected`.
    SubmissionRejected,
    /// A message was parked that is no submission: `message.parked`.
    MessageParked,
    /// Redis lost what it held: `runtime.lost`. No total is touched by it; token windows are closed.
    RuntimeLost,
    /// What Redis lost was rebuilt from the ledger: `runtime.rebuilt`. Token windows are open.
    RuntimeRebuilt,
    /// An answer came when its lease was lost and something else was on record: `anomaly.late_answer`. It changes
    /// nothing.
    LateAnswer,
    /// What grew in the log was sealed: `audit.checkpoint`. Its data is the checkpoint.
    Checkpoint,
    /// An operator acted: `control.<act>`.
    Control(ControlAct),
}

/// A place where an event goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// The financial ledger.
    Flo,
    /// The portfolio tracker.
    Pte,
    /// Whoever follows lifecycles.
    Events,
    /// Governance.
    Ggp,
}

impl EventKind {
    /// Every kind that there is.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let units = StepState::ALL.iter().flat_map(|state| [Self::Step(*state), Self::Undo(*state)]);
        let plans = PlanState::ALL.iter().map(|state| Self::Plan(*state));
        let single = [
            Self::ApprovalRequested,
            Self::Revoked,
            Self::SealBroken,
            Self::SpendReserved,
            Self::SpendIncurred,
            Self::SpendReleased,
            Self::RefundIssued,
            Self::BudgetOverrun,
            Self::BudgetRefused,
            Self::ConstraintViolated,
            Self::SubmissionRejected,
            Self::MessageParked,
            Self::RuntimeLost,
            Self::RuntimeRebuilt,
            Self::LateAnswer,
            Self::Checkpoint,
        ];
        plans.chain(units).chain(single).chain(ControlAct::ALL.map(Self::Control)).collect()
    }

    /// The routing key; with `dat.` before it, the `CloudEvents` type.
    #[must_use]
    pub fn routing_key(self) -> String {
        match self {
            Self::Plan(state) => format!("plan.{state}"),
            Self::Step(state) => format!("step.{state}"),
            Self::Undo(state) => format!("undo.{state}"),
            Self::ApprovalRequested => "plan.approval_requested".to_owned(),
            Self::Revoked => "plan.revoked".to_owned(),
            Self::SealBroken => "seal.broken".to_owned(),
            Self::SpendReserved => "spend.reserved".to_owned(),
            Self::SpendIncurred => "spend.incurred".to_owned(),
            Self::SpendReleased => "spend.released".to_owned(),
            Self::RefundIssued => "refund.issued".to_owned(),
            Self::BudgetOverrun => "budget.overrun".to_owned(),
            Self::BudgetRefused => "budget.refused".to_owned(),
            Self::ConstraintViolated => "constraint.violated".to_owned(),
            Self::SubmissionRejected => "submission.rejected".to_owned(),
            Self::MessageParked => "message.parked".to_owned(),
            Self::RuntimeLost => "runtime.lost".to_owned(),
            Self::RuntimeRebuilt => "runtime.rebuilt".to_owned(),
            Self::LateAnswer => "anomaly.late_answer".to_owned(),
            Self::Checkpoint => "audit.checkpoint".to_owned(),
            Self::Control(act) => format!("control.{}", act.as_str()),
        }
    }

    /// Where it is published. Every event goes somewhere; none goes to two consumers that would count it twice.
    #[must_use]
    pub const fn destinations(self) -> &'static [Destination] {
        match self {
            Self::SpendReserved | Self::SpendIncurred | Self::SpendReleased | Self::RefundIssued => {
                &[Destination::Flo]
            }
            Self::ApprovalRequested => &[Destination::Ggp],
            Self::Plan(PlanState::Completed | PlanState::Aborted)
            | Self::Step(StepState::Completed | StepState::Failed | StepState::RolledBack) => {
                &[Destination::Pte, Destination::Events]
            }
            Self::Plan(_)
            | Self::Step(_)
            | Self::Undo(_)
            | Self::Revoked
            | Self::SealBroken
            | Self::BudgetOverrun
            | Self::BudgetRefused
            | Self::ConstraintViolated
            | Self::SubmissionRejected
            | Self::MessageParked
            | Self::RuntimeLost
            | Self::RuntimeRebuilt
            | Self::LateAnswer
            | Self::Checkpoint
            | Self::Control(_) => &[Destination::Events],
        }
    }
}

impl std::str::FromStr for EventKind {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let unknown = || UnknownWord { kind: "event", word: word.to_owned() };
        let (family, rest) = word.split_once('.').ok_or_else(unknown)?;
        Ok(match (family, rest) {
            ("plan", "approval_requested") => Self::ApprovalRequested,
            ("plan", "revoked") => Self::Revoked,
            ("seal", "broken") => Self::SealBroken,
            ("plan", state) => Self::Plan(state.parse()?),
            ("step", state) => Self::Step(state.parse()?),
            ("undo", state) => Self::Undo(state.parse()?),
            ("spend", "reserved") => Self::SpendReserved,
            ("spend", "incurred") => Self::SpendIncurred,
            ("spend", "released") => Self::SpendReleased,
            ("refund", "issued") => Self::RefundIssued,
            ("budget", "overrun") => Self::BudgetOverrun,
            ("budget", "refused") => Self::BudgetRefused,
            ("constraint", "violated") => Self::ConstraintViolated,
            ("submission", "rejected") => Self::SubmissionRejected,
            ("message", "parked") => Self::MessageParked,
            ("runtime", "lost") => Self::RuntimeLost,
            ("runtime", "rebuilt") => Self::RuntimeRebuilt,
            ("anomaly", "late_answer") => Self::LateAnswer,
            ("audit", "checkpoint") => Self::Checkpoint,
            ("control", act) => Self::Control(act.parse().map_err(|_| unknown())?),
            _ => return Err(unknown()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_routing_key_reads_back() {
        for kind in EventKind::all() {
            assert_eq!(kind.routing_key().parse(), Ok(kind));
        }
    }

    /// A kind that is added has to be given a number here, and then to be among all.
    const fn number(kind: EventKind) -> u8 {
        match kind {
            EventKind::Plan(_) => 0,
            EventKind::Step(_) => 1,
            EventKind::Undo(_) => 2,
            EventKind::ApprovalRequested => 3,
            EventKind::Revoked => 4,
            EventKind::SealBroken => 5,
            EventKind::SpendReserved => 6,
            EventKind::SpendIncurred => 7,
            EventKind::SpendReleased => 8,
            EventKind::RefundIssued => 9,
            EventKind::BudgetOverrun => 10,
            EventKind::BudgetRefused => 11,
            EventKind::ConstraintViolated => 12,
            EventKind::SubmissionRejected => 13,
            EventKind::MessageParked => 14,
            EventKind::RuntimeLost => 15,
            EventKind::RuntimeRebuilt => 16,
            EventKind::LateAnswer => 17,
            EventKind::Checkpoint => 18,
            EventKind::Control(_) => 19,
        }
    }

    #[test]
    fn all_kinds_are_all_of_them_and_each_once() {
        let all = EventKind::all();
        let numbers: BTreeSet<u8> = all.iter().copied().map(number).collect();
        assert_eq!(numbers, (0..20).collect());
        let words: BTreeSet<String> = all.iter().copied().map(EventKind::routing_key).collect();
        assert_eq!(words.len(), all.len());
    }
}
