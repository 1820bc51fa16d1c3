//! The messages between DAT and MUX, the Market Integration Layer: request and answer, probe and answer.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// What DAT asks of MUX; the routing key is the action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionRequest {
    /// The action, e.g. `marketplace.listing.create`.
    pub action: String,
    /// Its parameters, references resolved.
    pub parameters: Map<String, Value>,
    /// MUX applies each key at most once, and replays an answer by key.
    pub idempotency_key: String,
    /// MUX must refuse the request after this moment.
    pub not_after: DateTime<Utc>,
    /// The most it may cost, in the smallest unit.
    pub max_cost: i64,
    /// Of this currency.
    pub currency: String,
    /// Who pays.
    pub tenant: String,
    /// The plan it belongs to.
    pub plan_id: Uuid,
    /// The plan's version.
    pub plan_version: i32,
    /// The step's key.
    pub step: String,
    /// The attempt, from 1.
    pub attempt: i32,
    /// An undo: the last forward key of the step it undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_of: Option<String>,
}

/// How MUX answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionStatus {
    /// The effect happened.
    Ok,
    /// It did not; it may be tried again.
    Error,
    /// It did not, and it never will.
    Refused,
}

/// MUX's answer. Absent amounts are 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionReply {
    /// How it went.
    pub status: ActionStatus,
    /// The result, `{}` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// What it cost.
    #[serde(default)]
    pub cost: i64,
    /// What came back.
    #[serde(default)]
    pub refund: i64,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Not to be tried again sooner, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// The `type` and the `status` of a report of progress.
pub const PROGRESS: &str = "progress";

/// What MUX may say of a long action before it answers, to the same queue under the same `correlation_id`, however often
/// it likes: an extension of the contract, and a MUX that never says it is none the worse. It is a report by the AMQP
/// property `type: "progress"`, or by its `status` where its body is small.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressReport {
    /// `progress`.
    pub status: String,
    /// How far it is.
    #[serde(flatten)]
    pub progress: crate::progress::Progress,
}

/// The routing key of probes.
pub const PROBE: &str = "probe";

/// Asks what came of a key, and seals it if nothing did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// The key asked about.
    pub idempotency_key: String,
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeStatus {
    /// The effect happened; the result is with it.
    Done,
    /// The key has had no effect and never will.
    Sealed,
    /// It cannot be told yet.
    Unknown,
}

/// The answer to a probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeReply {
    /// What was found.
    pub status: ProbeStatus,
    /// For `done`: the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// For `done`: what it cost.
    #[serde(default)]
    pub cost: i64,
    /// For `done`: what came back.
    #[serde(default)]
    pub refund: i64,
}
