//! The published JSON Schemas, generated from the types.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::approval::Verdict;
use crate::constraint::ConstraintDocument;
use crate::document::PlanDocument;
use crate::event::{Destination, EventKind};
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

/// The JSON Schema of an event as it is published: a `CloudEvents` 1.0 envelope, of one of these destinations' kinds.
#[must_use]
pub fn event(destination: Destination) -> Value {
    let kinds = EventKind::all().into_iter().filter(|kind| kind.destinations().contains(&destination));
    let types: BTreeSet<String> = kinds.map(|kind| format!("dat.{}", kind.routing_key())).collect();
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event",
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "sequence", "datacontenttype", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": text("`plan_id/version/sequence`: the same however often it is sent. Dedupe by it."),
            "source": {"const": "dat"},
            "type": {"enum": types},
            "subject": text("The plan's id, or `control`."),
            "time": {"type": "string", "format": "date-time"},
            "sequence": {"type": "string", "pattern": "^[1-9][0-9]*$",
                         "description": "Its place in the log of its plan version, without a gap."},
            "datacontenttype": {"const": "application/json"},
            "traceparent": text("W3C trace context, in batches; a message alone has it as a header."),
            "data": {
                "type": "object",
                "description": "What every event of a plan has, and fields of its kind.",
                "properties": {
                    "plan_id": {"type": "string", "format": "uuid"},
                    "plan_version": {"type": "integer", "minimum": 1},
                    "tenant": {"type": "string"},
                    "step": {"type": "string"},
                    "attempt": {"type": "integer", "minimum": 0},
                    "reason": {"type": "string"},
                    "amount": {"type": "integer", "description": "In the smallest unit of `currency`."},
                    "currency": {"type": "string"},
                },
            },
        },
    })
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
