//! Faults: what is wrong with a document from outside, each with the place where it is wrong.

use serde::{Deserialize, Serialize};

/// What kind of fault; a stable word for programs, beside the message for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// Not UTF-8 JSON.
    NotJson,
    /// More bytes, steps or characters than the limit.
    TooLarge,
    /// A key stands twice in one JSON object, or a step key, constraint id or need twice in a plan.
    Duplicate,
    /// A field the contract does not have.
    UnknownField,
    /// A field that must be there is not.
    Missing,
    /// The JSON type is another than the contract's.
    WrongType,
    /// A value outside its bounds, or a text of the wrong form.
    OutOfRange,
    /// A word that is not one of the choices.
    UnknownValue,
    /// A connector that this fleet does not have.
    UnknownConnector,
    /// A reference to a step that is not there, or not an ancestor.
    UnknownReference,
    /// Steps that need each other.
    Cycle,
    /// A step that has neither a compensation nor `irreversible: true`, or both.
    NoWayBack,
    /// A predicate that does not compile, names something unknown, or is not boolean.
    BadPredicate,
    /// Text that PostgreSQL cannot store (U+0000).
    Unstorable,
    /// This plan version is registered with other content.
    VersionConflict,
    /// This plan id belongs to another tenant.
    ForeignTenant,
    /// Whoever submitted it may not speak for its tenant.
    SubmitterNotAllowed,
    /// A verdict that names no registered plan version, another hash, or conflicts with the binding one.
    VerdictMismatch,
    /// A verdict that names other operators' rules than governance was told of.
    OtherConstraints,
    /// It must be signed and is not.
    Unsigned,
    /// It is signed with a key that is not trusted here.
    UnknownKey,
    /// It is signed with a key whose time has not come.
    KeyNotYetValid,
    /// It is signed with a key whose time is over.
    KeyExpired,
    /// Its signature is not that of its key over what it says: made with another key, or altered since.
    WrongSignature,
}

/// One fault: where (an RFC 6901 JSON pointer, `""` for the whole), which kind, and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// RFC 6901 pointer into the document as it was sent.
    pub pointer: String,
    /// The kind of fault.
    pub code: FaultCode,
    /// What is wrong and what is expected, in one sentence.
    pub message: String,
}

impl Fault {
    /// A fault at a place.
    pub fn new(pointer: impl Into<String>, code: FaultCode, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code, message: message.into() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if self.pointer.is_empty() { "(document)" } else { &self.pointer };
        write!(f, "{place}: {}", self.message)
    }
}
