//! Kinds: what the checker knows of a value before it is there.

use std::fmt;

use cel::common::ast::LiteralValue;

/// The type of an expression, as far as its text tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Known only when evaluated: a parameter, a result.
    Dyn,
    /// `null`.
    Null,
    /// True or false; what a predicate must be.
    Bool,
    /// A 64-bit signed integer.
    Int,
    /// A 64-bit unsigned integer, as in `5u`.
    Uint,
    /// A 64-bit floating point number.
    Double,
    /// A text.
    String,
    /// Bytes, as in `b'…'`.
    Bytes,
    /// A moment.
    Timestamp,
    /// A span of time.
    Duration,
    /// A list of one kind.
    List(&'static Kind),
    /// A map from texts to one kind.
    Map(&'static Kind),
}

impl Kind {
    /// The kind of a literal.
    pub(super) fn of(literal: &LiteralValue) -> Self {
        match literal {
            LiteralValue::Boolean(_) => Self::Bool,
            LiteralValue::Bytes(_) => Self::Bytes,
            LiteralValue::Double(_) => Self::Double,
            LiteralValue::Int(_) => Self::Int,
            LiteralValue::Null => Self::Null,
            LiteralValue::String(_) => Self::String,
            LiteralValue::UInt(_) => Self::Uint,
        }
    }

    /// Whether a value of this kind may turn out to be of `other`.
    pub(super) fn may_be(self, other: Self) -> bool {
        self == Self::Dyn
            || other == Self::Dyn
            || self == other
            || matches!((self, other), (Self::List(_), Self::List(_)) | (Self::Map(_), Self::Map(_)))
    }

    /// Numbers compare with each other across kinds; arithmetic does not mix them.
    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    /// The kind of both, or dynamic where they differ.
    pub(super) fn join(self, other: Self) -> Self {
        if self == other { self } else { Self::Dyn }
    }

    /// What the elements of a list or the keys of a map are; `None` where nothing can be iterated.
    pub(super) fn element(self) -> Option<Self> {
        match self {
            Self::Dyn => Some(Self::Dyn),
            Self::List(element) => Some(*element),
            Self::Map(_) => Some(Self::String),
            _ => None,
        }
    }

    /// A list of this kind; lists of lists are lists of anything.
    pub(super) fn listed(self) -> Self {
        Self::List(match self {
            Self::Null => &Self::Null,
            Self::Bool => &Self::Bool,
            Self::Int => &Self::Int,
            Self::Uint => &Self::Uint,
            Self::Double => &Self::Double,
            Self::String => &Self::String,
            Self::Bytes => &Self::Bytes,
            Self::Timestamp => &Self::Timestamp,
            Self::Duration => &Self::Duration,
            Self::Dyn | Self::List(_) | Self::Map(_) => &Self::Dyn,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dyn => "any value",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::Duration => "duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
        })
    }
}
