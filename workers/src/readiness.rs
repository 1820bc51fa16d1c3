//! Readiness: a plan that needs more of a connector than it declares is refused when it is submitted, with every place
//! where it does. What a document says by itself is checked before ([`dat_plan::check`]).

use dat_connectors::{ActionDeclaration, Connectors};
use dat_plan::document::{RollbackKind, Step};
use dat_plan::{Fault, FaultCode, PlanDocument};
use serde_json::{Map, Value};

/// What of a plan this fleet's connectors do not declare.
pub(crate) fn faults(document: &PlanDocument, connectors: &Connectors) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, step) in document.steps.iter().enumerate() {
        let place = format!("/steps/{index}");
        declared(connectors, &place, &step.connector, (&step.action, &step.parameters), &mut faults);
        undo(connectors, &place, step, &mut faults);
    }
    if document.rollback.kind == RollbackKind::Compensating {
        for (index, step) in document.rollback.steps.iter().enumerate() {
            let place = format!("/rollback/steps/{index}");
            let asked = (step.action.as_str(), &step.parameters);
            compensates(connectors, &place, &step.connector, asked, &mut faults);
        }
    }
    faults
}

fn undo(connectors: &Connectors, place: &str, step: &Step, faults: &mut Vec<Fault>) {
    let Some(undo) = &step.compensation else { return };
    let place = format!("{place}/compensation");
    let connector = undo.connector.as_deref().unwrap_or(&step.connector);
    compensates(connectors, &place, connector, (&undo.action, &undo.parameters), faults);
}

fn compensates(
    connectors: &Connectors,
    place: &str,
    connector: &str,
    asked: (&str, &Map<String, Value>),
    faults: &mut Vec<Fault>,
) {
    let Some(declared) = declared(connectors, place, connector, asked, faults) else { return };
    if !declared.can_compensate {
        let message = format!(
            "connector {connector} does not declare that {} can undo: it must be one that can be repeated or probed",
            asked.0
        );
        faults.push(Fault::new(format!("{place}/action"), FaultCode::NoWayBack, message));
    }
}

/// What is declared of an action, if it is.
fn declared(
    connectors: &Connectors,
    place: &str,
    connector: &str,
    (action, parameters): (&str, &Map<String, Value>),
    faults: &mut Vec<Fault>,
) -> Option<ActionDeclaration> {
    // That there is the connector is checked before.
    let Some(declared) = connectors.get(connector)?.action(action) else {
        let message = format!("connector {connector} has no action {action}");
        faults.push(Fault::new(format!("{place}/action"), FaultCode::UnknownValue, message));
        return None;
    };
    // All of them may be a reference: what is in it is known when it runs.
    let absent = |name: &&String| !parameters.contains_key(*name) && !parameters.contains_key("$from");
    for name in declared.parameters.iter().filter(absent) {
        let message = format!("action {action} cannot be asked for without the parameter {name}");
        faults.push(Fault::new(format!("{place}/parameters"), FaultCode::Missing, message));
    }
    Some(declared)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dat_connectors::{Echo, Http, http::HttpSettings};
    use dat_plan::clock::SystemClock;
    use serde_json::json;

    use super::*;

    fn connectors() -> Connectors {
        let settings: HttpSettings = serde_json::from_value(json!({
            "host": [{"authority": "h:443"}],
            "action": [
                {"name": "order.create", "method": "POST", "url": "https://h/orders/{sku}", "body": {"n": "{count}"}},
                {"name": "order.delete", "method": "DELETE", "url": "https://h/orders/{id}"},
            ],
        }))
        .expect("settings");
        let http = Http::new(&settings, Arc::new(SystemClock), &|_| None).expect("a connector");
        Connectors::default().with(Echo).with(http)
    }

    fn found(steps: &Value) -> Vec<(String, FaultCode)> {
        let document = serde_json::from_value(json!({
            "plan_id": "0199d3a4-7c1e-7b1a-9c44-0a3f5d0c7421", "plan_version": 1, "tenant": "acme", "name": "n",
            "budget": {"amount": 1, "currency": "usd"}, "steps": steps,
        }))
        .expect("a plan");
        faults(&document, &connectors()).into_iter().map(|fault| (fault.pointer, fault.code)).collect()
    }

    #[test]
    fn a_plan_that_needs_more_than_is_declared_is_refused_at_every_place() {
        let all = json!({"sku": "X", "count": 1});
        let undo = json!({"action": "order.delete", "parameters": {"id": {"$from": "a", "path": "/id"}}});
        let good = json!([
            {"key": "a", "connector": "http", "action": "order.create", "parameters": all, "compensation": undo},
            {"key": "b", "connector": "http", "action": "order.create", "irreversible": true,
             "parameters": {"$from": "a", "path": "/order"}},
            {"key": "c", "connector": "echo", "action": "anything.at.all", "irreversible": true},
        ]);
        assert_eq!(found(&good), []);
        let bad = json!([
            {"key": "a", "connector": "http", "action": "order.creat", "irreversible": true},
            {"key": "b", "connector": "http", "action": "order.create", "parameters": {"sku": "X"},
             "compensation": {"action": "order.create", "parameters": all}},
            {"key": "c", "connector": "echo", "action": "x", "compensation": {"action": "y", "connector": "http"}},
        ]);
        assert_eq!(
            found(&bad),
            [
                ("/steps/0/action".to_owned(), FaultCode::UnknownValue),
                ("/steps/1/parameters".to_owned(), FaultCode::Missing),
                ("/steps/1/compensation/action".to_owned(), FaultCode::NoWayBack),
                ("/steps/2/compensation/action".to_owned(), FaultCode::UnknownValue),
            ]
        );
    }
}
