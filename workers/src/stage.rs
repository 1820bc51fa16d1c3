//! The one generic loop of every stage: take the deliveries that are there, commit what they mean, then acknowledge.
//!
//! A stage *decides*: it reads a message, and commits a batch. The loop *acts*. Invariant 4 is kept here: a message is
//! acknowledged only after PostgreSQL has committed what it caused.
//! * What cannot be read is parked with its faults, and never blocks what came with it.
//! * A value that PostgreSQL refuses splits the batch, until the culprit stands alone and is parked.
//! * A database that is away keeps the deliveries unacknowledged and pauses consuming: an outage never burns a
//!   delivery limit.

use std::time::Duration;

use chrono::DateTime;
use dat_bus::{ConsumeSpec, Consumer, Delivery, HeaderValue, Message, PublishError, Received};
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::{Fault, FaultCode, PlanKey};
use dat_store::StoreError;
use dat_topology::{Exchange, Stage as StageName};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::fleet::Fleet;

/// How many faults a parked message carries in its header.
const FAULTS_IN_HEADER: usize = 20;

/// How many characters of a pointer or a sentence it carries there; the event has all of it.
const FAULT_CHARS: usize = 400;
/// How many bytes of the message's own headers go with it: all headers must fit one frame, 128 KiB by default.
const HEADER_BYTES: usize = 32 * 1024;

/// Why a message is parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parked {
    /// In a few words, to group by.
    pub(crate) reason: String,
    /// Every fault.
    pub(crate) faults: Vec<Fault>,
}

/// The header that names who published a parked message, as the broker has validated it. A dead letter is published by
/// its worker, so it cannot have the property.
pub(crate) const USER: &str = "x-dat-user";

/// What becomes of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Its work is committed.
    Done,
    /// It can never be done.
    Park(Parked),
}

/// One queue's meaning.
pub(crate) trait Stage: Send + Sync {
    /// What a delivery means once it was read.
    type Work: Clone + Send + Sync;

    /// The queue.
    fn name(&self) -> StageName;

    /// The event of a parked message.
    fn parked_kind(&self) -> EventKind {
        EventKind::MessageParked
    }

    /// Whether its messages are new work, which waits in its queue while the worker is behind.
    fn is_intake(&self) -> bool {
        false
    }

    /// How many deliveries the broker hands out ahead.
    fn prefetch(&self) -> u16;

    /// Reads a message, or says every fault of it.
    fn read(&self, message: &Received) -> Result<Self::Work, Parked>;

    /// Commits a batch in one transaction, and says what becomes of each.
    fn commit(
        &self,
        batch: &[Self::Work],
    ) -> impl Future<Output = Result<Vec<Disposition>, StoreError>> + Send;
}

/// Runs a stage until the worker drains.
pub(crate) async fn run<S: Stage>(fleet: &Fleet, stage: &S) {
    let queue = fleet.topology.queue(stage.name());
    let prefetch = std::num::NonZeroU16::new(stage.prefetch()).unwrap_or(std::num::NonZeroU16::MIN);
    let spec = ConsumeSpec {
        queue: queue.name().to_owned(),
        prefetch,
        consumer_tag: format!("{}-{}", fleet.name, stage.name()),
    };
    let mut consumer = match fleet.bus.consume(spec) {
        Ok(consumer) => consumer,
        Err(error) => {
            tracing::error!(stage = %stage.name(), %error, "cannot consume");
            return;
        }
    };
    loop {
        let batch = tokio::select! {
            () = fleet.draining.cancelled() => break,
            batch = consumer.next_batch(fleet.settings.batch) => batch,
        };
        let Some(mut batch) = batch else { break };
        dat_fault::disorder(&mut batch);
        taken(fleet, stage.name(), &batch);
        let began = Instant::now();
        handle(fleet, stage, &consumer, batch).await;
        if stage.is_intake() {
            tokio::select! {
                () = fleet.draining.cancelled() => break,
                () = fleet.backlog.rest(began.elapsed()) => {}
            }
        }
    }
    tracing::info!(stage = %stage.name(), "stopped consuming");
}

/// Counts what was taken, and how long it had waited.
fn taken(fleet: &Fleet, stage: StageName, batch: &[Delivery]) {
    fleet.metrics.deliveries(stage, batch.len());
    let now = fleet.now();
    for delivery in batch {
        let made = delivery.message.timestamp.and_then(|made| i64::try_from(made).ok());
        let made = made.and_then(|made| DateTime::from_timestamp(made, 0));
        if let Some(made) = made {
            fleet.metrics.queue_age(stage, now - made);
        }
        if !delivery.message.redelivered {
            fleet.metrics.waiting.taken(stage, made.unwrap_or(now).min(now));
        }
    }
}

async fn handle<S: Stage>(fleet: &Fleet, stage: &S, consumer: &Consumer, batch: Vec<Delivery>) {
    let mut works = Vec::with_capacity(batch.len());
    let mut parked = Vec::new();
    for delivery in batch {
        match stage.read(&delivery.message) {
            Ok(work) => works.push((delivery, work)),
            Err(reason) => parked.push((delivery, reason)),
        }
    }
    // Groups that are still to be committed; a group that PostgreSQL refuses is halved.
    let mut groups = vec![works];
    while let Some(mut group) = groups.pop() {
        if group.is_empty() {
            continue;
        }
        let mut work: Vec<S::Work> = group.iter().map(|(_, work)| work.clone()).collect();
        if dat_fault::delivers_twice() {
            work.extend_from_within(..);
        }
        let committed = commit(fleet, stage, &work).await;
        if dat_fault::delivers_twice() {
            commit(fleet, stage, &work).await;
        }
        match committed {
            Committed::Done(dispositions) => {
                let mut done = Vec::with_capacity(group.len());
                for ((delivery, _), disposition) in group.into_iter().zip(dispositions) {
                    match disposition {
                        Disposition::Done => done.push(delivery.token),
                        Disposition::Park(reason) => parked.push((delivery, reason)),
                    }
                }
                dat_fault::around_call("ack", || consumer.ack(&done));
            }
            Committed::Refused(error) if group.len() == 1 => {
                let fault = Fault::new("", FaultCode::Unstorable, error);
                let reason = Parked { reason: "the database refuses it".to_owned(), faults: vec![fault] };
                parked.extend(group.pop().map(|(delivery, _)| (delivery, reason)));
            }
            Committed::Refused(_) => {
                let half = group.split_off(group.len() / 2);
                groups.push(half);
                groups.push(group);
            }
            // Not acknowledged: the broker gives them to another worker.
            Committed::Draining => return,
        }
    }
    for (delivery, reason) in parked {
        if !park(fleet, stage, &delivery, &reason).await {
            return;
        }
        dat_fault::around_call("park.ack", || consumer.ack(&[delivery.token]));
    }
}

enum Committed {
    Done(Vec<Disposition>),
    Refused(String),
    Draining,
}

async fn commit<S: Stage>(fleet: &Fleet, stage: &S, work: &[S::Work]) -> Committed {
    let mut pause = Pause::default();
    loop {
        let timer = fleet.metrics.commit_timer(stage.name());
        match stage.commit(work).await {
            Ok(dispositions) => {
                timer.observe_duration();
                return Committed::Done(dispositions);
            }
            Err(error @ StoreError::Unavailable(_)) => {
                timer.stop_and_discard();
                tracing::warn!(stage = %stage.name(), %error, "paused until the database answers");
                if !pause.wait(fleet).await {
                    return Committed::Draining;
                }
            }
            Err(error) => return Committed::Refused(error.to_string()),
        }
    }
}

/// Parks a message: its event first, then the message as it came on the dead-letter exchange, and only then the caller
/// acknowledges it. Gives false when the worker drains before that was possible.
async fn park<S: Stage>(fleet: &Fleet, stage: &S, delivery: &Delivery, parked: &Parked) -> bool {
    let queue = fleet.topology.queue(stage.name());
    let message = &delivery.message;
    tracing::warn!(
        queue = queue.name(),
        message_id = message.message_id,
        reason = parked.reason,
        faults = parked.faults.len(),
        "parked"
    );
    fleet.metrics.parked(stage.name());
    if stage.parked_kind() == EventKind::SubmissionRejected {
        fleet.metrics.submission("refused");
    }
    // What a message says of itself may be what cannot be stored.
    let event = NewEvent::of_plan(PlanKey::CONTROL, "", stage.parked_kind(), fleet.now())
        .with("queue", queue.name())
        .with("message_id", storable(message.message_id.as_deref().unwrap_or_default()))
        .with("correlation_id", storable(message.correlation_id.as_deref().unwrap_or_default()))
        .with("reason", storable(&parked.reason))
        .with(
            "faults",
            json!(
                parked
                    .faults
                    .iter()
                    .map(|f| Fault::new(storable(&f.pointer), f.code, storable(&f.message)))
                    .collect::<Vec<_>>()
            ),
        );
    let event = match &message.user_id {
        Some(user) => event.with("user", storable(user)),
        None => event,
    };
    let mut pause = Pause::default();
    while let Err(error) = fleet.store.record_refused(std::slice::from_ref(&event)).await {
        tracing::warn!(%error, "a parked message waits for the database");
        if !error.is_unavailable() {
            break; // the message itself is still kept below
        }
        if !pause.wait(fleet).await {
            return false;
        }
    }
    let mut dead = dead_letter(fleet, queue.name(), message, parked);
    loop {
        match dat_fault::around("park", fleet.publisher.publish(dead.clone())).await {
            Ok(receipt) if receipt.is_confirmed() => return true,
            Ok(receipt) => tracing::warn!(?receipt, "a dead letter was not taken; trying again"),
            Err(PublishError::Malformed(error)) => {
                tracing::warn!(%error, "a property cannot be sent on; the dead letter goes without");
                dead = bare_letter(fleet, queue.name(), message, parked);
            }
            Err(error) => tracing::warn!(%error, "a dead letter waits for the broker"),
        }
        if !pause.wait(fleet).await {
            return false;
        }
    }
}

/// The message as it came, with why it is parked. Headers fit one frame of the broker: what does not is left out.
fn dead_letter(fleet: &Fleet, queue: &str, message: &Received, parked: &Parked) -> Message {
    let mut dead = bare_letter(fleet, queue, message, parked);
    let mut room = HEADER_BYTES;
    for (name, value) in &message.headers {
        let size = name.len() + if let HeaderValue::Text(text) = value { text.len() } else { 8 };
        // Why it is parked now goes over why it was parked before. Who it is from only the broker can say.
        if size <= room && !dead.headers.contains_key(name) && name != USER {
            room -= size;
            dead.headers.insert(name.clone(), value.clone());
        }
    }
    dead.message_id.clone_from(&message.message_id);
    dead.correlation_id.clone_from(&message.correlation_id);
    dead.reply_to.clone_from(&message.reply_to);
    dead.kind.clone_from(&message.kind);
    dead.timestamp_s = message.timestamp;
    if let Some(content_type) = &message.content_type {
        dead.content_type.clone_from(content_type);
    }
    dead
}

/// The body as it came, and why it is parked.
fn bare_letter(fleet: &Fleet, queue: &str, message: &Received, parked: &Parked) -> Message {
    let exchange = fleet.topology.exchange(Exchange::Dead);
    let dead = Message::json(exchange.name(), queue, message.body.clone())
        .header("x-dat-reason", cut(&parked.reason))
        .header("x-dat-faults", json!(header_faults(&parked.faults)).to_string())
        .header("x-dat-parked-at", fleet.now().timestamp_millis());
    match &message.user_id {
        Some(user) => dead.header(USER, user.as_str()),
        None => dead,
    }
}

/// The first faults, each cut to what a header has room for.
fn header_faults(faults: &[Fault]) -> Vec<Fault> {
    faults
        .iter()
        .take(FAULTS_IN_HEADER)
        .map(|fault| Fault::new(cut(&fault.pointer), fault.code, cut(&fault.message)))
        .collect()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(FAULT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Text with what PostgreSQL does not store written out.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "\\u0000")
}

/// Waits that grow from 100 ms to 5 s.
#[derive(Debug, Default)]
pub(crate) struct Pause(u32);

impl Pause {
    /// Waits; false when the worker drains meanwhile.
    pub(crate) async fn wait(&mut self, fleet: &Fleet) -> bool {
        let wait = Duration::from_millis(100 << self.0.min(6)).min(Duration::from_secs(5));
        self.0 += 1;
        tokio::select! {
            () = fleet.draining.cancelled() => false,
            () = sleep(wait) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faults_of_a_header_are_few_and_short_whatever_was_sent() {
        let long = "é".repeat(300_000);
        let faults: Vec<Fault> =
            (0..1_000).map(|_| Fault::new(&long, FaultCode::UnknownField, &long)).collect();
        let header = json!(header_faults(&faults)).to_string();
        assert!(header.len() < 64 * 1024, "{} bytes", header.len());
        let short = [Fault::new("/steps", FaultCode::OutOfRange, "no steps")];
        assert_eq!(header_faults(&short), short);
    }
}
