//! Events: what the append-only log records, where each goes, and its shape on the wire.
//!
//! An event is written in the transaction it describes. Events of one plan version form a gapless sequence and a hash
//! chain; the relay publishes them in that order. The id is the place in the log (`plan_id/version/sequence`), so that
//! it is the same however often the event is published.

mod kind;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::hash::{NoCanonicalForm, canonical};
use crate::ids::PlanKey;

pub use kind::{ControlAct, Destination, EventKind};

/// An event that is about to be written: everything but its place.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The plan version, or [`PlanKey::CONTROL`].
    pub plan: PlanKey,
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: DateTime<Utc>,
    /// Whose plan it is; empty for the control stream.
    pub tenant: String,
    /// The step it is about.
    pub step: Option<String>,
    /// The attempt it is about, from 1.
    pub attempt: Option<i32>,
    /// The rest of `data`.
    pub data: Map<String, Value>,
}

impl NewEvent {
    /// An event about a whole plan.
    #[must_use]
    pub fn of_plan(plan: PlanKey, tenant: &str, kind: EventKind, at: DateTime<Utc>) -> Self {
        Self { plan, kind, at, tenant: tenant.to_owned(), step: None, attempt: None, data: Map::new() }
    }

    /// The same event about one step of it.
    #[must_use]
    pub fn step(mut self, step: &str, attempt: i32) -> Self {
        self.step = Some(step.to_owned());
        self.attempt = Some(attempt);
        self
    }

    /// The same event with one more field of `data`.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.data.insert(field.to_owned(), value.into());
        self
    }

    /// The same event with a `reason`, where there is one.
    #[must_use]
    pub fn because(self, reason: &str) -> Self {
        if reason.is_empty() { self } else { self.with("reason", reason) }
    }

    /// `data` as it is logged and published: the fields every event has, and its own.
    #[must_use]
    pub fn full_data(&self) -> Map<String, Value> {
        let mut data = self.data.clone();
        if !self.plan.is_control() {
            data.insert("plan_id".to_owned(), json!(self.plan.plan_id));
            data.insert("plan_version".to_owned(), json!(self.plan.plan_version));
            data.insert("tenant".to_owned(), json!(self.tenant));
        }
        if let Some(step) = &self.step {
            data.insert("step".to_owned(), json!(step));
        }
        if let Some(attempt) = self.attempt {
            data.insert("attempt".to_owned(), json!(attempt));
        }
        data
    }
}

/// An event at its place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedEvent {
    /// The stream.
    pub plan: PlanKey,
    /// Its place, from 1, without a gap.
    pub sequence: i64,
    /// The routing key.
    pub kind: String,
    /// When.
    pub at: DateTime<Utc>,
    /// What is published as `data`.
    pub data: Value,
}

impl LoggedEvent {
    /// The id on the wire: `message_id`, and the `CloudEvents` `id`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.plan, self.sequence)
    }

    /// The `CloudEvents` 1.0 envelope.
    #[must_use]
    pub fn envelope(&self) -> Value {
        json!(self.wrapped(None))
    }

    /// The envelope as text, with the W3C trace context as an attribute where one is given (`CloudEvents`' distributed
    /// tracing extension).
    #[must_use]
    pub fn envelope_text(&self, traceparent: Option<&str>) -> String {
        // Text of a value that is JSON already, under keys that are texts: there is nothing that could fail.
        serde_json::to_string(&self.wrapped(traceparent)).unwrap_or_default()
    }

    fn wrapped<'a>(&'a self, traceparent: Option<&'a str>) -> Envelope<'a> {
        let subject =
            if self.plan.is_control() { "control".to_owned() } else { self.plan.plan_id.to_string() };
        Envelope {
            data: &self.data,
            datacontenttype: "application/json",
            id: self.id(),
            sequence: self.sequence.to_string(),
            source: "dat",
            specversion: "1.0",
            subject,
            time: self.at.to_rfc3339_opts(SecondsFormat::Micros, true),
            traceparent,
            kind: format!("dat.{}", self.kind),
        }
    }

    /// The hash that chains this event to the one before it: SHA-256 over the earlier hash and the RFC 8785 form of
    /// the envelope. The first event of a stream is chained to 32 zero bytes.
    pub fn chained(&self, previous: &[u8]) -> Result<[u8; 32], NoCanonicalForm> {
        let mut hasher = Sha256::new();
        hasher.update(previous);
        hasher.update(canonical(&self.wrapped(None))?);
        Ok(hasher.finalize().into())
    }
}

/// An event as it is written, around data that is not copied. In the order of the names, as a JSON value has it.
#[derive(Serialize)]
struct Envelope<'a> {
    data: &'a Value,
    datacontenttype: &'static str,
    id: String,
    sequence: String,
    source: &'static str,
    specversion: &'static str,
    subject: String,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(rename = "type")]
    kind: String,
}

/// What the first event of a stream is chained to.
pub const CHAIN_START: [u8; 32] = [0; 32];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_the_same_as_text_and_as_a_value() {
        let event = LoggedEvent {
            plan: PlanKey::new(uuid::Uuid::from_u128(7), 2),
            sequence: 9,
            kind: "step.completed".to_owned(),
            at: DateTime::UNIX_EPOCH,
            data: json!({"z": 1, "a": {"y": [1.5, null], "b": "\u{e9}"}}),
        };
        assert_eq!(event.envelope_text(None), event.envelope().to_string());
        let traced: Value = serde_json::from_str(&event.envelope_text(Some("00-ab-cd-01"))).expect("JSON");
        let mut meant = event.envelope();
        meant["traceparent"] = json!("00-ab-cd-01");
        assert_eq!(traced, meant);
    }

    #[test]
    fn the_chain_depends_on_every_field_and_on_what_came_before() {
        let event = LoggedEvent {
            plan: PlanKey::CONTROL,
            sequence: 1,
            kind: "control.pause".to_owned(),
            at: DateTime::UNIX_EPOCH,
            data: json!({"actor": "ann"}),
        };
        let hash = event.chained(&CHAIN_START).expect("canonical");
        assert_ne!(hash, event.chained(&[1; 32]).expect("canonical"));
        let other = LoggedEvent { data: json!({"actor": "bob"}), ..event.clone() };
        assert_ne!(hash, other.chained(&CHAIN_START).expect("canonical"));
        let moved = LoggedEvent { sequence: 2, ..event };
        assert_ne!(hash, moved.chained(&CHAIN_START).expect("canonical"));
    }
}
