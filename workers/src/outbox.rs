//! What a round of the relay sends: the messages that its events become, and which events count as published once some
//! of the messages are confirmed.
//!
//! An event is a message of its own to each of its destinations. To a destination whose consumer reads batches
//! (`events.batched`), all events of a round go as JSON arrays of events (`application/cloudevents-batch+json`), in the
//! order of each stream: a message costs the broker and this process as much as ten rows in the database.
//!
//! **Owns** the form in which events leave. **May be called** by the relay. **Must never** decide what is published, or
//! when: streams come claimed, and go with their events in order.

use std::collections::{BTreeMap, BTreeSet};

use dat_bus::{Message, Receipt};
use dat_plan::event::{Destination, EventKind, LoggedEvent};
use dat_topology::{Exchange, Topology, key};

/// The most events of a batch,
const EVENTS: usize = 256;
/// and the most bytes, but for one event that is larger by itself.
const BYTES: usize = 512 * 1024;

/// The media type of one event, and of several.
const ONE: &str = "application/cloudevents+json";
const SEVERAL: &str = "application/cloudevents-batch+json";

/// The messages of one round.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    messages: Vec<Message>,
    /// Which messages carry an event, by the place of its stream and its own place there.
    carriers: BTreeMap<(usize, usize), Vec<usize>>,
}

/// A batch that is being filled.
#[derive(Debug, Default)]
struct Batch {
    body: String,
    first: Option<(String, u64)>,
    events: Vec<(usize, usize)>,
}

impl Outbox {
    /// The messages for what these streams have to say, each with the trace context of its plan.
    pub(crate) fn new<'a>(
        topology: &Topology,
        batched: &BTreeSet<Destination>,
        streams: impl Iterator<Item = (&'a str, &'a [LoggedEvent])>,
    ) -> Self {
        let mut outbox = Self::default();
        let mut filling: BTreeMap<Destination, Batch> = BTreeMap::new();
        for (place, (traceparent, events)) in streams.enumerate() {
            for (index, event) in events.iter().enumerate() {
                let mut alone = None;
                for destination in destinations(event) {
                    if batched.contains(destination) {
                        let batch = filling.entry(*destination).or_default();
                        // What a message of its own has as a header, a member has as an attribute.
                        let text = event.envelope_text(Some(traceparent).filter(|trace| !trace.is_empty()));
                        if !batch.has_room(text.len()) {
                            outbox.seal(topology, *destination, std::mem::take(batch));
                        }
                        batch.add(event, &text, (place, index));
                    } else {
                        let body = alone.get_or_insert_with(|| event.envelope_text(None));
                        let message = message(topology, *destination, event, body, traceparent);
                        outbox.push(message, [(place, index)]);
                    }
                }
            }
        }
        for (destination, batch) in filling {
            outbox.seal(topology, destination, batch);
        }
        outbox
    }

    /// The messages, to be sent in this order.
    pub(crate) fn take(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// How many of a stream's first `events` were confirmed in each of their messages.
    pub(crate) fn confirmed(&self, place: usize, events: usize, receipts: &[Receipt]) -> usize {
        let confirmed = |index: &usize| {
            let carriers = self.carriers.get(&(place, *index)).map_or(&[][..], Vec::as_slice);
            carriers.iter().all(|message| receipts.get(*message).is_some_and(Receipt::is_confirmed))
        };
        (0..events).take_while(confirmed).count()
    }

    fn push(&mut self, message: Message, events: impl IntoIterator<Item = (usize, usize)>) {
        for event in events {
            self.carriers.entry(event).or_default().push(self.messages.len());
        }
        self.messages.push(message);
    }

    fn seal(&mut self, topology: &Topology, destination: Destination, batch: Batch) {
        let Some((id, at)) = batch.first else { return };
        let count = batch.events.len();
        let exchange = topology.exchange(exchange(destination)).name().to_owned();
        let message = Message::json(exchange, key::BATCH, format!("[{}]", batch.body))
            .content_type(SEVERAL)
            .message_id(format!("{id}+{count}"))
            .kind("dat.batch")
            .timestamp_s(at)
            .mandatory(destination != Destination::Events);
        self.push(message, batch.events);
    }
}

impl Batch {
    fn has_room(&self, bytes: usize) -> bool {
        self.events.is_empty() || (self.events.len() < EVENTS && self.body.len() + bytes < BYTES)
    }

    fn add(&mut self, event: &LoggedEvent, text: &str, place: (usize, usize)) {
        if self.events.is_empty() {
            self.first = Some((event.id(), seconds(event)));
        } else {
            self.body.push(',');
        }
        self.body.push_str(text);
        self.events.push(place);
    }
}

/// An event of a newer version of DAT is published to whoever follows lifecycles.
fn destinations(event: &LoggedEvent) -> &'static [Destination] {
    event.kind.parse::<EventKind>().map_or(&[Destination::Events][..], EventKind::destinations)
}

const fn exchange(destination: Destination) -> Exchange {
    match destination {
        Destination::Flo => Exchange::Flo,
        Destination::Pte => Exchange::Pte,
        Destination::Events => Exchange::Events,
        Destination::Ggp => Exchange::Ggp,
    }
}

fn seconds(event: &LoggedEvent) -> u64 {
    u64::try_from(event.at.timestamp()).unwrap_or(0)
}

fn message(
    topology: &Topology,
    destination: Destination,
    event: &LoggedEvent,
    body: &str,
    traceparent: &str,
) -> Message {
    let message = Message::json(topology.exchange(exchange(destination)).name(), &event.kind, body)
        .content_type(ONE)
        .message_id(event.id())
        .correlation_id(event.plan.to_string())
        .kind(format!("dat.{}", event.kind))
        .timestamp_s(seconds(event))
        // FLO, PTE and GGP must receive; whether anybody follows lifecycles is their own affair.
        .mandatory(destination != Destination::Events);
    if traceparent.is_empty() { message } else { message.traceparent(traceparent) }
}

#[cfg(test)]
mod tests;
