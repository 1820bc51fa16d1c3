//! What stands between a plan or a step and its end, from rows that were read; pure.

use chrono::{DateTime, Utc};
use dat_plan::{PlanState, StepState, UnitKind};
use dat_store::{PlanView, StepView, Stop};
use serde::Serialize;

use crate::cli::output::{moment, span};

/// One thing that something waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Blocker {
    /// What waits.
    pub(super) about: String,
    /// For what.
    pub(super) because: String,
    /// What would help; none where it is over.
    pub(super) unblocked_by: Option<String>,
}

/// What was read of the plan and the fleet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    /// The plan.
    pub(super) view: &'a PlanView,
    /// What operators have stopped.
    pub(super) stops: &'a [Stop],
    /// What each step needs, by index.
    pub(super) needs: &'a [Vec<usize>],
    /// Now.
    pub(super) now: DateTime<Utc>,
}

impl Facts<'_> {
    /// What the plan waits for: what holds all of it first, then each step that could go on or is on its way.
    pub(super) fn of_plan(&self) -> Vec<Blocker> {
        let plan = &self.view.summary;
        let reason = plan.reason.clone();
        let about = |because: String, remedy: &str| Blocker {
            about: "the plan".to_owned(),
            because,
            unblocked_by: Some(remedy.to_owned()),
        };
        let stopped = self.stop(None).map(|stop| about(stop_said(stop), &lift(stop)));
        match plan.state {
            PlanState::Draft | PlanState::SubmittedForApproval => vec![about(
                format!(
                    "governance was asked {} ago and has not answered",
                    span(self.now - plan.state_since)
                ),
                "a verdict on plan.approved or plan.rejected; GGP gives it, or 'dat approve' in its stead",
            )],
            PlanState::Approved | PlanState::Staged => vec![stopped.unwrap_or_else(|| match reason {
                Some(reason) => about(reason, "that changing; it is checked again by itself"),
                None => about(
                    "its admission is not decided yet".to_owned(),
                    "a worker with the roles plan-approved and sweeper: look at /readyz of one",
                ),
            })],
            PlanState::Paused => {
                let resume =
                    "'dat control resume --plan PLAN --reason …' or 'dat plan abort PLAN --reason …'";
                let why = reason.unwrap_or_else(|| "it was paused".to_owned());
                vec![stopped.unwrap_or_else(|| about(why, resume))]
            }
            PlanState::Executing | PlanState::RollingBack | PlanState::Stuck => {
                let why = reason.map(|reason| self.going(reason));
                stopped.into_iter().chain(why).chain(self.of_units()).collect()
            }
            PlanState::Completed | PlanState::Rejected | PlanState::Aborted | PlanState::Archived => {
                let because =
                    reason.map_or_else(|| "it is over".to_owned(), |reason| format!("it is over: {reason}"));
                vec![Blocker { unblocked_by: None, ..about(because, "") }]
            }
        }
    }

    /// Whether there is a unit of that name, such as a step of the rollback's own list.
    pub(super) fn has(&self, key: &str) -> bool {
        self.view.steps.iter().any(|unit| unit.key == key)
    }

    /// What one step waits for, and its undo.
    pub(super) fn of_step(&self, key: &str) -> Vec<Blocker> {
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

    fn of_unit(&self, unit: &StepView) -> Blocker {
        let (because, remedy) = match unit.state {
            StepState::Pending => self.pending(unit),
            StepState::Ready => self.ready(unit),
            StepState::Running => self.running(unit),
            StepState::Unknown => (
                said(unit, "the outcome is unknown"),
                format!(
                    "the next probe{}, by a worker with the role step-failed",
                    if unit.not_before > self.now {
                        format!(" at {}", moment(unit.not_before))
                    } else {
                        String::new()
                    }
                ),
            ),
            StepState::Failed => (
                said(unit, "it failed"),
                "the Rollback Coordinator's decision, by a worker with the role step-failed".to_owned(),
            ),
            StepState::Stuck => {
                (said(unit, "its undo cannot finish"), "an operator, who must resolve it".to_owned())
            }
            StepState::Compensating => ("its undo is under way".to_owned(), "the end of its undo".to_owned()),
            StepState::Completed | StepState::RolledBack | StepState::Skipped => {
                return Blocker {
                    about: name(unit),
                    because: format!("it is over: {}", unit.state),
                    unblocked_by: None,
                };
            }
        };
        Blocker {
            about: name(unit),
            because: format!("{}, {because}", unit.state),
            unblocked_by: Some(remedy),
        }
    }

    fn pending(&self, unit: &StepView) -> (String, String) {
        if is_undo(unit) {
            return (format!("{} undos come before it", unit.waits_for), "the end of those".to_owned());
        }
        let needs = usize::try_from(unit.index).ok().and_then(|index| self.needs.get(index));
        let unmet: Vec<String> = needs
            .into_iter()
            .flatten()
            .filter_map(|needed| self.action(*needed))
            .filter(|needed| needed.state != StepState::Completed)
            .map(|needed| format!("{} ({})", needed.key, needed.state))
            .collect();
        if unmet.is_empty() {
            return (
                "though all it needs has completed".to_owned(),
                "the sweeper, which finds such steps: is a worker with that role running?".to_owned(),
            );
        }
        (format!("it needs {}", unmet.join(", ")), "the completion of those".to_owned())
    }

    fn ready(&self, unit: &StepView) -> (String, String) {
        if let Some(stop) = self.stop(Some(&unit.connector)) {
            return (stop_said(stop), lift(stop));
        }
        if unit.not_before > self.now {
            let because = unit.wait_reason.as_ref().map(|why| format!(" because {why}")).unwrap_or_default();
            return (
                format!("not before {}{because}", moment(unit.not_before)),
                "the time; it goes on by itself".to_owned(),
            );
        }
        (
            format!("due for {}: no worker has claimed it", span(self.now - unit.not_before)),
            "a worker with the role step-dispatch and a free slot".to_owned(),
        )
    }

    fn running(&self, unit: &StepView) -> (String, String) {
        let worker = unit.worker.as_deref().unwrap_or("a worker");
        match unit.lease_until {
            Some(end) if end < self.now => (
                format!("the lease of {worker} ran out at {}", moment(end)),
                "the sweeper, which takes it up; then its outcome is probed".to_owned(),
            ),
            Some(end) => (
                format!(
                    "attempt {} is run by {worker}, whose lease holds until {}",
                    unit.attempts,
                    moment(end)
                ),
                "the connector's answer, or its timeout".to_owned(),
            ),
            None => {
                (format!("attempt {} is run by {worker}", unit.attempts), "the connector's answer".to_owned())
            }
        }
    }

    /// Why the plan is where it is, while it goes on.
    fn going(&self, reason: String) -> Blocker {
        let remedy = match self.view.summary.state {
            PlanState::Stuck => "an operator, who must resolve it",
            PlanState::RollingBack => "the end of what is in flight, then of the undos",
            _ => "that changing; it is checked again by itself",
        };
        Blocker { about: "the plan".to_owned(), because: reason, unblocked_by: Some(remedy.to_owned()) }
    }

    fn action(&self, index: usize) -> Option<&StepView> {
        // Actions come first, in the order of the document, so this is a look and not a search.
        let is_it = |unit: &&StepView| !is_undo(unit) && usize::try_from(unit.index) == Ok(index);
        self.view.steps.get(index).filter(is_it).or_else(|| self.view.steps.iter().find(is_it))
    }

    /// The widest stop that holds the plan, or its steps of one connector.
    fn stop(&self, connector: Option<&str>) -> Option<&Stop> {
        let plan = &self.view.summary;
        let id = plan.plan.plan_id.to_string();
        let find =
            |scope: &str, subject: &str| self.stops.iter().find(|s| s.scope == scope && s.subject == subject);
        find("fleet", "")
            .or_else(|| find("tenant", &plan.tenant))
            .or_else(|| find("plan", &id))
            .or_else(|| connector.and_then(|name| find("connector", name)))
    }
}

fn is_undo(unit: &StepView) -> bool {
    unit.kind == UnitKind::Undo.as_str()
}

fn name(unit: &StepView) -> String {
    if is_undo(unit) { format!("undo of {}", unit.key) } else { format!("step {}", unit.key) }
}

fn said(unit: &StepView, otherwise: &str) -> String {
    unit.wait_reason.clone().or_else(|| unit.detail.clone()).unwrap_or_else(|| otherwise.to_owned())
}

fn stop_said(stop: &Stop) -> String {
    let what = match (stop.scope.as_str(), stop.subject.as_str()) {
        ("fleet", _) => "the fleet is paused".to_owned(),
        ("plan", _) => "the plan is paused".to_owned(),
        ("connector", name) => format!("connector {name} is disabled"),
        (scope, subject) => format!("{scope} {subject} is paused"),
    };
    format!("{what} by {} since {}: {}", stop.actor, moment(stop.since), stop.reason)
}

fn lift(stop: &Stop) -> String {
    let subject = &stop.subject;
    let command = match stop.scope.as_str() {
        "fleet" => "resume".to_owned(),
        "connector" => format!("connector enable {subject}"),
        scope => format!("resume --{scope} {subject}"),
    };
    format!("'dat control {command} --reason …'")
}

#[cfg(test)]
mod tests;
