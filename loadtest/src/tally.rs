//! The account of a run: what became of each plan, and what was lost or doubled on the way.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use hdrhistogram::CreationError;
use serde::Serialize;
use uuid::Uuid;

use crate::event::{End, Event, News};
use crate::faults::Faults;
use crate::latency::Latency;
use crate::seen::Seen;
use crate::timeline::Timeline;

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    /// Plans that ended.
    pub(crate) ended: u32,
    /// Steps that completed.
    pub(crate) steps: u32,
    /// Events that came again, and were ignored.
    pub(crate) duplicates: u32,
    /// Events about plans of others.
    pub(crate) foreign: u32,
    /// Messages that are no event of the contract.
    pub(crate) unreadable: u32,
}

/// What is known of one plan.
#[derive(Debug)]
struct Track {
    plan: Uuid,
    expected: End,
    due: Duration,
    approved: Option<DateTime<Utc>>,
    end: Option<End>,
    reason: Option<String>,
    further_ends: u32,
    events: Seen,
    steps: Seen,
    repeated_steps: u32,
    last_sequence: u64,
    out_of_order: bool,
}

/// A plan that ended, for the comparison with the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EndedPlan {
    /// The plan.
    pub(crate) plan: Uuid,
    /// How it ended.
    pub(crate) end: End,
    /// How many of its steps completed.
    pub(crate) steps: usize,
}

/// Counts events, each once, and keeps a small state for each plan.
#[derive(Debug)]
pub(crate) struct Tally {
    steps_per_plan: usize,
    tracks: Vec<Track>,
    places: HashMap<Uuid, usize>,
    last_end: Duration,
    /// What was counted so far.
    pub(crate) counts: Counts,
    /// From when a plan was due to its completion.
    pub(crate) completed: Latency,
    /// From when a plan was due to the end of its rollback.
    pub(crate) aborted: Latency,
    /// From approval to completion, by DAT's own clock.
    pub(crate) executed: Latency,
    /// The run second by second.
    pub(crate) timeline: Timeline,
}

impl Tally {
    /// An account of plans that have so many steps.
    pub(crate) fn new(steps_per_plan: usize) -> Result<Self, CreationError> {
        Ok(Self {
            steps_per_plan,
            tracks: Vec::new(),
            places: HashMap::new(),
            last_end: Duration::ZERO,
            counts: Counts::default(),
            completed: Latency::new()?,
            aborted: Latency::new()?,
            executed: Latency::new()?,
            timeline: Timeline::default(),
        })
    }

    /// A plan is submitted that was due at this time of the run.
    pub(crate) fn expect(&mut self, plan: Uuid, expected: End, due: Duration) {
        self.places.insert(plan, self.tracks.len());
        self.tracks.push(Track {
            plan,
            expected,
            due,
            approved: None,
            end: None,
            reason: None,
            further_ends: 0,
            events: Seen::default(),
            steps: Seen::default(),
            repeated_steps: 0,
            last_sequence: 0,
            out_of_order: false,
        });
    }

    /// An event came at this time of the run.
    pub(crate) fn observe(&mut self, event: Event, now: Duration) {
        let Some(track) = self.places.get(&event.plan).and_then(|place| self.tracks.get_mut(*place)) else {
            self.counts.foreign += 1;
            return;
        };
        if !track.events.insert(&event.id) {
            self.counts.duplicates += 1;
            return;
        }
        if let Some(sequence) = event.sequence {
            track.out_of_order |= sequence < track.last_sequence;
            track.last_sequence = track.last_sequence.max(sequence);
        }
        match event.news {
            News::Approved => track.approved = Some(event.at),
            News::StepCompleted(step) if track.steps.insert(&step) => {
                self.counts.steps += 1;
                self.timeline.step(now);
            }
            News::StepCompleted(_) => track.repeated_steps += 1,
            News::Ended(_) if track.end.is_some() => track.further_ends += 1,
            News::Ended(end) => {
                track.end = Some(end);
                track.reason = event.reason;
                self.counts.ended += 1;
                self.last_end = now;
                let taken = now.saturating_sub(track.due);
                match end {
                    End::Completed => {
                        self.completed.record(taken);
                        let executed =
                            track.approved.and_then(|approved| (event.at - approved).to_std().ok());
                        if let Some(executed) = executed {
                            self.executed.record(executed);
                            self.timeline.completed(now, executed);
                        }
                    }
                    End::Aborted => self.aborted.record(taken),
                    End::Rejected | End::Refused | End::Stuck => {}
                }
            }
        }
    }

    /// When the last plan ended.
    pub(crate) fn last_end(&self) -> Duration {
        self.last_end
    }

    /// How many plans ended in each way.
    pub(crate) fn ends(&self) -> BTreeMap<End, u32> {
        let mut ends = BTreeMap::new();
        for end in self.tracks.iter().filter_map(|track| track.end) {
            *ends.entry(end).or_default() += 1;
        }
        ends
    }

    /// The plans that ended.
    pub(crate) fn ended_plans(&self) -> Vec<EndedPlan> {
        let ended =
            |track: &Track| Some(EndedPlan { plan: track.plan, end: track.end?, steps: track.steps.len() });
        self.tracks.iter().filter_map(ended).collect()
    }

    /// What went wrong in a run of so many plans.
    pub(crate) fn faults(&self, plans: u32) -> Faults {
        let submitted = u32::try_from(self.tracks.len()).unwrap_or(u32::MAX);
        let unsubmitted = plans.saturating_sub(submitted);
        let mut faults = Faults { unsubmitted, unreadable: self.counts.unreadable, ..Faults::default() };
        for track in &self.tracks {
            track.judge(self.steps_per_plan, &mut faults);
        }
        faults
    }
}

impl Track {
    fn judge(&self, steps: usize, faults: &mut Faults) {
        let done = self.steps.len();
        match self.end {
            None => {
                faults.missing += 1;
                faults.tell(self.plan, &format!("has no end, after {done} of {steps} steps"));
            }
            Some(end) if end != self.expected => {
                faults.unexpected += 1;
                let reason = self.reason.as_deref().unwrap_or("no reason given");
                faults.tell(self.plan, &format!("{end} instead of {}: {reason}", self.expected));
            }
            Some(_) => {}
        }
        if self.further_ends > 0 {
            faults.doubled += 1;
            faults.tell(self.plan, &format!("ended {} times", self.further_ends + 1));
        }
        if self.repeated_steps > 0 || (self.end == Some(End::Completed) && done != steps) {
            faults.miscounted += 1;
            faults.tell(
                self.plan,
                &format!("{done} of {steps} steps completed, {} of them again", self.repeated_steps),
            );
        }
        if self.out_of_order {
            faults.out_of_order += 1;
            faults.tell(self.plan, "an event came after a later one");
        }
    }
}

#[cfg(test)]
mod tests;
