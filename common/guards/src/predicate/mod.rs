//! Predicates: CEL expressions that must be true, compiled when a plan is registered and evaluated before its steps.
//!
//! Wraps `cel` (pinned to 0.15.0), which by itself compiles unknown names and mixed types, has no cost limit, iterates
//! maps in random order, and takes some 150 KB of stack for each level of brackets in a debug build. Here every name,
//! field, function and known type is checked first ([`typing`]), the parser runs on a thread with a stack that fits
//! it, what an evaluation may read is metered ([`meter`]), and whatever does not come out as `true` is a denial.

mod fault;
mod functions;
mod json;
mod kind;
mod meter;
mod names;
mod operators;
mod reads;
#[cfg(test)]
mod tests;
mod typing;
mod view;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::thread;

use cel::common::ast::IdedExpr;
use cel::common::types::CelBool;
use cel::{Context, Env, ExecutionError, Value};
use dat_plan::check::PredicateCheck;
use dat_plan::document::limits::PREDICATE_BYTES;

pub use fault::{Place, PredicateFault};
pub use reads::{Reads, ResultsRead};

use crate::inputs::Inputs;
use meter::exhausted;
use view::View;

/// The standard library, without the optional syntax. Built once: it costs fifty times an evaluation.
static ENVIRONMENT: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// The deepest nesting of brackets that the parser follows.
const BRACKETS: u16 = 32;
/// The parser's stack, in bytes: measured at 32 levels in a debug build, 4 to 6 MiB. Touched only as used.
const STACK_BYTES: usize = 16 * 1024 * 1024;
/// The longest reason, in characters: it goes into an event.
const REASON_CHARS: usize = 300;

/// A checked CEL expression over [`Inputs`], ready to be evaluated any number of times.
#[derive(Debug, Clone)]
pub struct Predicate {
    source: Arc<str>,
    expr: Arc<IdedExpr>,
    reads: Reads,
}

/// What an evaluation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// True.
    Holds,
    /// False, an error, or no boolean: a denial, with its reason (at most 300 characters).
    Fails(String),
}

impl Predicate {
    /// Reads and checks an expression of 1 to 2,048 bytes.
    ///
    /// Meant for registration, on a thread that may block: it takes up to a millisecond, a hostile one some tens.
    pub fn compile(source: &str) -> Result<Self, PredicateFault> {
        if source.is_empty() || source.len() > PREDICATE_BYTES {
            return Err(PredicateFault::Size { bytes: source.len(), limit: PREDICATE_BYTES });
        }
        // Parsed, checked and, where refused, dropped on this thread: all three recurse as deep as the text nests.
        let (expr, reads) = thread::scope(|scope| {
            thread::Builder::new()
                .name("predicate".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || parse(source))
                .map_err(|error| PredicateFault::Parser(error.to_string()))?
                .join()
                .unwrap_or_else(|_| Err(PredicateFault::Parser("the parser panicked".to_owned())))
        })?;
        Ok(Self { source: source.into(), expr: Arc::new(expr), reads })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it looks at.
    #[must_use]
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Evaluates it: the same inputs always give the same outcome.
    #[must_use]
    pub fn evaluate(&self, inputs: &Inputs) -> Outcome {
        let verdict = catch_unwind(AssertUnwindSafe(|| self.truth(inputs)))
            .unwrap_or_else(|_| Err("could not be evaluated: the evaluator panicked".to_owned()));
        match verdict {
            Ok(true) => Outcome::Holds,
            Ok(false) => Outcome::Fails(bounded(format!("'{}' is false", self.source))),
            Err(problem) => Outcome::Fails(bounded(format!("'{}' {problem}", self.source))),
        }
    }

    fn truth(&self, inputs: &Inputs) -> Result<bool, String> {
        let view = View::new(inputs);
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.set_variable_resolver(&view);
        let value = Value::resolve_val(&self.expr, &context);
        if view.meter.is_exhausted() {
            return Err(failure(&exhausted()));
        }
        let value = value.map_err(|error| failure(&error))?;
        value
            .downcast_ref::<CelBool>()
            .map(|truth| *truth.inner())
            .ok_or_else(|| format!("is {}, neither true nor false", value.get_type().name()))
    }
}

/// Judges the predicates of a submission for [`dat_plan::check`].
#[derive(Debug, Clone, Copy, Default)]
pub struct CelCheck;

impl PredicateCheck for CelCheck {
    fn check(&self, expression: &str) -> Result<(), String> {
        Predicate::compile(expression).map(|_| ()).map_err(|fault| fault.to_string())
    }
}

fn failure(error: &ExecutionError) -> String {
    format!("could not be evaluated: {error}")
}

fn bounded(reason: String) -> String {
    match reason.char_indices().nth(REASON_CHARS) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason,
    }
}

fn parse(source: &str) -> Result<(IdedExpr, Reads), PredicateFault> {
    let parser = ENVIRONMENT.parser().max_recursion_depth(BRACKETS);
    let (expr, info) = parser.parse_with_source_info(source).map_err(|errors| syntax(&errors))?;
    let reads = typing::check(&expr, &info)?;
    Ok((expr, reads))
}

fn syntax(errors: &cel::ParseErrors) -> PredicateFault {
    let Some(error) = errors.errors.first() else {
        return PredicateFault::Parser("the parser gave no reason".to_owned());
    };
    if error.msg.contains("Recursion limit") {
        return PredicateFault::TooComplex { what: format!("brackets nest more than {BRACKETS} deep") };
    }
    let from_one = |place: isize| usize::try_from(place).unwrap_or(1).max(1);
    PredicateFault::Syntax {
        at: Place { line: from_one(error.pos.0), column: from_one(error.pos.1) },
        message: bounded(error.msg.clone()),
    }
}
