//! What stands between a plan or a step and its end, from rows that were read; pure.

mod bounds;
mod stop;
mod unit;

use chrono::{DateTime, Utc};
use dat_plan::{PlanDocument, PlanState, StepState, UnitKind};
use dat_store::{PlanView, SEAL_BROKEN, StepView, Stop};
use schemars::JsonSchema;
use serde::Serialize;

use crate::moments::span;

/// One thing that something waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Blocker {
    /// What waits.
    pub(crate) about: String,
    /// For what.
    pub(crate) because: String,
    /// What would help; none where it is over.
    pub(crate) unblocked_by: Option<String>,
}

/// What was read of the plan and the fleet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// The plan.
    pub(crate) view: &'a PlanView,
    /// What operators have stopped.
    pub(crate) stops: &'a [Stop],
    /// The document.
    pub(crate) document: &'a PlanDocument,
    /// What each step needs, by index.
    pub(crate) needs: &'a [Vec<usize>],
    /// Now.
    pub(crate) now: DateTime<Utc>,
}

impl Facts<'_> {
    /// What the plan waits for: what holds all of it first, then each step that could go on or is on its way.
    pub(crate) fn of_plan(&self) -> Vec<Blocker> {
        let plan = &self.view.summary;
        let reason = plan.reason.clone();
        let about = |because: String, remedy: &str| Blocker {
            about: "the plan".to_owned(),
            because,
            unblocked_by: Some(remedy.to_owned()),
        };
        let held = |stop: &Stop| about(stop::said(stop), &stop::lifted_by(stop));
        let stopped = self.stop(None).map(held);
        let disabled = || self.view.steps.iter().find_map(|unit| self.stop(Some(&unit.connector))).map(held);
        match plan.state {
            PlanState::Draft | PlanState::SubmittedForApproval => vec![about(
                format!(
                    "governance was asked {} ago and has not answered",
                    span(self.now - plan.state_since)
                ),
                "a verdict on plan.approved or plan.rejected; GGP gives it, or 'dat approve' in its stead",
            )],
            // It starts only when each of its connectors may be used.
            PlanState::Approved | PlanState::Staged => {
                vec![stopped.or_else(disabled).unwrap_or_else(|| match reason {
                    Some(reason) => {
                        let changing = "that changing; it is checked again by itself";
                        about(reason.clone(), &mended(Some(&reason)).unwrap_or_else(|| changing.to_owned()))
                    }
                    None => about(
                        "its admission is not decided yet".to_owned(),
                        "a worker with the roles plan-approved and sweeper: look at /readyz of one",
                    ),
                })]
            }
            PlanState::Paused => {
                let resume =
                    "'dat control resume --plan PLAN --reason …' or 'dat plan abort PLAN --reason …'";
                let why = reason.unwrap_or_else(|| "it was paused".to_owned());
                vec![stopped.unwrap_or_else(|| about(why, resume))]
            }
            PlanState::Executing | PlanState::RollingBack | PlanState::Stuck => {
                let why = reason.map(|reason| self.going(reason));
                stopped.into_iter().chain(why).chain(self.of_units()).chain(self.deadline()).collect()
            }
            PlanState::Completed | PlanState::Rejected | PlanState::Aborted | PlanState::Archived => {
                let because =
                    reason.map_or_else(|| "it is over".to_owned(), |reason| format!("it is over: {reason}"));
                vec![Blocker { unblocked_by: None, ..about(because, "") }]
            }
        }
    }

    /// Whether there is a unit of that name, such as a step of the rollback's own list.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.view.steps.iter().any(|unit| unit.key == key)
    }

    /// What one step waits for, and its undo.
    pub(crate) fn of_step(&self, key: &str) -> Vec<Blocker> {
        let units: Vec<Blocker> =
            self.view.steps.iter().filter(|unit| unit.key == key).map(|unit| self.of_unit(unit)).collect();
        // Before the plan is staged its steps have no rows.
        if units.is_empty() { self.of_plan() } else { units }
    }

    fn of_units(&self) -> Vec<Blocker> {
        let under_way = self.view.steps.iter().filter(|unit| self.is_under_way(unit));
        let mut blockers: Vec<Blocker> = under_way.map(|unit| self.of_unit(unit)).collect();
        let waiting = self.view.steps.iter().filter(|unit| unit.state == StepState::Pending).count();
        if waiting > 0 {
            blockers.push(Blocker {
                about: format!("{waiting} further steps"),
                because: "they are pending: what they need has not completed".to_owned(),
                unblocked_by: Some("what is above".to_owned()),
            });
        }
        blockers
    }

    /// Whether a unit is neither at its end nor waiting for others.
    fn is_under_way(&self, unit: &StepView) -> bool {
        match unit.state {
            StepState::Ready | StepState::Running | StepState::Unknown | StepState::Stuck => true,
            // In a rollback a failed action is a thing of the past.
            StepState::Failed => is_undo(unit) || self.view.summary.state == PlanState::Executing,
            StepState::Pending
            | StepState::Completed
            | StepState::Compensating
            | StepState::RolledBack
            | StepState::Skipped => false,
        }
    }

    /// Why the plan is where it is, while it goes on.
    fn going(&self, reason: String) -> Blocker {
        let remedy = mended(Some(&reason)).unwrap_or_else(|| match self.view.summary.state {
            PlanState::Stuck => {
                let resolve = format!("dat plan resolve {}", self.view.summary.plan);
                format!("'{resolve} --retry --reason …' for all that is stuck, or what stands at each of it")
            }
            PlanState::RollingBack => "the end of what is in flight, then of the undos".to_owned(),
            _ => "that changing; it is checked again by itself".to_owned(),
        });
        Blocker { about: "the plan".to_owned(), because: reason, unblocked_by: Some(remedy) }
    }
}

/// What helps where a reason is that something is not what was approved: time alone does not.
fn mended(reason: Option<&str>) -> Option<String> {
    reason.filter(|reason| reason.starts_with(SEAL_BROKEN)).map(|_| {
        "a row that was altered put back as it was ('dat audit verify' names it), or the key that signed the verdict \
         among the [[verdict_key]] of every worker; it is looked at again by itself"
            .to_owned()
    })
}

fn is_undo(unit: &StepView) -> bool {
    unit.kind == UnitKind::Undo.as_str()
}

#[cfg(test)]
mod tests;
