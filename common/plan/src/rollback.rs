//! What becomes of a unit of work that failed: the Rollback Coordinator's decision, pure.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::clock::Entropy;
use crate::document::{Retry, RollbackKind};
use crate::ids::{UnitKind, UnknownWord};
use crate::retry::backoff;

/// How many lost attempts a unit may have before it counts as failed for good.
pub const MAX_LOST: i32 = 10;

/// The wait after a lost attempt: none after the first, then 500 ms, doubling up to 30 s, so that ten of them outlast
/// an outage of minutes.
fn wait_after_lost(lost: i32) -> TimeDelta {
    match u32::try_from(lost - 2) {
        Err(_) => TimeDelta::zero(),
        Ok(doublings) => TimeDelta::milliseconds(500 << doublings.min(16)).min(TimeDelta::seconds(30)),
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeClass {
    /// The effect happened.
    Ok,
    /// A definite answer without effect that may be tried again, or nothing was sent.
    Error,
    /// A definite answer without effect, for good.
    Refused,
    /// The request may have left and no answer came.
    Unknown,
    /// No answer came in time, and the probe sealed the key: certainly no effect.
    TimedOut,
    /// Not the step's fault: the worker's lease ran out and the probe sealed the key, or the request never left.
    Lost,
}

impl OutcomeClass {
    /// The word stored in rows and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
        }
    }
}

impl std::str::FromStr for OutcomeClass {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        [Self::Ok, Self::Error, Self::Refused, Self::Unknown, Self::TimedOut, Self::Lost]
            .into_iter()
            .find(|class| class.as_str() == word)
            .ok_or_else(|| UnknownWord { kind: "attempt outcome", word: word.to_owned() })
    }
}

/// A failed unit, as the coordinator sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FailedUnit<'a> {
    /// Action or undo.
    pub kind: UnitKind,
    /// How the last attempt ended.
    pub last: OutcomeClass,
    /// Attempts that count (lost ones do not).
    pub attempts: i32,
    /// Attempts that were lost.
    pub lost: i32,
    /// The unit's own rule.
    pub retry: &'a Retry,
    /// What the outside system asked for.
    pub retry_after: TimeDelta,
    /// When the first attempt began.
    pub since: DateTime<Utc>,
    /// Whether the plan still runs forward (not past its deadline, not revoked, not rolling back).
    pub plan_goes_on: bool,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Try again at this moment.
    Retry {
        /// When it is due.
        at: DateTime<Utc>,
    },
    /// An action: unwind the plan by its rollback.
    RollBack,
    /// An action of a plan whose rollback is `manual`: pause until an operator says.
    Pause,
    /// An undo: an operator must settle it.
    Stuck,
}

/// Decides what becomes of a failed unit.
#[must_use]
pub fn decide(
    unit: &FailedUnit<'_>,
    rollback: RollbackKind,
    now: DateTime<Utc>,
    entropy: &dyn Entropy,
) -> Decision {
    let may_retry = unit.last != OutcomeClass::Refused
        && unit.lost <= MAX_LOST
        && u32::try_from(unit.attempts).is_ok_and(|done| done < unit.retry.max_attempts);
    let again = || {
        let wait = if unit.last == OutcomeClass::Lost {
            wait_after_lost(unit.lost)
        } else {
            backoff(unit.retry, unit.attempts + 1, unit.retry_after, entropy)
        };
        now + wait
    };
    let in_time = |at: &DateTime<Utc>| last_moment(unit.retry, unit.since).is_none_or(|last| *at <= last);
    match (unit.kind, may_retry.then(again).filter(in_time)) {
        (UnitKind::Action, _) if !unit.plan_goes_on => Decision::RollBack,
        (_, Some(at)) => Decision::Retry { at },
        (UnitKind::Undo, None) => Decision::Stuck,
        (UnitKind::Action, None) if rollback == RollbackKind::Manual => Decision::Pause,
        (UnitKind::Action, None) => Decision::RollBack,
    }
}

/// The last moment at which a further attempt may be due, where the unit's rule names one.
#[must_use]
pub fn last_moment(retry: &Retry, since: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let within = TimeDelta::try_milliseconds(i64::try_from(retry.within_ms?).ok()?)?;
    since.checked_add_signed(within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    fn failed(retry: &Retry) -> FailedUnit<'_> {
        FailedUnit {
            kind: UnitKind::Action,
            last: OutcomeClass::Error,
            attempts: 1,
            lost: 0,
            retry,
            retry_after: TimeDelta::zero(),
            since: DateTime::UNIX_EPOCH,
            plan_goes_on: true,
        }
    }

    #[test]
    fn an_action_is_tried_again_until_its_attempts_are_used_up() {
        let retry = Retry { max_attempts: 2, initial_ms: 0, ..Retry::default() };
        let now = DateTime::UNIX_EPOCH;
        let dice = SeededEntropy::new(7);
        let first = failed(&retry);
        assert_eq!(decide(&first, RollbackKind::Automatic, now, &dice), Decision::Retry { at: now });
        let last = FailedUnit { attempts: 2, ..first };
        assert_eq!(decide(&last, RollbackKind::Automatic, now, &dice), Decision::RollBack);
        assert_eq!(decide(&last, RollbackKind::Manual, now, &dice), Decision::Pause);
        assert_eq!(
            decide(&FailedUnit { kind: UnitKind::Undo, ..last }, RollbackKind::Automatic, now, &dice),
            Decision::Stuck
        );
    }

    #[test]
    fn a_final_no_is_not_asked_again_and_a_lost_attempt_is_not_counted() {
        let retry = Retry { max_attempts: 1, ..Retry::default() };
        let now = DateTime::UNIX_EPOCH;
        let dice = SeededEntropy::new(7);
        let refused = FailedUnit { last: OutcomeClass::Refused, attempts: 0, ..failed(&retry) };
        assert_eq!(decide(&refused, RollbackKind::Automatic, now, &dice), Decision::RollBack);
        let lost = FailedUnit { last: OutcomeClass::Lost, attempts: 0, lost: 1, ..failed(&retry) };
        assert_eq!(decide(&lost, RollbackKind::Automatic, now, &dice), Decision::Retry { at: now });
        let tenth = FailedUnit { lost: 10, ..lost };
        let at = now + TimeDelta::seconds(30);
        assert_eq!(decide(&tenth, RollbackKind::Automatic, now, &dice), Decision::Retry { at });
        let too_often = FailedUnit { lost: 11, ..lost };
        assert_eq!(decide(&too_often, RollbackKind::Automatic, now, &dice), Decision::RollBack);
    }

    #[test]
    fn no_attempt_is_due_after_the_time_for_all_of_them() {
        let retry = Retry { max_attempts: 100, initial_ms: 0, within_ms: Some(5_000), ..Retry::default() };
        let dice = SeededEntropy::new(7);
        let unit = failed(&retry);
        let (end, beyond) = (unit.since + TimeDelta::seconds(5), unit.since + TimeDelta::milliseconds(5_001));
        let of = |unit: &FailedUnit<'_>, now| decide(unit, RollbackKind::Automatic, now, &dice);
        assert_eq!(of(&unit, end), Decision::Retry { at: end });
        assert_eq!(of(&unit, beyond), Decision::RollBack);
        assert_eq!(of(&FailedUnit { kind: UnitKind::Undo, ..unit }, beyond), Decision::Stuck);
        // Nor one that would come too late for what the outside system asked for.
        let patient = FailedUnit { retry_after: TimeDelta::seconds(6), ..unit };
        assert_eq!(of(&patient, unit.since), Decision::RollBack);
        let lost = FailedUnit { last: OutcomeClass::Lost, attempts: 0, lost: 1, ..unit };
        assert_eq!(of(&lost, beyond), Decision::RollBack);
    }

    #[test]
    fn nothing_forward_is_tried_again_once_the_plan_stopped() {
        let retry = Retry::default();
        let stopped = FailedUnit { plan_goes_on: false, ..failed(&retry) };
        let decision = decide(&stopped, RollbackKind::Manual, DateTime::UNIX_EPOCH, &SeededEntropy::new(7));
        assert_eq!(decision, Decision::RollBack);
    }
}
