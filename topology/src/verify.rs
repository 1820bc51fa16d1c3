//! Comparing a broker with the code.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::drift::{Drift, Part};
use crate::exchange::ExchangeSpec;
use crate::management::{FoundBinding, FoundExchange, FoundQueue, Management, ManagementError};
use crate::queue::QueueSpec;
use crate::topology::{BindingSpec, Topology};

/// What a policy may set that an argument of ours does not overrule, and that loses or refuses messages.
const HARMFUL_SETTINGS: [&str; 4] = ["expires", "max-length", "max-length-bytes", "message-ttl"];

impl Topology {
    /// Names every difference between this topology and what a virtual host has. What others have there besides, also
    /// their bindings to our exchanges, is their own business; their bindings to our queues are not.
    pub async fn verify(&self, management_url: &str, vhost: &str) -> Result<Vec<Drift>, ManagementError> {
        let management = Management::new(management_url, vhost)?;
        let topology = self.clone();
        tokio::task::spawn_blocking(move || topology.compare(&management)).await?
    }

    fn compare(&self, management: &Management) -> Result<Vec<Drift>, ManagementError> {
        let mut drifts = Vec::new();
        for exchange in self.exchanges() {
            match management.exchange(&exchange.name)? {
                Some(found) => drifts.extend(exchange_drifts(&exchange, &found)),
                None => drifts.push(Drift::Missing(Part::Exchange(exchange.name))),
            }
        }
        let queues = self.queues();
        for queue in &queues {
            match management.queue(&queue.name)? {
                Some(found) => drifts.extend(queue_drifts(queue, &found)),
                None => drifts.push(Drift::Missing(Part::Queue(queue.name.clone()))),
            }
        }
        drifts.extend(binding_drifts(&queues, self.bindings(), management.bindings()?));
        Ok(drifts)
    }
}

fn exchange_drifts(expected: &ExchangeSpec, found: &FoundExchange) -> Vec<Drift> {
    let part = Part::Exchange(expected.name.clone());
    let properties = [
        ("type", json!(expected.kind), json!(found.kind)),
        ("durable", json!(true), json!(found.durable)),
        ("auto_delete", json!(false), json!(found.auto_delete)),
        ("internal", json!(false), json!(found.internal)),
    ];
    let mut drifts = property_drifts(&part, properties);
    drifts.extend(argument_drifts(&part, &BTreeMap::new(), &found.arguments));
    drifts
}

fn queue_drifts(expected: &QueueSpec, found: &FoundQueue) -> Vec<Drift> {
    let part = Part::Queue(expected.name.clone());
    let properties = [
        ("durable", json!(true), json!(found.durable)),
        ("auto_delete", json!(false), json!(found.auto_delete)),
        ("exclusive", json!(false), json!(found.exclusive)),
    ];
    let mut drifts = property_drifts(&part, properties);
    let arguments = expected.arguments.iter().map(|(name, value)| (*name, json!(value))).collect();
    drifts.extend(argument_drifts(&part, &arguments, &found.arguments));
    let policy = [found.policy.as_deref(), found.operator_policy.as_deref()].into_iter().flatten();
    let policy = policy.collect::<Vec<_>>().join(" and ");
    drifts.extend(HARMFUL_SETTINGS.iter().filter_map(|setting| {
        let found = found.effective_policy_definition.get(setting)?.clone();
        let (queue, policy) = (expected.name.clone(), policy.clone());
        Some(Drift::Policy { queue, policy, setting: (*setting).to_owned(), found })
    }));
    drifts
}

fn property_drifts<const N: usize>(part: &Part, properties: [(&str, Value, Value); N]) -> Vec<Drift> {
    properties
        .into_iter()
        .filter(|(_, expected, found)| expected != found)
        .map(|(property, expected, found)| Drift::Different {
            part: part.clone(),
            property: property.to_owned(),
            expected,
            found,
        })
        .collect()
}

fn argument_drifts(part: &Part, expected: &BTreeMap<&str, Value>, found: &Map<String, Value>) -> Vec<Drift> {
    let differing = expected.iter().filter_map(|(name, expected)| {
        let found = found.get(*name).unwrap_or(&Value::Null);
        (found != expected).then(|| Drift::Different {
            part: part.clone(),
            property: (*name).to_owned(),
            expected: expected.clone(),
            found: found.clone(),
        })
    });
    let unknown =
        found.iter().filter(|(name, _)| !expected.contains_key(name.as_str())).map(|(name, found)| {
            Drift::UnknownArgument { part: part.clone(), argument: name.clone(), found: found.clone() }
        });
    differing.chain(unknown).collect()
}

fn binding_drifts(queues: &[QueueSpec], expected: Vec<BindingSpec>, found: Vec<FoundBinding>) -> Vec<Drift> {
    let ours: Vec<BindingSpec> = found
        .into_iter()
        // Every queue is bound to the exchange without a name, by its own; nobody can change that.
        .filter(|binding| !binding.source.is_empty() && binding.destination_type == "queue")
        .filter(|binding| queues.iter().any(|queue| queue.name == binding.destination))
        .map(|binding| BindingSpec {
            exchange: binding.source,
            routing_key: binding.routing_key,
            queue: binding.destination,
        })
        .collect();
    let extra = ours.iter().filter(|binding| !expected.contains(binding)).cloned().map(Drift::ExtraBinding);
    let mut drifts: Vec<Drift> = extra.collect();
    drifts.extend(
        expected
            .into_iter()
            .filter(|binding| !ours.contains(binding))
            .map(|binding| Drift::Missing(Part::Binding(binding))),
    );
    drifts
}
