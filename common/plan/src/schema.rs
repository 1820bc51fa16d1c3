//! The published JSON Schemas, generated from the types.

use serde_json::{Value, json};

use crate::approval::Verdict;
use crate::constraint::ConstraintDocument;
use crate::document::PlanDocument;
use crate::limits_document::LimitsDocument;

/// The JSON Schema of a plan document. An optional field is absent, never `null`: a plan has one way to say a thing.
#[must_use]
pub fn plan_document() -> Value {
    let mut schema = schemars::schema_for!(PlanDocument).to_value();
    refuse_null(&mut schema);
    schema
}

/// The JSON Schema of a verdict.
#[must_use]
pub fn verdict() -> Value {
    schemars::schema_for!(Verdict).to_value()
}

/// The JSON Schema of an operator's constraint document; as in a plan, an optional field is absent, never `null`.
#[must_use]
pub fn constraint_document() -> Value {
    let mut schema = schemars::schema_for!(ConstraintDocument).to_value();
    refuse_null(&mut schema);
    schema
}

/// The JSON Schema of an operator's document of tenants' limits.
#[must_use]
pub fn limits_document() -> Value {
    schemars::schema_for!(LimitsDocument).to_value()
}

/// Takes `null` out of every choice of types.
fn refuse_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(refuse_null),
        Value::Object(fields) => {
            fields.values_mut().for_each(refuse_null);
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|one| one != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    fields.insert("type".to_owned(), only);
                }
            }
            let Some(Value::Array(choices)) = fields.get_mut("anyOf") else { return };
            choices.retain(|choice| *choice != json!({"type": "null"}));
            if let [Value::Object(only)] = choices.as_slice() {
                let only = only.clone();
                fields.remove("anyOf");
                fields.extend(only);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_no_null_and_keeps_its_types() {
        let schema = plan_document();
        assert!(!schema.to_string().contains("null"), "{schema}");
        assert_eq!(schema.pointer("/properties/insight/$ref"), Some(&json!("#/$defs/Insight")));
        assert_eq!(schema.pointer("/properties/deadline/type"), Some(&json!("string")));
    }
}
