//! A producer, as any AMQP client can be one: it submits plans and follows `dat.events`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dat_plan::PlanKey;
use dat_topology::{Exchange, Stage, Topology, key};
use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::announcement::{Announcement, EndState};
use crate::patience::{LOOK, PATIENCE, within};
use crate::realm::Realm;

/// Submits, and hears every event since it was made.
pub struct Producer {
    topology: Topology,
    channel: Channel,
    _connection: Connection,
    heard: watch::Receiver<usize>,
    events: Arc<Mutex<Vec<Announcement>>>,
    messages: Arc<AtomicUsize>,
}

/// A message to one of DAT's queues, as it is.
#[derive(Debug, Clone, Default)]
pub struct Submission {
    /// The body.
    pub body: Vec<u8>,
    /// The property `message_id`.
    pub message_id: Option<String>,
}

/// A message that was parked.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The body, as it came.
    pub body: Vec<u8>,
    /// The property `message_id`, as it came.
    pub message_id: Option<String>,
    /// `x-dat-reason`.
    pub reason: String,
    /// `x-dat-faults`.
    pub faults: Value,
    /// `x-dat-user`, where it is there.
    pub user: Option<String>,
}

impl Submission {
    /// A document, with nothing else.
    #[must_use]
    pub fn of(document: &Value) -> Self {
        Self { body: document.to_string().into_bytes(), ..Self::default() }
    }
}

impl Producer {
    /// Connects, and subscribes to every event before anything is published.
    pub(crate) async fn connect(realm: &Realm) -> Self {
        let topology = Topology::new(realm.namespace.as_deref());
        let connection = Connection::connect(&realm.amqp_url, ConnectionProperties::default())
            .await
            .expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let mut classic = FieldTable::default();
        classic.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
        let exclusive = QueueDeclareOptions::exclusive().auto_delete();
        let queue =
            channel.queue_declare("".into(), exclusive, classic).await.expect("a queue").name().clone();
        let exchange = topology.exchange(Exchange::Events).name().into();
        let bound = channel.queue_bind(
            queue.clone(),
            exchange,
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bound.await.expect("bound to the events");
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut consumer =
            channel.basic_consume(queue, "".into(), options, FieldTable::default()).await.expect("consuming");
        let events = Arc::new(Mutex::new(Vec::<Announcement>::new()));
        let (told, heard) = watch::channel(0);
        let collected = Arc::clone(&events);
        let messages = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&messages);
        tokio::spawn(async move {
            let mut ids = HashSet::new();
            while let Some(Ok(delivery)) = consumer.next().await {
                let came = Announcement::read_all(&delivery.data)
                    .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&delivery.data)));
                counted.fetch_add(1, Ordering::Relaxed);
                let mut events = collected.lock().unwrap_or_else(PoisonError::into_inner);
                // At least once: what is repeated is heard once.
                events.extend(came.into_iter().filter(|event| ids.insert(event.id.clone())));
                told.send_replace(events.len());
            }
        });
        Self { topology, channel, _connection: connection, heard, events, messages }
    }

    /// Submits a plan document; gives the version that it names.
    pub async fn submit(&self, document: &Value) -> PlanKey {
        self.submit_raw(Submission::of(document)).await;
        plan_of(document)
    }

    /// Publishes to `plan.submitted` what need not be a plan.
    pub async fn submit_raw(&self, submission: Submission) {
        self.publish(Exchange::Plans, key::PLAN_SUBMITTED, submission).await;
    }

    /// Publishes to an exchange of the contract, and waits for the broker's confirm.
    pub async fn publish(&self, exchange: Exchange, routing_key: &str, submission: Submission) {
        let mut properties = BasicProperties::default().with_content_type("application/json".into());
        if let Some(id) = submission.message_id {
            properties = properties.with_message_id(ShortString::from(id));
        }
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let exchange = self.topology.exchange(exchange);
        let confirm = self
            .channel
            .basic_publish(exchange.name().into(), routing_key.into(), options, &submission.body, properties)
            .await
            .expect("published");
        let confirmation = within("no confirm", confirm).await.expect("confirmed");
        assert!(
            matches!(confirmation, Confirmation::Ack(None)),
            "{routing_key} was not taken: {confirmation:?}"
        );
    }

    /// In how many messages it came.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }

    /// Everything heard so far, in the order in which it came.
    #[must_use]
    pub fn heard(&self) -> Vec<Announcement> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Announcement>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the first event, of those heard already and those to come, for which `wanted` is true.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&Announcement) -> bool) -> Announcement {
        self.wait(what, |events| events.iter().find(|event| wanted(event)).cloned()).await
    }

    /// Waits until a plan version ended, or is stuck.
    pub async fn wait_for_end(&self, plan: PlanKey) -> EndState {
        let what = format!("the end of plan {plan}");
        self.wait(&what, |events| {
            let mut events: Vec<Announcement> = events.iter().filter(|e| e.plan == plan).cloned().collect();
            let state = events.iter().find(|e| e.is_end())?.plan_state()?;
            assert!(
                events.is_sorted_by_key(|event| event.sequence),
                "events of plan {plan} came out of order: {events:#?}"
            );
            events.sort_by_key(|event| event.sequence);
            Some(EndState { state, events })
        })
        .await
    }

    /// Waits until each of these ended; gives how, in the same order.
    pub async fn wait_for_ends(&self, plans: &[PlanKey]) -> Vec<EndState> {
        let mut ends = Vec::with_capacity(plans.len());
        for plan in plans {
            ends.push(self.wait_for_end(*plan).await);
        }
        ends
    }

    async fn wait<T>(&self, what: &str, look: impl Fn(&[Announcement]) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        let mut heard = self.heard.clone();
        loop {
            heard.mark_unchanged();
            if let Some(found) = look(&self.lock()) {
                return found;
            }
            let change = timeout_at(until, heard.changed()).await;
            let change = change.unwrap_or_else(|late| {
                panic!("{what}: not within {PATIENCE:?} ({late}). Heard last:\n{}", self.last_heard())
            });
            change.unwrap_or_else(|_| panic!("{what}: the connection to the broker is lost"));
        }
    }

    fn last_heard(&self) -> String {
        let events = self.heard();
        let last = &events[events.len().saturating_sub(40)..];
        let lines: Vec<String> = last.iter().map(|event| format!("{} {event}", event.plan)).collect();
        lines.join("\n")
    }

    /// Waits for the next message in a stage's dead-letter queue, and takes it.
    pub async fn dead_letter(&self, stage: Stage) -> DeadLetter {
        let queue = format!("{}.dead", self.topology.queue(stage).name());
        within(format_args!("{queue} stays empty"), async {
            loop {
                if let Some(letter) = self.take(&queue).await {
                    return letter;
                }
                tokio::time::sleep(LOOK).await;
            }
        })
        .await
    }

    /// How many messages are in a stage's dead-letter queue.
    pub async fn dead_letters(&self, stage: Stage) -> u32 {
        let queue = format!("{}.dead", self.topology.queue(stage).name());
        let options = QueueDeclareOptions::durable().passive();
        let found = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        found.expect("the queue is there").message_count()
    }

    async fn take(&self, queue: &str) -> Option<DeadLetter> {
        let options = BasicGetOptions { no_ack: true };
        let message = self.channel.basic_get(queue.into(), options).await.expect("the queue is there")?;
        let headers = message.delivery.properties.headers().clone().unwrap_or_default();
        let text = |name: &str| match headers.inner().get(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            other => panic!("the parked message has {other:?} as {name}"),
        };
        let user = headers.inner().contains_key("x-dat-user").then(|| text("x-dat-user"));
        let message_id = message.delivery.properties.message_id().as_ref().map(|id| id.as_str().to_owned());
        Some(DeadLetter {
            reason: text("x-dat-reason"),
            faults: serde_json::from_str(&text("x-dat-faults")).expect("faults are JSON"),
            user,
            message_id,
            body: message.delivery.data,
        })
    }
}

/// The version that a document names.
pub(crate) fn plan_of(document: &Value) -> PlanKey {
    let id = document["plan_id"].as_str().and_then(|id| id.parse::<Uuid>().ok());
    let version = document["plan_version"].as_i64().and_then(|version| version.try_into().ok());
    PlanKey::new(id.expect("plan_id"), version.expect("plan_version"))
}
