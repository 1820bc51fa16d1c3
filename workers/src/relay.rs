//! The relay: publishes the log. What this process writes comes to it as it is committed, claimed; what others left
//! behind it claims itself. It publishes each stream in its order with confirms, and records how far it got; a stream of
//! which something was not confirmed is given back, and goes on from its first unconfirmed event.

use std::time::Duration;

use chrono::TimeDelta;
use dat_bus::PublishError;
use dat_store::{StoreError, Written};
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::held::Held;
use crate::outbox::Outbox;

/// Transactions of others that are looked at in one round: more than a fleet leaves in the time of one,
const TRANSACTIONS: i64 = 512;
/// and events that are read of a stream.
const EVENTS: i64 = 200;
/// Transactions of this process that are taken in one round.
const WRITTEN: usize = 256;
/// How long a claim holds, unless a worker's lease is longer. Nobody outside, governance included, hears of what a dead
/// relay had claimed until then.
pub(crate) const LEASE: TimeDelta = TimeDelta::seconds(5);
/// How long one holds at most, where rounds take so long that another relay takes over.
const LONGEST_LEASE: TimeDelta = TimeDelta::seconds(60);
/// How often one relay of the fleet looks for what others left.
const LOOK: Duration = Duration::from_millis(500);
/// How often one of them looks at every stream.
const STRAYS: Duration = Duration::from_hours(1);
/// How long a stream waits of which nothing could be read yet.
const UNSEEN: TimeDelta = TimeDelta::milliseconds(50);
/// How long a stream waits after an event that nobody took.
const REFUSED: TimeDelta = TimeDelta::seconds(1);
/// How long everything waits when the database does not answer.
const AWAY: Duration = Duration::from_millis(500);

struct Relay<'f> {
    fleet: &'f Fleet,
    written: Receiver<Written>,
    held: Held,
    shortest: TimeDelta,
    lease: TimeDelta,
    look_at: Instant,
    /// Looked once more when everything else had ended.
    looked_last: bool,
}

/// Runs until the worker has drained; the last events are published then too.
pub(crate) async fn run(fleet: &Fleet, written: Receiver<Written>) {
    let now = fleet.now();
    let shortest = (fleet.lease_end(now) - now).max(LEASE);
    let held = Held::default();
    let mut relay = Relay {
        fleet,
        written,
        held,
        shortest,
        lease: shortest,
        look_at: Instant::now(),
        looked_last: false,
    };
    loop {
        let closing = fleet.closing.is_cancelled();
        match relay.round(closing).await {
            Ok(()) if closing && relay.held.is_empty() && relay.written.is_empty() => return,
            Ok(()) if closing => {}
            Ok(()) => relay.until_there_may_be_more().await,
            Err(error) if closing => {
                tracing::warn!(%error, "the log is published by another worker");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the relay waits for the database");
                tokio::select! {
                    () = fleet.closing.cancelled() => {}
                    () = tokio::time::sleep(AWAY) => {}
                }
            }
        }
    }
}

impl Relay<'_> {
    /// Waits until something was written here, or is to be recorded, or it is time to look for what others left.
    async fn until_there_may_be_more(&mut self) {
        let record = self.held.record_at().map(|at| (at - self.fleet.now()).to_std().unwrap_or_default());
        let record_at = record.map(|pause| Instant::now() + pause);
        let wake_at = record_at.map_or(self.look_at, |at| at.min(self.look_at));
        let now = self.fleet.now();
        tokio::select! {
            written = self.written.recv() => {
                if let Some(written) = written {
                    self.held.written(written, now);
                }
            }
            () = self.fleet.closing.cancelled() => {}
            () = tokio::time::sleep_until(wake_at) => {}
        }
    }

    /// One round: take what was written, look for what was left, publish, record.
    async fn round(&mut self, closing: bool) -> Result<(), StoreError> {
        let now = self.fleet.now();
        for _ in 0..WRITTEN {
            let Ok(written) = self.written.try_recv() else { break };
            self.held.written(written, now);
        }
        if Instant::now() >= self.look_at || (closing && !self.looked_last) {
            self.looked_last = closing;
            self.look(closing).await?;
        }
        let missing = self.held.missing();
        if !missing.is_empty() {
            let events = self.fleet.store.read_streams(&missing, EVENTS).await?;
            self.held.read(&missing, events, self.fleet.now() + UNSEEN);
        }
        self.publish().await;
        self.record(closing).await
    }

    /// Looks for what others left behind.
    async fn look(&mut self, closing: bool) -> Result<(), StoreError> {
        self.look_at = Instant::now() + LOOK;
        if !closing && self.fleet.looks.mine("relay-strays", STRAYS).await {
            self.fleet.store.find_strays(self.fleet.now()).await?;
        }
        if closing || self.fleet.looks.mine("relay", LOOK).await {
            let now = self.fleet.now();
            let claimed = self.fleet.store.claim_streams(TRANSACTIONS, EVENTS, self.lease, now).await?;
            if !claimed.is_empty() {
                // There may be more.
                self.look_at = Instant::now();
            }
            for stream in claimed {
                self.held.hold(stream, None, now);
            }
        }
        Ok(())
    }

    async fn publish(&mut self) {
        let runs = self.held.next();
        if runs.is_empty() {
            return;
        }
        let fleet = self.fleet;
        let said = runs.iter().map(|run| (run.traceparent.as_str(), run.events.as_slice()));
        let mut outbox = Outbox::new(&fleet.topology, &fleet.batched, said);
        let timer = fleet.metrics.publish_timer("events");
        let receipts = dat_fault::around("relay.publish", fleet.publisher.publish_all(outbox.take())).await;
        match &receipts {
            Ok(_) => timer.observe_duration(),
            Err(error) => {
                timer.stop_and_discard();
                log_failure(error);
            }
        }
        let confirmed = receipts.as_deref().unwrap_or_default();
        let now = fleet.now();
        for (place, run) in runs.iter().enumerate() {
            let count = outbox.confirmed(place, run.events.len(), confirmed);
            if count < run.events.len() && receipts.is_ok() {
                tracing::warn!(plan = %run.plan, "an event was not taken: is its consumer's queue bound?");
            }
            run.events[..count].iter().for_each(|event| fleet.metrics.log.published(event, now));
            self.held.published(run, count, now, now + REFUSED);
        }
    }

    async fn record(&mut self, closing: bool) -> Result<(), StoreError> {
        let now = self.fleet.now();
        let progress = self.held.progress(now, self.lease, closing);
        if progress.is_empty() && (!closing || self.held.done().is_empty()) {
            return Ok(());
        }
        let deleted = self.held.done().len();
        let recorded = self.fleet.store.record_relayed(&progress, self.held.done()).await?;
        let lost = self.held.recorded(&progress, &recorded, deleted, now);
        // Taken over on the way: a claim that holds longer lets two slow relays not take over from each other for ever.
        self.lease =
            if lost == 0 { self.shortest } else { (self.lease * 2).min(LONGEST_LEASE.max(self.shortest)) };
        Ok(())
    }
}

fn log_failure(error: &PublishError) {
    tracing::warn!(%error, "events were not confirmed; they are published again");
}
