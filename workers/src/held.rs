//! The streams that this process's relay holds: what is to be published next of each, and how far it got.
//!
//! **Owns** the order of each stream's events and what is known of its claim. **May be called** by the relay, which
//! publishes and records as this says. **Must never** let an event go before the one ahead of it in its stream, nor
//! count as published what the broker has not confirmed.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::PlanKey;
use dat_plan::event::LoggedEvent;
use dat_store::{ClaimedStream, Progress, Recorded, Written};

/// How long a stream is held after it was last written to: what is written until then costs no claim. Whoever else
/// writes to it waits so long for its events to go out.
const QUIET: TimeDelta = TimeDelta::milliseconds(20);
/// How much later at most it is recorded that something was published: what a crash publishes again.
const LONGEST: TimeDelta = TimeDelta::seconds(1);
/// Events of a stream in one round,
const EVENTS: usize = 200;
/// and of all.
const ROUND: usize = 4096;

/// The streams, by their plan.
#[derive(Debug, Default)]
pub(crate) struct Held {
    streams: BTreeMap<PlanKey, Stream>,
    /// Claims that are given back, to be recorded.
    given_back: BTreeMap<PlanKey, Progress>,
    /// How many streams are left of each transaction that is due.
    left: BTreeMap<i64, usize>,
    /// Transactions of which everything is published and recorded.
    done: Vec<i64>,
}

#[derive(Debug)]
struct Stream {
    epoch: i64,
    traceparent: String,
    pending: BTreeMap<i64, LoggedEvent>,
    /// The last event that the broker has confirmed, and all before it,
    confirmed: i64,
    /// that was recorded,
    recorded: i64,
    /// and that is known to exist.
    known: i64,
    /// When something was last written to it, and since when something waits to be recorded.
    touched: DateTime<Utc>,
    unrecorded: DateTime<Utc>,
    /// Up to where a transaction wrote to it, and which.
    dues: Vec<(i64, i64)>,
}

/// What is published of one stream in one round.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) plan: PlanKey,
    pub(crate) traceparent: String,
    pub(crate) events: Vec<LoggedEvent>,
}

impl Held {
    /// A transaction of this process has written.
    pub(crate) fn written(&mut self, written: Written, now: DateTime<Utc>) {
        if let Some(due) = written.due {
            self.left.insert(due, written.streams.len());
        }
        for stream in written.streams {
            self.hold(stream, written.due, now);
        }
    }

    /// A stream is this relay's.
    pub(crate) fn hold(&mut self, claimed: ClaimedStream, due: Option<i64>, now: DateTime<Utc>) {
        let (plan, epoch) = (claimed.plan, claimed.epoch);
        if self.streams.get(&plan).is_some_and(|held| held.epoch < epoch) {
            self.drop_stream(plan);
        }
        let stream = self.streams.entry(plan).or_insert_with(|| Stream {
            epoch,
            traceparent: claimed.traceparent,
            pending: BTreeMap::new(),
            confirmed: claimed.relayed,
            recorded: claimed.relayed,
            known: claimed.last_sequence,
            touched: now,
            unrecorded: now,
            dues: Vec::new(),
        });
        if stream.epoch > epoch {
            // Written under a claim that has ended since: what it wrote is due by its row.
            self.left.retain(|other, _| Some(*other) != due);
            return;
        }
        stream.known = stream.known.max(claimed.last_sequence);
        stream.touched = now;
        stream.dues.extend(due.map(|due| (claimed.last_sequence, due)));
        let confirmed = stream.confirmed;
        stream.pending.extend(
            claimed
                .events
                .into_iter()
                .filter(|e| e.sequence > confirmed)
                .map(|event| (event.sequence, event)),
        );
    }

    /// The streams whose next event is not here, each with the last that was confirmed.
    pub(crate) fn missing(&self) -> Vec<(PlanKey, i64)> {
        self.streams
            .iter()
            .filter(|(_, stream)| {
                stream.known > stream.confirmed
                    && stream.pending.first_key_value().is_none_or(|(next, _)| *next != stream.confirmed + 1)
            })
            .map(|(plan, stream)| (*plan, stream.confirmed))
            .collect()
    }

    /// Events that were read, for streams that missed them. A stream of which nothing could be read was tampered with:
    /// it is given back, and looked at again at `again`.
    pub(crate) fn read(&mut self, asked: &[(PlanKey, i64)], events: Vec<LoggedEvent>, again: DateTime<Utc>) {
        for event in events {
            if let Some(stream) = self.streams.get_mut(&event.plan) {
                stream.pending.insert(event.sequence, event);
            }
        }
        let missing = self.missing();
        for (plan, _) in asked.iter().filter(|asked| missing.contains(asked)) {
            self.give_back(*plan, again);
        }
    }

    /// What is to be published now, of each stream from its next event on without a gap.
    pub(crate) fn next(&mut self) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut room = ROUND;
        for (plan, stream) in &mut self.streams {
            let mut events = Vec::new();
            let mut next = stream.confirmed + 1;
            while events.len() < EVENTS.min(room) {
                let Some(event) = stream.pending.remove(&next) else { break };
                events.push(event);
                next += 1;
            }
            room -= events.len();
            if !events.is_empty() {
                runs.push(Run { plan: *plan, traceparent: stream.traceparent.clone(), events });
            }
            if room == 0 {
                break;
            }
        }
        runs
    }

    /// So many of a run's first events were confirmed. What was not is given back with its stream until `again`.
    pub(crate) fn published(&mut self, run: &Run, count: usize, now: DateTime<Utc>, again: DateTime<Utc>) {
        let Some(stream) = self.streams.get_mut(&run.plan) else { return };
        if let Some(last) = count.checked_sub(1).and_then(|last| run.events.get(last)) {
            if stream.confirmed == stream.recorded {
                stream.unrecorded = now;
            }
            stream.confirmed = last.sequence;
        }
        if count < run.events.len() {
            self.give_back(run.plan, again);
        }
    }

    /// What is to be recorded now: what was published of streams that are quiet, or of which nothing was recorded for
    /// long, or of `all`, which are given back.
    pub(crate) fn progress(&self, now: DateTime<Utc>, lease: TimeDelta, all: bool) -> Vec<Progress> {
        let mut progress: Vec<Progress> = self.given_back.values().cloned().collect();
        for (plan, stream) in &self.streams {
            if all {
                progress.push(Progress::given_back(*plan, stream.epoch, stream.confirmed, now));
            } else if stream.wants_record().is_some_and(|at| at <= now) {
                progress.push(Progress::kept(*plan, stream.epoch, stream.confirmed, now + lease));
            }
        }
        progress
    }

    /// When [`Held::progress`] has something to say next, if nothing happens until then.
    pub(crate) fn record_at(&self) -> Option<DateTime<Utc>> {
        if !self.given_back.is_empty() {
            return Some(DateTime::UNIX_EPOCH);
        }
        self.streams.values().filter_map(Stream::wants_record).min()
    }

    /// Transactions that are no longer due, to be deleted with the next record.
    pub(crate) fn done(&self) -> &[i64] {
        &self.done
    }

    /// Progress was recorded; how many claims had been taken over.
    pub(crate) fn recorded(
        &mut self,
        progress: &[Progress],
        recorded: &[Recorded],
        deleted: usize,
        now: DateTime<Utc>,
    ) -> usize {
        self.done.drain(..deleted);
        let found: BTreeMap<PlanKey, &Recorded> = recorded.iter().map(|found| (found.plan, found)).collect();
        let mut lost = 0;
        for told in progress {
            let plan = told.plan();
            self.given_back.remove(&plan);
            let recorded = found.get(&plan).filter(|found| found.epoch == told.epoch());
            lost += usize::from(recorded.is_none());
            let Some(stream) = self.streams.get_mut(&plan).filter(|stream| stream.epoch == told.epoch())
            else {
                continue;
            };
            let Some(recorded) = recorded else {
                self.drop_stream(plan);
                continue;
            };
            stream.recorded = recorded.relayed;
            stream.unrecorded = now;
            stream.known = stream.known.max(recorded.last_sequence);
            let (over, open) = stream.dues.iter().partition(|(upto, _)| *upto <= recorded.relayed);
            stream.dues = open;
            let ended = recorded.relayed == recorded.last_sequence || !told.is_kept();
            let over: Vec<(i64, i64)> = over;
            for (_, due) in over {
                if let Some(left) = self.left.get_mut(&due) {
                    *left -= 1;
                    if *left == 0 {
                        self.left.remove(&due);
                        self.done.push(due);
                    }
                }
            }
            if ended {
                self.drop_stream(plan);
            }
        }
        lost
    }

    /// Whether nothing is held, nor waits to be recorded.
    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.given_back.is_empty()
    }

    fn give_back(&mut self, plan: PlanKey, again: DateTime<Utc>) {
        if let Some(stream) = self.streams.get(&plan) {
            let progress = Progress::given_back(plan, stream.epoch, stream.confirmed, again);
            self.given_back.insert(plan, progress);
            self.drop_stream(plan);
        }
    }

    /// What it wrote remains due by the rows of the transactions that did.
    fn drop_stream(&mut self, plan: PlanKey) {
        let Some(stream) = self.streams.remove(&plan) else { return };
        for (_, due) in stream.dues {
            self.left.remove(&due);
        }
    }
}

impl Stream {
    /// When it is to be recorded: not while there is more to publish.
    fn wants_record(&self) -> Option<DateTime<Utc>> {
        (self.pending.is_empty() && self.confirmed == self.known)
            .then(|| (self.touched + QUIET).min(self.unrecorded + LONGEST))
    }
}

#[cfg(test)]
mod tests;
