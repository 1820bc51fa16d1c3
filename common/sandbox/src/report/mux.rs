//! What MUX reports: its effects, its request log, its figures; and how it is held.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// Something that MUX did. There is one for each idempotency key that acted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Its place among all that MUX received and finished, see [`Request::received`].
    pub order: u64,
    /// The key that it happened under.
    pub idempotency_key: String,
    /// The plan.
    pub plan_id: Uuid,
    /// Its version.
    pub plan_version: i32,
    /// Who pays.
    pub tenant: String,
    /// The step's key.
    pub step: String,
    /// The attempt that had the effect.
    pub attempt: i32,
    /// The action.
    pub action: String,
    /// An undo: the forward key that it undid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_of: Option<String>,
    /// An undo of a key that had had no effect: there was nothing to undo.
    pub no_op: bool,
    /// What it cost.
    pub cost: i64,
    /// What came back.
    pub refund: i64,
    /// Of which currency both are.
    pub currency: String,
    /// What it resulted in.
    pub result: Value,
    /// When it happened.
    pub at: DateTime<Utc>,
}

/// `GET /mux/effects`: an effect, and how often its key was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppliedEffect {
    /// The effect.
    #[serde(flatten)]
    pub effect: Effect,
    /// How many effects there are under its key: 1, or MUX is broken.
    pub applied: u64,
}

/// How a request to MUX ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestStatus {
    /// Not yet: it is held, or takes its time. A request that need not wait is logged when it is decided.
    InFlight,
    /// With an effect, answered `ok`.
    Ok,
    /// With an effect, and the answer was lost.
    LostReply,
    /// The key had acted before; that answer was given again.
    Replayed,
    /// Answered `error`, no effect.
    Error,
    /// Answered `refused` because `parameters.sandbox` said so.
    Refused,
    /// Answered `refused` because `not_after` had passed.
    RefusedLate,
    /// Answered `refused` because the key was sealed.
    RefusedSealed,
    /// Answered `refused` because `parameters.sandbox` could not be read.
    Malformed,
    /// Neither effect nor answer.
    Timeout,
    /// The sandbox was stopped before it was decided; the broker delivers it again, as a request of its own.
    Interrupted,
}

/// `GET /mux/requests`: a delivery of an action request. A redelivery is a request of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Its number, and its place in the one sequence that counts what MUX receives, finishes and does. A step
    /// started after another had finished exactly if its `received` is above the other's `finished`.
    pub received: u64,
    /// When it came.
    pub received_at: DateTime<Utc>,
    /// Its place in the same sequence when it was decided; before the answer was sent.
    pub finished: Option<u64>,
    /// The plan.
    pub plan_id: Uuid,
    /// Its version.
    pub plan_version: i32,
    /// The step's key.
    pub step: String,
    /// The attempt, from 1.
    pub attempt: i32,
    /// The key.
    pub idempotency_key: String,
    /// The action.
    pub action: String,
    /// An undo: the forward key that it undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_of: Option<String>,
    /// MUX refuses it after this.
    pub not_after: DateTime<Utc>,
    /// How it ended.
    pub status: RequestStatus,
}

/// `GET /mux/summary`, of all plans or of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MuxSummary {
    /// Effects, undos among them.
    pub effects: u64,
    /// Effects that are undos.
    pub undos: u64,
    /// Deliveries of action requests.
    pub requests: u64,
    /// Requests not decided yet.
    pub in_flight: u64,
    /// The most that were in flight at once.
    pub max_in_flight: u64,
    /// Answers given again by key.
    pub replays: u64,
    /// Refusals because `not_after` had passed.
    pub refused_late: u64,
    /// Refusals because the key was sealed.
    pub refused_sealed: u64,
    /// Requests by how they ended.
    pub by_status: BTreeMap<RequestStatus, u64>,
    /// Keys sealed, by a probe or by an undo of nothing (of all plans).
    pub sealed: u64,
    /// Probes answered (of all plans).
    pub probes: u64,
    /// Messages that could not be read and had nowhere to send an answer (of all plans).
    pub dropped: u64,
    /// Messages that could not be read and were answered `refused` (of all plans).
    pub malformed: u64,
    /// Requests that `POST /mux/hold` holds right now (of all plans).
    pub held: u64,
}

/// `POST /mux/hold`: requests whose action matches are received, and wait for `POST /mux/release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The action, in which `*` stands for any characters. Probes are held by `probe` alone.
    pub action: String,
}

/// `GET /mux/held`, `POST /mux/hold`, `POST /mux/release`: how many requests are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// How many.
    pub held: u64,
}
