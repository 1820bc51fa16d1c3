//! Faults: why an expression cannot be a predicate, and where.

use std::fmt;

/// A place in the text of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
}

impl Place {
    /// The place of a byte of a text; the end of the text where it has no such byte.
    pub(super) fn of(source: &str, byte: usize) -> Self {
        let before = source.get(..byte).unwrap_or(source);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { line, column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why an expression cannot be a predicate. The first fault found; the message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PredicateFault {
    /// Nothing, or more text than [`dat_plan::document::limits::PREDICATE_BYTES`].
    #[error("a predicate has 1 to {limit} bytes, this one has {bytes}")]
    Size {
        /// The size found, in bytes.
        bytes: usize,
        /// The greatest size, in bytes.
        limit: usize,
    },
    /// Not a CEL expression.
    #[error("not a CEL expression, {at}: {message}")]
    Syntax {
        /// Where reading stopped.
        at: Place,
        /// What was found, and what was expected.
        message: String,
    },
    /// A name or a field that predicates do not see.
    #[error("'{name}' is not known, {at}: {known}")]
    Unknown {
        /// Where it stands.
        at: Place,
        /// The name found.
        name: String,
        /// The names there are.
        known: String,
    },
    /// An operator or a function on kinds it does not take, or one that predicates may not use.
    #[error("{message}, {at}")]
    Misuse {
        /// Where it stands.
        at: Place,
        /// What does not fit.
        message: String,
    },
    /// The expression gives something else than true or false.
    #[error("a predicate is true or false, this one is {found}: compare it with something")]
    NotBoolean {
        /// The kind it gives.
        found: String,
    },
    /// More nesting or more parts than a decision before every step should take.
    #[error("the expression is too complex: {what}; split it into several constraints")]
    TooComplex {
        /// Which bound it passes.
        what: String,
    },
    /// The parser could not run: no thread could be started, or it panicked.
    #[error("the expression could not be read ({0}); report it, with the expression")]
    Parser(String),
}
