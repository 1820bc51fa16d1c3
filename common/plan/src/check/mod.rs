//! The checks: a body from outside either becomes a plan or a verdict, or every fault in it is listed.
//!
//! A parser stops at the first fault; here a value is read as far as it goes, and each rule of the contract that can
//! be judged is judged, so that a producer repairs a document in one round. Rules that build on others (the order of
//! steps, references between them) skip only what another fault has made meaningless.

mod ancestry;
mod constraint;
mod counted;
mod cycle;
mod limit;
mod node;
mod plan;
mod predicate;
mod readiness;
mod reference;
mod relation;
mod step;
mod verdict;

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use crate::approval::{Readiness, Verdict};
use crate::constraint::ConstraintDocument;
use crate::document::PlanDocument;
use crate::fault::{Fault, FaultCode};
use crate::graph::Graph;
use crate::hash::PlanHash;
use crate::json::{self, Faults, Place};
use crate::limits_document::LimitsDocument;
use node::Node;
use predicate::Predicates;

/// What a document is checked against besides the contract itself.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The names of the connectors that this fleet has.
    pub connectors: &'a BTreeSet<String>,
    /// Judges predicates.
    pub predicates: &'a dyn PredicateCheck,
}

/// Judges predicates without running them.
pub trait PredicateCheck: Send + Sync + std::fmt::Debug {
    /// Whether an expression compiles, names only what a predicate can see, and is boolean.
    ///
    /// Fails with a sentence for people.
    fn check(&self, expression: &str) -> Result<(), String>;
}

/// A plan that passed every check.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The document, defaults filled in.
    pub document: PlanDocument,
    /// The document as submitted: what is hashed, stored and shown to the approver.
    pub value: Value,
    /// The hash that an approval must name.
    pub hash: PlanHash,
    /// The order of its steps.
    pub graph: Graph,
    /// The report that goes to the approver with it.
    pub readiness: Readiness,
}

/// A verdict that passed every check of its form. Whether it fits a plan is decided where it is bound.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedVerdict {
    /// The verdict.
    pub verdict: Verdict,
    /// The verdict as sent: what its signature is over.
    pub value: Value,
}

/// Checks the body of `plan.submitted`.
///
/// Fails with every fault found, at least one and at most 1,000, in the order of the document.
pub fn plan(body: &[u8], rules: &Rules<'_>) -> Result<Checked, Vec<Fault>> {
    let mut check = Check::new(*rules);
    let value = json::read(body, &mut check.faults)?;
    plan::read(Node::root(&value), &mut check);
    relation::read(&value, &mut check.faults);
    let document: PlanDocument = check.finish(&value)?;
    let whole = |message: String| vec![Fault::new("", FaultCode::WrongType, message)];
    let hash = PlanHash::of(&value).map_err(|error| whole(error.to_string()))?;
    let graph = Graph::of(&document).map_err(|error| whole(error.to_string()))?;
    let readiness = readiness::report(&document, &graph);
    Ok(Checked { document, value, hash, graph, readiness })
}

/// Checks the body of `plan.approved`, `plan.rejected` and `plan.revoked`.
///
/// Fails as [`plan`] does.
pub fn verdict(body: &[u8], rules: &Rules<'_>) -> Result<CheckedVerdict, Vec<Fault>> {
    let mut check = Check::new(*rules);
    let value = json::read(body, &mut check.faults)?;
    verdict::read(Node::root(&value), &mut check);
    let verdict = check.finish(&value)?;
    Ok(CheckedVerdict { verdict, value })
}

/// An operator's constraint document that passed every check.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedConstraints {
    /// The document, defaults filled in.
    pub document: ConstraintDocument,
    /// The document as given: what is hashed and stored.
    pub value: Value,
    /// SHA-256 over its RFC 8785 form: what decisions, packages and verdicts name it by.
    pub hash: PlanHash,
}

/// Checks an operator's constraint document.
///
/// Fails as [`plan`] does.
pub fn constraint_document(body: &[u8], rules: &Rules<'_>) -> Result<CheckedConstraints, Vec<Fault>> {
    let mut check = Check::new(*rules);
    let value = json::read(body, &mut check.faults)?;
    constraint::read_document(Node::root(&value), &mut check);
    let document = check.finish(&value)?;
    let hash = PlanHash::of(&value)
        .map_err(|error| vec![Fault::new("", FaultCode::WrongType, error.to_string())])?;
    Ok(CheckedConstraints { document, value, hash })
}

/// Checks an operator's document of tenants' limits.
///
/// Fails as [`plan`] does.
pub fn limits_document(body: &[u8]) -> Result<LimitsDocument, Vec<Fault>> {
    let mut faults = Faults::default();
    let value = json::read(body, &mut faults)?;
    limit::read_document(Node::root(&value), &mut faults);
    if faults.is_empty() {
        match LimitsDocument::deserialize(&value) {
            Ok(document) => return Ok(document),
            Err(error) => faults.add(&Place::ROOT, FaultCode::WrongType, error.to_string()),
        }
    }
    Err(faults.into_list())
}

/// One check under way.
#[derive(Debug)]
struct Check<'r> {
    rules: Rules<'r>,
    faults: Faults,
    predicates: Predicates,
}

impl<'r> Check<'r> {
    fn new(rules: Rules<'r>) -> Self {
        Self { rules, faults: Faults::default(), predicates: Predicates::default() }
    }

    /// The value as its type, or the faults. What the checks pass, the type can be read from; should the two ever
    /// disagree, that is a fault of the whole document and no panic.
    fn finish<'v, T: Deserialize<'v>>(mut self, value: &'v Value) -> Result<T, Vec<Fault>> {
        if self.faults.is_empty() {
            match T::deserialize(value) {
                Ok(read) => return Ok(read),
                Err(error) => self.faults.add(&Place::ROOT, FaultCode::WrongType, error.to_string()),
            }
        }
        Err(self.faults.into_list())
    }
}
