//! The topology to read.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::queue::Argument;
use crate::topology::Topology;

impl Topology {
    /// The topology as a table.
    #[must_use]
    pub fn print(&self) -> String {
        let (exchanges, queues, bindings) = (self.exchanges(), self.queues(), self.bindings());
        let names =
            exchanges.iter().map(|exchange| &exchange.name).chain(queues.iter().map(|queue| &queue.name));
        let width = names.map(String::len).max().unwrap_or(0);
        let mut text = String::from("EXCHANGES (durable)\n");
        // Writing to a string cannot fail.
        for exchange in &exchanges {
            let _ = writeln!(text, "  {:width$}  {}", exchange.name, exchange.kind.as_str());
        }
        text.push_str("\nQUEUES (durable)\n");
        for queue in &queues {
            let arguments =
                queue.arguments.iter().map(|(name, value)| format!("{}={}", short(name), shown(value)));
            let _ = writeln!(text, "  {:width$}  {}", queue.name, arguments.collect::<Vec<_>>().join(" "));
        }
        text.push_str("\nBINDINGS\n");
        for binding in &bindings {
            let _ = writeln!(
                text,
                "  {:width$}  -> {:width$}  {}",
                binding.exchange, binding.queue, binding.routing_key
            );
        }
        text
    }

    /// The topology for a program.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "exchanges": self.exchanges(), "queues": self.queues(), "bindings": self.bindings() })
    }
}

fn short(argument: &str) -> &str {
    argument.strip_prefix("x-").unwrap_or(argument)
}

fn shown(value: &Argument) -> String {
    match value {
        Argument::Text(text) => text.clone(),
        Argument::Number(number) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_part() {
        let topology = Topology::new(Some("blue"));
        let table = topology.print();
        for exchange in topology.exchanges() {
            assert!(table.contains(exchange.name()), "{table}");
        }
        for queue in topology.queues() {
            assert!(table.contains(queue.name()), "{table}");
        }
        assert!(table.contains("delivery-limit=20"), "{table}");
    }

    #[test]
    fn the_json_holds_arguments_as_the_broker_shows_them() {
        let json = Topology::new(None).to_json();
        assert_eq!(json["queues"][0]["arguments"]["x-delivery-limit"], 20);
        assert_eq!(json["exchanges"][7], json!({ "name": "dat.control", "kind": "fanout" }));
    }
}
