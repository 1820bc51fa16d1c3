//! What one step or undo waits for.

use dat_plan::StepState;
use dat_store::{AttemptView, StepView, breaker_wait};

use super::{Blocker, Facts, is_undo, mended, stop};
use crate::moments::{moment, span};

impl Facts<'_> {
    /// What a step or an undo waits for.
    pub(super) fn of_unit(&self, unit: &StepView) -> Blocker {
        let (because, remedy) = match unit.state {
            StepState::Pending => self.pending(unit),
            StepState::Ready => self.ready(unit),
            StepState::Running => self.running(unit),
            StepState::Unknown => self.unknown(unit),
            StepState::Failed => (
                said(unit, "it failed"),
                mended(unit.wait_reason.as_deref()).unwrap_or_else(|| {
                    "the Rollback Coordinator's decision, by a worker with the role step-failed".to_owned()
                }),
            ),
            StepState::Stuck => (said(unit, "its undo cannot finish"), self.resolved(unit)),
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
            because: format!("{}, {because}{}", unit.state, self.bound(unit)),
            unblocked_by: Some(remedy),
        }
    }

    /// Its probe is held back by no stop but a breaker that is forced open.
    fn unknown(&self, unit: &StepView) -> (String, String) {
        let because = said(unit, "the outcome is unknown");
        if let Some(remedy) = mended(unit.wait_reason.as_deref()) {
            return (because, format!("{remedy}; {}", self.told(unit)));
        }
        let forced = self.stops.iter().find(|stop| stop.scope == "breaker" && stop.subject == unit.connector);
        match forced {
            Some(stop) => (
                format!("{because}; its probe is held back: {}", stop::said(stop)),
                format!("{}; then {}", stop::lifted_by(stop), self.told(unit)),
            ),
            None if waits_for_breaker(unit) => (because, format!("{}; {}", closing(unit), self.told(unit))),
            None => (because, self.told(unit)),
        }
    }

    /// Who can tell what came of a unit: its next probe, or an operator.
    fn told(&self, unit: &StepView) -> String {
        let at = if unit.not_before > self.now {
            format!(" at {}", moment(unit.not_before))
        } else {
            String::new()
        };
        let resolve = self.resolve(unit);
        format!(
            "the next probe{at}, by a worker with the role step-failed; or an operator who knows: \
             '{resolve} --done --cost N --reason …' if it had its effect, '{resolve} --no-effect --reason …' if it had none"
        )
    }

    /// How an operator resolves an undo that is stuck, or the step that waits for it.
    fn resolved(&self, unit: &StepView) -> String {
        let resolve = self.resolve(unit);
        format!(
            "'{resolve} --retry --reason …' to try the undo again, or '{resolve} --undone --reason …' once it is \
             undone by hand"
        )
    }

    fn resolve(&self, unit: &StepView) -> String {
        format!("dat plan resolve {} {}", self.view.summary.plan, unit.key)
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
            return (stop::said(stop), stop::lifted_by(stop));
        }
        if let Some((why, remedy)) = unit.wait_reason.as_ref().zip(mended(unit.wait_reason.as_deref())) {
            return (why.clone(), remedy);
        }
        if unit.not_before > self.now {
            let because = unit.wait_reason.as_ref().map(|why| format!(" because {why}")).unwrap_or_default();
            let remedy = "the time; it goes on by itself";
            let sooner =
                if waits_for_breaker(unit) { format!(", or by {}", closing(unit)) } else { String::new() };
            return (format!("not before {}{because}", moment(unit.not_before)), format!("{remedy}{sooner}"));
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
                    "attempt {} is run by {worker}, whose lease holds until {}{}",
                    unit.attempts,
                    moment(end),
                    self.progress(unit)
                ),
                "the connector's answer, or its timeout".to_owned(),
            ),
            None => {
                (format!("attempt {} is run by {worker}", unit.attempts), "the connector's answer".to_owned())
            }
        }
    }

    /// How far it is, where its connector says so.
    fn progress(&self, unit: &StepView) -> String {
        let of_it = |a: &&AttemptView| {
            (a.kind.as_str(), a.index, a.attempt) == (unit.kind.as_str(), unit.index, unit.attempts)
        };
        let attempt = self.view.attempts.iter().rfind(of_it);
        match attempt.and_then(|attempt| attempt.progress.as_ref().zip(attempt.progress_at)) {
            Some((progress, at)) => format!("; its connector said {} ago: {progress}", span(self.now - at)),
            None => String::new(),
        }
    }

    fn action(&self, index: usize) -> Option<&StepView> {
        // Actions come first, in the order of the document, so this is a look and not a search.
        let is_it = |unit: &&StepView| !is_undo(unit) && usize::try_from(unit.index) == Ok(index);
        self.view.steps.get(index).filter(is_it).or_else(|| self.view.steps.iter().find(is_it))
    }
}

/// Whether it is its connector's breaker that put it off.
fn waits_for_breaker(unit: &StepView) -> bool {
    unit.wait_reason.as_ref().is_some_and(|why| why.starts_with(&breaker_wait(&unit.connector)))
}

/// The command that has it go on all the same.
fn closing(unit: &StepView) -> String {
    format!("'dat control connector close {} --reason …'", unit.connector)
}

fn name(unit: &StepView) -> String {
    if is_undo(unit) { format!("undo of {}", unit.key) } else { format!("step {}", unit.key) }
}

fn said(unit: &StepView, otherwise: &str) -> String {
    unit.wait_reason.clone().or_else(|| unit.detail.clone()).unwrap_or_else(|| otherwise.to_owned())
}
