//! The topology: which exchanges, queues and bindings there are, under which names.

use std::fmt;

use serde::Serialize;

use crate::exchange::{Exchange, ExchangeSpec};
use crate::queue::{Queue, QueueSpec};

/// A binding from an exchange to a queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BindingSpec {
    /// The exchange's name, namespace included.
    pub exchange: String,
    /// The key, or the pattern over keys.
    pub routing_key: String,
    /// The queue's name, namespace included.
    pub queue: String,
}

impl fmt::Display for BindingSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} by {}", self.exchange, self.queue, self.routing_key)
    }
}

/// Exchanges, queues and bindings that belong together. A namespace prefixes the names of exchanges and queues, so that
/// several fleets share a broker; routing keys stay as the contract has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    prefix: String,
    exchanges: &'static [Exchange],
    queues: &'static [Queue],
}

impl Topology {
    /// DAT's own.
    #[must_use]
    pub fn new(namespace: Option<&str>) -> Self {
        Self { prefix: prefix(namespace), exchanges: &Exchange::ALL, queues: &Queue::ALL }
    }

    /// What the systems around DAT consume, for the sandbox that stands in for them.
    #[must_use]
    pub fn sandbox(namespace: Option<&str>) -> Self {
        const EXCHANGES: [Exchange; 4] = [Exchange::Ggp, Exchange::Mux, Exchange::Flo, Exchange::Pte];
        Self { prefix: prefix(namespace), exchanges: &EXCHANGES, queues: &Queue::OUTSIDE }
    }

    /// How an exchange is declared, whether or not it is one of this topology's.
    #[must_use]
    pub fn exchange(&self, exchange: Exchange) -> ExchangeSpec {
        ExchangeSpec { name: format!("{}{}", self.prefix, exchange.base_name()), kind: exchange.kind() }
    }

    /// How a queue is declared, whether or not it is one of this topology's.
    #[must_use]
    pub fn queue(&self, queue: impl Into<Queue>) -> QueueSpec {
        let queue = queue.into();
        let name = format!("{}{}", self.prefix, queue.base_name());
        match queue {
            Queue::Work(_) => QueueSpec::work(name, self.exchange(Exchange::Dead).name()),
            Queue::Dead(_) | Queue::Outside(_) => QueueSpec::keeping(name),
        }
    }

    /// The exchanges.
    #[must_use]
    pub fn exchanges(&self) -> Vec<ExchangeSpec> {
        self.exchanges.iter().map(|exchange| self.exchange(*exchange)).collect()
    }

    /// The queues.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueSpec> {
        self.queues.iter().map(|queue| self.queue(*queue)).collect()
    }

    /// The bindings.
    #[must_use]
    pub fn bindings(&self) -> Vec<BindingSpec> {
        self.queues.iter().flat_map(|queue| self.bindings_of(*queue)).collect()
    }

    fn bindings_of(&self, queue: Queue) -> Vec<BindingSpec> {
        let binding = |(exchange, routing_key): (Exchange, &str)| BindingSpec {
            exchange: self.exchange(exchange).name,
            routing_key: routing_key.to_owned(),
            queue: self.queue(queue).name,
        };
        match queue {
            Queue::Dead(stage) => vec![binding((Exchange::Dead, self.queue(stage).name()))],
            queue => queue.sources().iter().copied().map(binding).collect(),
        }
    }
}

fn prefix(namespace: Option<&str>) -> String {
    match namespace {
        None | Some("") => String::new(),
        Some(namespace) => format!("{namespace}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Argument, Outside, Stage};

    #[test]
    fn a_work_queue_parks_at_least_once_under_its_own_name() {
        let queue = Topology::new(None).queue(Stage::PlanSubmitted);
        assert_eq!(queue.name(), "plan.submitted");
        assert_eq!(queue.arguments["x-dead-letter-routing-key"], Argument::from("plan.submitted"));
        assert_eq!(queue.arguments["x-dead-letter-strategy"], Argument::from("at-least-once"));
        // Without it the broker falls back to at-most-once, silently.
        assert_eq!(queue.arguments["x-overflow"], Argument::from("reject-publish"));
    }

    #[test]
    fn a_namespace_prefixes_names_and_the_keys_of_parked_messages_only() {
        let topology = Topology::new(Some("blue"));
        let bindings: Vec<String> = topology.bindings().iter().map(ToString::to_string).collect();
        assert!(bindings.contains(&"blue.dat.plans -> blue.plan.rejected by plan.revoked".to_owned()));
        assert!(
            bindings.contains(&"blue.dat.dead -> blue.step.failed.dead by blue.step.failed".to_owned()),
            "{bindings:?}"
        );
        let queue = topology.queue(Stage::StepFailed);
        assert_eq!(queue.arguments["x-dead-letter-exchange"], Argument::from("blue.dat.dead"));
        assert_eq!(queue.arguments["x-dead-letter-routing-key"], Argument::from("blue.step.failed"));
        assert_eq!(Topology::new(Some("")), Topology::new(None));
    }

    #[test]
    fn every_queue_has_one_name_and_at_least_one_binding() {
        for topology in [Topology::new(None), Topology::sandbox(None)] {
            let mut names: Vec<String> = topology.queues().into_iter().map(|queue| queue.name).collect();
            let bindings = topology.bindings();
            assert!(names.iter().all(|name| bindings.iter().any(|binding| binding.queue == *name)));
            names.sort();
            names.dedup();
            assert_eq!(names.len(), topology.queues().len());
        }
        assert_eq!(Queue::ALL.len(), 2 * Stage::ALL.len());
        assert_eq!(Topology::sandbox(None).queue(Outside::MuxActions).name(), "mux.actions");
    }

    #[test]
    fn a_stage_is_found_by_its_name() {
        for stage in Stage::ALL {
            assert_eq!(stage.as_str().parse(), Ok(stage));
        }
        assert!("plan.other".parse::<Stage>().is_err());
    }
}
