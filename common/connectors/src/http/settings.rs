//! The settings of the connector `http`: which hosts may be called, and which actions there are. Secrets stand in them
//! by reference only; what they refer to is read when the connector is built.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `[http]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    /// How long finding, connecting to and greeting a host may take, milliseconds, 1 to 60,000.
    pub connect_ms: u64,
    /// The largest answer that is read, bytes, 1 to 64 MiB.
    pub max_body_bytes: usize,
    /// By how much the clocks of the outside systems may differ from ours, milliseconds, at most an hour: a probe that
    /// finds nothing done believes it only so long after the request's `not_after`.
    pub clock_skew_ms: u64,
    /// `[[http.host]]`: the hosts that may be called; no other is.
    pub host: Vec<HostSetting>,
    /// `[[http.action]]`: what plans can ask for.
    pub action: Vec<ActionSetting>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            connect_ms: 5_000,
            max_body_bytes: 1024 * 1024,
            clock_skew_ms: 5_000,
            host: Vec::new(),
            action: Vec::new(),
        }
    }
}

/// A host that may be called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSetting {
    /// `host:port`, as in `api.shop.example:443`.
    pub authority: String,
    /// Without TLS, by `http:`.
    #[serde(default)]
    pub plain: bool,
    /// It may be at a private, loopback or link-local address.
    #[serde(default)]
    pub private: bool,
    /// A PEM file of further authorities that its certificate may be signed by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// An action that plans can ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionSetting {
    /// Its name, as plans say it.
    pub name: String,
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: Verb,
    /// Where, with `{parameter}` in path and query; `{$key}` is the idempotency key, `{$undo_of}` that of the step undone.
    pub url: String,
    /// Headers: texts, or secrets by reference.
    #[serde(default)]
    pub headers: BTreeMap<String, HeaderSetting>,
    /// The JSON body; a text that is `{parameter}` as a whole is replaced by its value. By default all parameters,
    /// for the methods that have a body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// The header that takes the idempotency key.
    #[serde(default = "idempotency_header")]
    pub idempotency_header: String,
    /// Where in the answer the result is: an RFC 6901 pointer, `""` for all of it.
    #[serde(default)]
    pub result: String,
    /// What it cost: a pointer into the answer, or a fixed amount; nothing by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<AmountSetting>,
    /// What came back, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund: Option<AmountSetting>,
    /// Statuses that say for certain that nothing happened, and that it may be tried again.
    #[serde(default = "retryable")]
    pub retryable: Vec<u16>,
    /// Further statuses that leave open whether it happened, beside 408 and those of 500 and more.
    #[serde(default)]
    pub open: Vec<u16>,
    /// The outside system applies each idempotency key at most once (or the effect is the same however often it is
    /// asked for). By default what the method promises: `GET`, `PUT` and `DELETE` are, the others are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// It may undo another action. By default where it is idempotent or can be probed: an undo must be repeatable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensates: Option<bool>,
    /// How to find out what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeSetting>,
}

/// A `GET` that tells what came of an action, with the action's own headers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeSetting {
    /// Where, with `{$key}` for the idempotency key.
    pub url: String,
    /// Statuses that say that it is done.
    #[serde(default = "done_status")]
    pub done_status: Vec<u16>,
    /// Statuses that say that it is not.
    #[serde(default = "not_done_status")]
    pub not_done_status: Vec<u16>,
    /// Where an answer of `done_status` says whether it is done, if not by the status alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// What it says there if it is done.
    #[serde(default)]
    pub done: Vec<Value>,
    /// What it says there if it is not.
    #[serde(default)]
    pub not_done: Vec<Value>,
    /// Where the result is, as of the action.
    #[serde(default)]
    pub result: String,
    /// What the action cost, as of the action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<AmountSetting>,
    /// What came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund: Option<AmountSetting>,
}

/// A method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the methods of RFC 9110 and RFC 5789, by their names")]
pub enum Verb {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// A header's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeaderSetting {
    /// As it stands.
    Text(String),
    /// A secret, after a text.
    Secret {
        /// `env:NAME` or `file:PATH` (its last newline is no part of it).
        secret: String,
        /// What stands before it, as in `"Bearer "`.
        #[serde(default)]
        prefix: String,
    },
}

/// An amount in the smallest unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AmountSetting {
    /// Always this.
    Fixed(i64),
    /// Where it stands in the answer; 0 where it does not.
    At(String),
}

fn idempotency_header() -> String {
    "Idempotency-Key".to_owned()
}

fn retryable() -> Vec<u16> {
    vec![425, 429, 503]
}

fn done_status() -> Vec<u16> {
    vec![200]
}

fn not_done_status() -> Vec<u16> {
    vec![404]
}
