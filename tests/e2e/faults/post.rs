//! The post between DAT and MUX: each request is brought twice, and so is each answer; or each is swapped with the one
//! behind it, where there is one.
//!
//! MUX's queue is taken from its exchange and bound to another, with this in between: no side knows.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dat_tests::Fleet;
use dat_topology::{Exchange, Outside, Topology, key};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// So long is waited for a neighbour; who has none goes as it came.
const NEIGHBOUR: Duration = Duration::from_millis(5);

/// The exchange that MUX's queue is bound to meanwhile.
const BEHIND: &str = "post";

/// How things are brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Twice,
    Swapped,
}

/// Brings requests and answers for as long as this is there.
pub(super) struct Post {
    connection: Connection,
    brought: Arc<Brought>,
}

/// How many came twice, or before the one that they came behind.
#[derive(Default)]
struct Brought {
    requests: AtomicU64,
    answers: AtomicU64,
}

impl Post {
    /// Stands between a fleet and its MUX from now on.
    pub(super) async fn between(fleet: &Fleet, manner: Manner) -> Self {
        let realm = fleet.realm();
        let connection = Connection::connect(&realm.amqp_url, ConnectionProperties::default());
        let connection = connection.await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        let topology = Topology::new(realm.namespace.as_deref());
        let mux: ShortString = topology.exchange(Exchange::Mux).name().into();
        let actions: ShortString = topology.queue(Outside::MuxActions).name().into();
        let any = || ShortString::from(key::ANY);
        let behind = || ShortString::from(BEHIND);
        let (none, durable) =
            (FieldTable::default, ExchangeDeclareOptions { durable: true, ..Default::default() });
        channel.exchange_declare(behind(), ExchangeKind::Topic, durable, none()).await.expect("declared");
        let bind = QueueBindOptions::default();
        channel.queue_bind(actions.clone(), behind(), any(), bind, none()).await.expect("bound");
        let requests = own_queue(&channel).await;
        channel.queue_bind(requests.clone(), mux.clone(), any(), bind, none()).await.expect("bound");
        channel.queue_unbind(actions, mux, any(), none()).await.expect("unbound");
        let answers = own_queue(&channel).await;
        let post = Self { connection, brought: Arc::default() };
        let askers = Arc::new(Mutex::new(HashMap::new()));
        let (out, back) = (consume(&channel, &requests).await, consume(&channel, &answers).await);
        tokio::spawn(bring_requests(
            channel.clone(),
            out,
            manner,
            answers,
            Arc::clone(&askers),
            Arc::clone(&post.brought),
        ));
        tokio::spawn(bring_answers(channel, back, manner, askers, Arc::clone(&post.brought)));
        post
    }

    /// Stands back; gives how many requests and answers came otherwise than they were sent.
    pub(super) async fn stand_back(self, fleet: &Fleet) -> (u64, u64) {
        let realm = fleet.realm();
        let channel = self.connection.create_channel().await.expect("a channel");
        let topology = Topology::new(realm.namespace.as_deref());
        let (mux, actions) = (topology.exchange(Exchange::Mux), topology.queue(Outside::MuxActions));
        let (bind, none) = (QueueBindOptions::default(), FieldTable::default);
        let bound =
            channel.queue_bind(actions.name().into(), mux.name().into(), key::ANY.into(), bind, none());
        bound.await.expect("bound");
        let unbound = channel.queue_unbind(actions.name().into(), BEHIND.into(), key::ANY.into(), none());
        unbound.await.expect("unbound");
        self.connection.close(200, "done".into()).await.expect("closed");
        (self.brought.requests.load(Ordering::Relaxed), self.brought.answers.load(Ordering::Relaxed))
    }
}

/// Whom to answer, by the correlation id that DAT gave.
type Askers = Arc<Mutex<HashMap<String, ShortString>>>;

async fn bring_requests(
    channel: Channel,
    mut requests: Consumer,
    manner: Manner,
    answers: ShortString,
    askers: Askers,
    brought: Arc<Brought>,
) {
    while let Some(bundle) = next(&mut requests, manner, &brought.requests).await {
        for request in bundle {
            let properties = request.properties.clone();
            let asker = properties.reply_to().clone().expect("every request names a queue");
            let id = properties.correlation_id().clone().expect("and has an id");
            askers.lock().await.insert(id.to_string(), asker);
            let properties = properties.with_reply_to(answers.clone());
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish(
                BEHIND.into(),
                request.routing_key.clone(),
                options,
                &request.data,
                properties,
            );
            if sent.await.is_err() {
                return;
            }
        }
    }
}

async fn bring_answers(
    channel: Channel,
    mut answers: Consumer,
    manner: Manner,
    askers: Askers,
    brought: Arc<Brought>,
) {
    while let Some(bundle) = next(&mut answers, manner, &brought.answers).await {
        for answer in bundle {
            let id = answer.properties.correlation_id().clone().unwrap_or_default().to_string();
            let Some(asker) = askers.lock().await.get(&id).cloned() else { continue };
            let (options, properties) = (BasicPublishOptions::default(), answer.properties.clone());
            // Whoever asked may be gone, and its queue with it.
            if channel.basic_publish("".into(), asker, options, &answer.data, properties).await.is_err() {
                return;
            }
        }
    }
}

/// What is brought.
#[derive(Clone)]
struct Letter {
    routing_key: ShortString,
    properties: BasicProperties,
    data: Vec<u8>,
}

impl Letter {
    fn of(delivery: Delivery) -> Self {
        let Delivery { routing_key, properties, data, .. } = delivery;
        Self { routing_key, properties, data }
    }
}

/// What is brought next, in the order in which it is.
async fn next(from: &mut Consumer, manner: Manner, counted: &AtomicU64) -> Option<Vec<Letter>> {
    let first = Letter::of(from.next().await?.ok()?);
    let behind = match manner {
        Manner::Twice => None,
        Manner::Swapped => timeout(NEIGHBOUR, from.next()).await.ok().flatten().and_then(Result::ok),
    };
    Some(match (manner, behind) {
        (Manner::Twice, _) => {
            counted.fetch_add(1, Ordering::Relaxed);
            vec![first.clone(), first]
        }
        (Manner::Swapped, Some(behind)) => {
            counted.fetch_add(1, Ordering::Relaxed);
            vec![Letter::of(behind), first]
        }
        (Manner::Swapped, None) => vec![first],
    })
}

async fn own_queue(channel: &Channel) -> ShortString {
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("".into(), options, FieldTable::default()).await.expect("a queue").name().clone()
}

async fn consume(channel: &Channel, queue: &ShortString) -> Consumer {
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consuming = channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default());
    consuming.await.expect("consuming")
}
