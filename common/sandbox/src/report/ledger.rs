//! What FLO and PTE report: the events they received, and what FLO booked.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// `GET /flo/plans`: what FLO has booked for a plan version, a tenant and a currency.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerLine {
    /// The plan.
    pub plan_id: Uuid,
    /// Its version.
    pub plan_version: i32,
    /// Who pays.
    pub tenant: String,
    /// The currency.
    pub currency: String,
    /// Σ `spend.incurred`.
    pub incurred: i64,
    /// Σ `refund.issued`.
    pub refunded: i64,
    /// Σ `spend.reserved`.
    pub reserved: i64,
    /// Σ `spend.released`.
    pub released: i64,
    /// `incurred` − `refunded`.
    pub net: i64,
}

/// `GET /flo/events`, `GET /pte/events`: an event, as it came first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its place among what the system received, from 1.
    pub order: u64,
    /// The plan; nil for the control stream.
    pub plan_id: Uuid,
    /// Its version; 0 for the control stream.
    pub plan_version: i32,
    /// The `CloudEvents` id.
    pub id: String,
    /// The `CloudEvents` type, e.g. `dat.spend.incurred`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its place in the plan version.
    pub sequence: i64,
    /// When it happened.
    pub time: Option<DateTime<Utc>>,
    /// Its data.
    pub data: Value,
}

/// `GET /flo/summary`, `GET /pte/summary`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSummary {
    /// Events, each counted once.
    pub events: u64,
    /// Deliveries of an event that was there already.
    pub duplicates: u64,
    /// Events that came after one of a higher sequence of the same plan version.
    pub out_of_order: u64,
    /// Which those were.
    pub misplaced: Vec<Misplaced>,
    /// Messages, or members of a batch, that are no event.
    pub malformed: u64,
    /// FLO: events, stored like the others, that say that money moved and not whose or how much.
    pub unbooked: u64,
    /// Events by type.
    pub by_type: BTreeMap<String, u64>,
}

/// An event that came after one of a higher sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misplaced {
    /// The event's id.
    pub id: String,
    /// Its sequence.
    pub sequence: i64,
    /// The highest sequence that had come before it.
    pub after: i64,
}
