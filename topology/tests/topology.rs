//! The topology against a real broker, each test in a virtual host of its own.
//!
//! Needs `AMQP_URL` and `AMQP_MANAGEMENT_URL`: `eval "$(make -s env)"`, or `make test`.

mod broker;

use std::time::Duration;

use dat_topology::{ApplyError, DELIVERY_LIMIT, Exchange, Queue, Stage, Topology, key, vhost_of};
use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ExchangeKind};
use serde_json::json;
use tokio::time::{sleep, timeout};

use broker::Broker;

async fn drifts(broker: &Broker, topology: &Topology) -> Vec<String> {
    let drifts =
        topology.verify(&broker.management_url, &broker.vhost).await.expect("the management API answers");
    drifts.iter().map(ToString::to_string).collect()
}

async fn applied(broker: &Broker, topology: &Topology) -> (Connection, Channel) {
    topology.apply(&broker.amqp_url).await.expect("applied");
    assert_eq!(drifts(broker, topology).await, Vec::<String>::new());
    broker.channel().await
}

async fn delete_queue(channel: &Channel, queue: &str) {
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
}

async fn delete_exchange(channel: &Channel, exchange: &str) {
    channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.expect("deleted");
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, routing_key: &str) {
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel
        .queue_bind(queue.into(), exchange.into(), routing_key.into(), options, none)
        .await
        .expect("bound");
}

#[tokio::test]
async fn applying_twice_changes_nothing_and_namespaces_stay_apart() {
    let broker = Broker::new("apply");
    assert_eq!(vhost_of(&broker.amqp_url).expect("an address"), broker.vhost);
    let (plain, blue) = (Topology::new(None), Topology::new(Some("blue")));
    let (_connection, channel) = applied(&broker, &plain).await;
    plain.apply(&broker.amqp_url).await.expect("applied again");
    assert!(!drifts(&broker, &blue).await.is_empty(), "the namespace is not there yet");
    blue.apply(&broker.amqp_url).await.expect("applied");
    delete_queue(&channel, plain.queue(Stage::StepDispatch).name()).await;
    assert_eq!(drifts(&broker, &blue).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_others_do_with_shared_exchanges_is_no_drift() {
    let broker = Broker::new("others");
    let (dat, sandbox) = (Topology::new(None), Topology::sandbox(None));
    let (_connection, channel) = applied(&broker, &dat).await;
    sandbox.apply(&broker.amqp_url).await.expect("applied");
    assert_eq!(drifts(&broker, &sandbox).await, Vec::<String>::new());
    let options = QueueDeclareOptions::durable();
    channel.queue_declare("a.producer".into(), options, FieldTable::default()).await.expect("declared");
    for exchange in [Exchange::Events, Exchange::Dead, Exchange::Plans] {
        bind(&channel, "a.producer", dat.exchange(exchange).name(), key::ANY).await;
    }
    assert_eq!(drifts(&broker, &dat).await, Vec::<String>::new());
}

#[tokio::test]
async fn every_kind_of_drift_is_named_and_what_apply_can_repair_it_repairs() {
    let broker = Broker::new("drift");
    let topology = Topology::new(None);
    let (_connection, channel) = applied(&broker, &topology).await;
    let none = FieldTable::default;

    let unbinding =
        channel.queue_unbind("plan.rejected".into(), "dat.plans".into(), key::PLAN_REVOKED.into(), none());
    unbinding.await.expect("unbound");
    bind(&channel, "plan.submitted", "dat.events", key::ANY).await;
    delete_queue(&channel, "plan.approved.dead").await;
    delete_exchange(&channel, "flo").await;
    delete_exchange(&channel, "pte").await;
    let options = ExchangeDeclareOptions::default();
    channel.exchange_declare("pte".into(), ExchangeKind::Direct, options, none()).await.expect("declared");
    delete_queue(&channel, "step.failed").await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(5));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(10));
    let options = QueueDeclareOptions::durable();
    channel.queue_declare("step.failed".into(), options, arguments).await.expect("declared");

    let found = drifts(&broker, &topology).await;
    let expected = [
        "exchange flo is missing: apply the topology",
        "exchange pte has type \"direct\", expected \"topic\"",
        "exchange pte has durable false, expected true",
        "queue step.failed has x-dead-letter-exchange null, expected \"dat.dead\"",
        "queue step.failed has x-dead-letter-routing-key null, expected \"step.failed\"",
        "queue step.failed has x-dead-letter-strategy null, expected \"at-least-once\"",
        "queue step.failed has x-delivery-limit 5, expected 20",
        "queue step.failed has x-overflow null, expected \"reject-publish\"",
        "queue step.failed has an unknown argument x-max-length 10",
        "queue plan.approved.dead is missing: apply the topology",
        "binding dat.events -> plan.submitted by # is not ours: remove it, or say who needs it",
        "binding dat.plans -> plan.rejected by plan.revoked is missing: apply the topology",
        "binding dat.steps -> step.failed by step.failed is missing: apply the topology",
        "binding dat.dead -> plan.approved.dead by plan.approved is missing: apply the topology",
    ];
    assert_eq!(found, expected);

    let conflicts = match topology.apply(&broker.amqp_url).await {
        Err(ApplyError::Conflicts(conflicts)) => conflicts,
        other => panic!("expected conflicts: {other:?}"),
    };
    let said = conflicts.to_string();
    assert_eq!(conflicts.0.len(), 2, "all of them at once: {said}");
    assert!(said.contains("exchange pte exists with another type"), "{said}");
    assert!(said.contains("queue step.failed exists with another x-"), "{said}");

    delete_exchange(&channel, "pte").await;
    delete_queue(&channel, "step.failed").await;
    topology.apply(&broker.amqp_url).await.expect("applied");
    let left = drifts(&broker, &topology).await;
    assert_eq!(left, [expected[10]], "what apply must not touch");
}

#[tokio::test]
async fn a_policy_that_loses_messages_is_named() {
    let broker = Broker::new("policy");
    let topology = Topology::new(None);
    let (_connection, _channel) = applied(&broker, &topology).await;
    broker.put_policy("^plan\\.approved$", &json!({ "message-ttl": 1000 }));
    // The management API shows the policy of a quorum queue with the queue's next statistics, after 5 s.
    let found = timeout(Duration::from_secs(30), async {
        loop {
            match drifts(&broker, &topology).await {
                none if none.is_empty() => sleep(Duration::from_millis(200)).await,
                found => break found,
            }
        }
    });
    let expected =
        "queue plan.approved is under policy test, which sets message-ttl 1000: messages can be lost";
    assert_eq!(found.await.expect("a drift"), [expected]);
}

#[tokio::test]
async fn a_message_that_used_up_its_deliveries_is_parked_in_the_queue_of_its_own() {
    let broker = Broker::new("park");
    let topology = Topology::new(Some("blue"));
    let (_connection, channel) = applied(&broker, &topology).await;
    let consume = async |queue: &str| {
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        channel.basic_consume(queue.into(), "".into(), options, none).await.expect("consuming")
    };
    let mut parked = consume(topology.queue(Queue::Dead(Stage::PlanSubmitted)).name()).await;
    let mut work = consume(topology.queue(Stage::PlanSubmitted).name()).await;
    let exchange = ShortString::from(topology.exchange(Exchange::Plans).name());
    let (key, options) = (ShortString::from(key::PLAN_SUBMITTED), BasicPublishOptions::default());
    channel.basic_publish(exchange, key, options, b"poison", BasicProperties::default()).await.expect("sent");

    let mut deliveries = 0;
    let parked = loop {
        let next = async {
            tokio::select! {
                Some(Ok(delivery)) = work.next() => {
                    let requeue = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                    delivery.nack(requeue).await.expect("handed back");
                    None
                }
                Some(Ok(delivery)) = parked.next() => Some(delivery),
            }
        };
        match timeout(Duration::from_secs(30), next).await.expect("the message is in one of the queues") {
            Some(parked) => break parked,
            None => deliveries += 1,
        }
    };
    assert_eq!(deliveries, DELIVERY_LIMIT + 1);
    assert_eq!(parked.data, b"poison");
    assert_eq!(parked.routing_key.as_str(), "blue.plan.submitted");
}

#[tokio::test]
async fn an_address_that_cannot_work_is_refused_by_name() {
    let topology = Topology::new(None);
    let applied = topology.apply("amqp://nobody:wrong@127.0.0.1:1/%2f").await;
    assert!(matches!(&applied, Err(ApplyError::Connect(_))), "{applied:?}");
    let verified = topology.verify("nowhere", "/").await.expect_err("no address");
    assert!(verified.to_string().contains("AMQP_MANAGEMENT_URL"), "{verified}");
}
