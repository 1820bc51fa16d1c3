//! Replay: what a plan's log says of where the plan, its steps and its undos stand, by the transition functions of
//! [`crate::state`] alone. Audits compare it with the rows; nothing is decided by it.

use std::collections::BTreeMap;

use crate::event::EventKind;
use crate::state::{IllegalTransition, PlanState, StepState};

/// Where a plan and its units stand by their events. A unit that no event told of is `pending`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    plan: Option<PlanState>,
    steps: BTreeMap<String, StepState>,
    undos: BTreeMap<String, StepState>,
}

/// An event that cannot have come where it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// The lifecycle has no such arrow.
    #[error(transparent)]
    Transition(#[from] IllegalTransition),
    /// A plan's first state is `draft`.
    #[error("the first state of a plan is draft, not {0}")]
    First(PlanState),
    /// It is about a step and names none.
    #[error("the event names no step")]
    NoStep,
    /// Only a step has this state, and no undo.
    #[error("an undo is never {0}")]
    NoUndo(StepState),
}

impl Replay {
    /// Follows one event, given the key of the step that it is about. One that is about no state changes nothing, and
    /// neither does one that is impossible.
    pub fn follow(&mut self, kind: EventKind, step: Option<&str>) -> Result<(), Impossible> {
        match kind {
            EventKind::Plan(to) => {
                self.plan = Some(match self.plan {
                    Some(from) => from.to(to)?,
                    None if to == PlanState::Draft => to,
                    None => return Err(Impossible::First(to)),
                });
                Ok(())
            }
            EventKind::Step(to) => enter(&mut self.steps, step, to),
            EventKind::Undo(to @ (StepState::Compensating | StepState::RolledBack | StepState::Skipped)) => {
                Err(Impossible::NoUndo(to))
            }
            EventKind::Undo(to) => enter(&mut self.undos, step, to),
            _ => Ok(()),
        }
    }

    /// Where the plan stands; nothing before its first event.
    #[must_use]
    pub const fn plan(&self) -> Option<PlanState> {
        self.plan
    }

    /// Where a step stands.
    #[must_use]
    pub fn step(&self, key: &str) -> StepState {
        self.steps.get(key).copied().unwrap_or(StepState::Pending)
    }

    /// Where the undo of a step, or a step of the rollback's own list, stands.
    #[must_use]
    pub fn undo(&self, key: &str) -> StepState {
        self.undos.get(key).copied().unwrap_or(StepState::Pending)
    }

    /// What plan and units, each legal by itself, cannot be at once.
    #[must_use]
    pub fn contradiction(&self) -> Option<String> {
        let plan = self.plan?;
        let units = || {
            let steps = self.steps.iter().map(|(key, state)| (format!("step {key}"), *state));
            steps.chain(self.undos.iter().map(|(key, state)| (format!("the undo of {key}"), *state)))
        };
        let wrong: fn(StepState) -> bool = match plan {
            PlanState::Draft
            | PlanState::SubmittedForApproval
            | PlanState::Approved
            | PlanState::Staged
            | PlanState::Rejected => |state| !matches!(state, StepState::Pending | StepState::Skipped),
            PlanState::Completed => |state| state != StepState::Completed,
            PlanState::Aborted => |state| {
                matches!(
                    state,
                    StepState::Ready | StepState::Running | StepState::Unknown | StepState::Compensating
                )
            },
            PlanState::Executing
            | PlanState::Paused
            | PlanState::RollingBack
            | PlanState::Stuck
            | PlanState::Archived => |_| false,
        };
        let (unit, state) = units().find(|(_, state)| wrong(*state))?;
        Some(format!("the plan is {plan} and {unit} is {state}"))
    }
}

fn enter(
    units: &mut BTreeMap<String, StepState>,
    step: Option<&str>,
    to: StepState,
) -> Result<(), Impossible> {
    let step = step.ok_or(Impossible::NoStep)?;
    let from = units.get(step).copied().unwrap_or(StepState::Pending);
    units.insert(step.to_owned(), from.to(to)?);
    Ok(())
}
