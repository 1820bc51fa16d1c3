//! The published JSON Schemas, generated from the types.

use serde_json::Value;

use crate::approval::Verdict;
use crate::document::PlanDocument;

/// The JSON Schema of a plan document.
#[must_use]
pub fn plan_document() -> Value {
    schemars::schema_for!(PlanDocument).to_value()
}

/// The JSON Schema of a verdict.
#[must_use]
pub fn verdict() -> Value {
    schemars::schema_for!(Verdict).to_value()
}
