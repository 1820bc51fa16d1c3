//! Names: what a predicate may look at.
//!
//! `now` is a timestamp, `tenant` a text, `results` a map from a step's key to its result. `plan`, `step` and `budget`
//! are records: their fields are named here, and a field that is not is a fault when a plan is registered, not an error
//! when its step runs.

use super::kind::Kind;

/// Every name, for a message.
pub(super) const ALL: &str = "a predicate sees now, plan, tenant, step, budget and results";

/// The kind of a name that is a value of its own.
pub(super) fn value(name: &str) -> Option<Kind> {
    match name {
        "now" => Some(Kind::Timestamp),
        "tenant" => Some(Kind::String),
        "results" => Some(Kind::Map(&Kind::Dyn)),
        _ => None,
    }
}

/// The fields of a record, each with its kind.
pub(super) fn record(name: &str) -> Option<&'static [(&'static str, Kind)]> {
    match name {
        "plan" => Some(&[
            ("id", Kind::String),
            ("version", Kind::Int),
            ("name", Kind::String),
            ("priority", Kind::Int),
            ("labels", Kind::Map(&Kind::String)),
            ("steps", Kind::Int),
        ]),
        "step" => Some(&[
            ("key", Kind::String),
            ("index", Kind::Int),
            ("attempt", Kind::Int),
            ("parameters", Kind::Map(&Kind::Dyn)),
        ]),
        "budget" => Some(&[
            ("amount", Kind::Int),
            ("spent", Kind::Int),
            ("reserved", Kind::Int),
            ("currency", Kind::String),
        ]),
        _ => None,
    }
}
