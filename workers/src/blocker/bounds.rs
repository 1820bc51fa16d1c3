//! How long things may take: one attempt, all attempts of a step or undo, the plan; each by its name in the document.

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::StepState;
use dat_plan::document::{Retry, RollbackKind};
use dat_plan::rollback::last_moment;
use dat_store::{AttemptView, StepView};

use super::{Blocker, Facts, is_undo};
use crate::moments::moment;

/// How long one attempt of a step of the rollback's own list may take: the contract's default.
const OWN_LIST_TIMEOUT_MS: u64 = 30_000;

impl Facts<'_> {
    /// When the plan must be over, where it says.
    pub(super) fn deadline(&self) -> Option<Blocker> {
        let deadline = self.document.deadline?;
        Some(Blocker {
            about: "the plan".to_owned(),
            because: format!("its deadline is {}: past it nothing forward starts", moment(deadline)),
            unblocked_by: Some("its end, or the rollback that the deadline begins".to_owned()),
        })
    }

    /// What bounds a unit that is under way or is tried again, as the end of a sentence.
    pub(super) fn bound(&self, unit: &StepView) -> String {
        let Some((timeout_ms, retry)) = self.limits(unit) else { return String::new() };
        let first = self.attempt(unit, 1).map(|attempt| attempt.started_at);
        let mut said = Vec::new();
        if unit.state == StepState::Running
            && let Some(present) = self.attempt(unit, unit.attempts)
            && let Some(end) = after(present.started_at, timeout_ms)
        {
            said.push(format!("; the attempt times out at {} (timeout_ms)", moment(end)));
        }
        let goes_on = matches!(
            unit.state,
            StepState::Running | StepState::Unknown | StepState::Failed | StepState::Ready
        );
        if goes_on && let Some(last) = first.and_then(|first| last_moment(retry, first)) {
            said.push(format!("; no further attempt is due after {} (retry.within_ms)", moment(last)));
        }
        said.concat()
    }

    fn attempt(&self, unit: &StepView, number: i32) -> Option<&AttemptView> {
        let is_it = |attempt: &&AttemptView| {
            attempt.kind == unit.kind && attempt.index == unit.index && attempt.attempt == number
        };
        self.view.attempts.iter().find(is_it)
    }

    /// The timeout and the rule of a unit, by the document.
    fn limits(&self, unit: &StepView) -> Option<(u64, &Retry)> {
        let index = usize::try_from(unit.index).ok()?;
        let steps = &self.document.steps;
        if is_undo(unit) && self.document.rollback.kind == RollbackKind::Compensating {
            let own = self.document.rollback.steps.get(index.checked_sub(steps.len())?)?;
            return Some((OWN_LIST_TIMEOUT_MS, &own.retry));
        }
        let step = steps.get(index)?;
        let retry = if is_undo(unit) { &step.compensation.as_ref()?.retry } else { &step.retry };
        Some((step.timeout_ms, retry))
    }
}

fn after(moment: DateTime<Utc>, milliseconds: u64) -> Option<DateTime<Utc>> {
    moment.checked_add_signed(TimeDelta::try_milliseconds(i64::try_from(milliseconds).ok()?)?)
}
