//! The messages as an `AsyncAPI` 3 document: every exchange that others publish to or bind a queue to, with the schema of what
//! goes over it. Made from the topology and the types, so that it cannot say anything else than they do.

use dat_plan::event::{Destination, EventKind};
use dat_plan::schema;
use dat_topology::{Exchange, Topology, key};
use serde_json::{Map, Value, json};

/// The schemas, as parts of one document.
const DRAFT: &str = "application/schema+json;version=draft-2020-12";

/// The document.
pub(crate) fn document() -> Value {
    let topology = Topology::new(None);
    let mut document = Document { topology, channels: Map::new(), operations: Map::new() };
    let plans = Exchange::Plans;
    document.receives("submitPlan", plans, key::PLAN_SUBMITTED, "plan", "A producer submits a plan.");
    for (operation, key, summary) in [
        ("approvePlan", key::PLAN_APPROVED, "Governance approves exactly one plan version."),
        ("rejectPlan", key::PLAN_REJECTED, "Governance rejects one."),
        ("revokeApproval", key::PLAN_REVOKED, "Governance takes an approval back."),
    ] {
        document.receives(operation, plans, key, "verdict", summary);
    }
    for (operation, exchange, message, summary) in [
        (
            "followPlans",
            Exchange::Events,
            "lifecycleEvent",
            "Whoever binds a queue follows lifecycles; the routing key is the type without `dat.`.",
        ),
        ("enterIntoLedger", Exchange::Flo, "financialEvent", "The financial ledger."),
        ("trackPerformance", Exchange::Pte, "performanceEvent", "The portfolio tracker."),
        ("askForApproval", Exchange::Ggp, "approvalRequest", "Governance is asked for a verdict."),
    ] {
        document.sends(operation, exchange, message, summary);
    }
    let messages = [
        ("plan", "A plan", schema::plan_document()),
        ("verdict", "A verdict", schema::verdict()),
        ("lifecycleEvent", "A lifecycle event", schema::event(Destination::Events)),
        ("financialEvent", "A financial event", schema::event(Destination::Flo)),
        ("performanceEvent", "A performance event", schema::event(Destination::Pte)),
        ("approvalRequest", "A request for approval", schema::event(Destination::Ggp)),
    ];
    let messages: Map<String, Value> = messages
        .map(|(name, title, schema)| (name.to_owned(), message(name, title, schema)))
        .into_iter()
        .collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "DAT",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Executes governed plans. Every message is UTF-8 JSON over AMQP 0-9-1; what goes out is \
                            CloudEvents 1.0, at least once: dedupe by `id`.",
        },
        "defaultContentType": "application/json",
        "channels": document.channels,
        "operations": document.operations,
        "components": {"messages": messages},
    })
}

struct Document {
    topology: Topology,
    channels: Map<String, Value>,
    operations: Map<String, Value>,
}

impl Document {
    /// DAT takes it: others publish it.
    fn receives(&mut self, operation: &str, exchange: Exchange, key: &str, message: &str, summary: &str) {
        self.add(operation, "receive", exchange, key, message, summary);
    }

    /// DAT publishes it, under the routing keys of its kinds.
    fn sends(&mut self, operation: &str, exchange: Exchange, message: &str, summary: &str) {
        self.add(operation, "send", exchange, "{kind}", message, summary);
    }

    fn add(
        &mut self,
        operation: &str,
        action: &str,
        exchange: Exchange,
        key: &str,
        message: &str,
        summary: &str,
    ) {
        let spec = self.topology.exchange(exchange);
        let channel = if action == "send" { spec.name().to_owned() } else { key.to_owned() };
        let mut described = json!({
            "address": key,
            "messages": {message: {"$ref": format!("#/components/messages/{message}")}},
            "bindings": {"amqp": {
                "is": "routingKey",
                "exchange": {"name": spec.name(), "type": "topic", "durable": true, "autoDelete": false},
                "bindingVersion": "0.3.0",
            }},
        });
        if action == "send" {
            described["parameters"] =
                json!({"kind": {"description": "The event's type without `dat.`.", "enum": kinds(exchange)}});
        }
        // A dot would have to be escaped in every reference.
        let channel = channel.replace('.', "_");
        self.operations.insert(
            operation.to_owned(),
            json!({
                "action": action,
                "summary": summary,
                "channel": {"$ref": format!("#/channels/{channel}")},
                "messages": [{"$ref": format!("#/channels/{channel}/messages/{message}")}],
            }),
        );
        self.channels.insert(channel, described);
    }
}

/// The routing keys of what goes over an exchange.
fn kinds(exchange: Exchange) -> Vec<String> {
    let destination = match exchange {
        Exchange::Flo => Destination::Flo,
        Exchange::Pte => Destination::Pte,
        Exchange::Ggp => Destination::Ggp,
        _ => Destination::Events,
    };
    let of = EventKind::all().into_iter().filter(|kind| kind.destinations().contains(&destination));
    of.map(EventKind::routing_key).collect()
}

fn message(name: &str, title: &str, mut schema: Value) -> Value {
    // So that its own references stay within it.
    schema["$id"] = json!(format!("urn:dat:{name}"));
    json!({
        "name": name,
        "title": title,
        "contentType": if name.ends_with("Event") || name == "approvalRequest" { "application/cloudevents+json" } else { "application/json" },
        "payload": {"schemaFormat": DRAFT, "schema": schema},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        fn look(value: &Value, whole: &Value) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| look(item, whole)),
                // A schema's own references are within it.
                Value::Object(fields) if fields.contains_key("schemaFormat") => {}
                Value::Object(fields) => {
                    if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                        assert!(whole.pointer(target.trim_start_matches('#')).is_some(), "{target}");
                    }
                    fields.values().for_each(|field| look(field, whole));
                }
                _ => {}
            }
        }
        let document = document();
        look(&document, &document);
        assert_eq!(document["channels"].as_object().map(Map::len), Some(8));
        assert_eq!(document["operations"].as_object().map(Map::len), Some(8));
    }
}
