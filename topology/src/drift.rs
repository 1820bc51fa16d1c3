//! How a broker differs from the code.

use std::fmt;

use serde_json::Value;

use crate::topology::BindingSpec;

/// A part of the topology, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// An exchange.
    Exchange(String),
    /// A queue.
    Queue(String),
    /// A binding.
    Binding(BindingSpec),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(name) => write!(f, "exchange {name}"),
            Self::Queue(name) => write!(f, "queue {name}"),
            Self::Binding(binding) => write!(f, "binding {binding}"),
        }
    }
}

/// One difference. Displays as one line.
#[derive(Debug, Clone, PartialEq)]
pub enum Drift {
    /// The code has it, the broker does not.
    Missing(Part),
    /// Both have it, and a property or an argument differs.
    Different {
        /// The part.
        part: Part,
        /// The property, as the management API calls it, or the argument.
        property: String,
        /// What the code says.
        expected: Value,
        /// What the broker says; `null` if nothing.
        found: Value,
    },
    /// The broker has an argument on it that the code does not.
    UnknownArgument {
        /// The part.
        part: Part,
        /// The argument.
        argument: String,
        /// Its value.
        found: Value,
    },
    /// A queue of the code's takes messages that the code does not send there.
    ExtraBinding(BindingSpec),
    /// A policy lets the broker drop or refuse messages of a queue.
    Policy {
        /// The queue.
        queue: String,
        /// The policies that apply to it.
        policy: String,
        /// What they set.
        setting: String,
        /// To which value.
        found: Value,
    },
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(part) => write!(f, "{part} is missing: apply the topology"),
            Self::Different { part, property, expected, found } => {
                write!(f, "{part} has {property} {found}, expected {expected}")
            }
            Self::UnknownArgument { part, argument, found } => {
                write!(f, "{part} has an unknown argument {argument} {found}")
            }
            Self::ExtraBinding(binding) => {
                write!(f, "binding {binding} is not ours: remove it, or say who needs it")
            }
            Self::Policy { queue, policy, setting, found } => {
                write!(
                    f,
                    "queue {queue} is under policy {policy}, which sets {setting} {found}: messages can be lost"
                )
            }
        }
    }
}
