//! Properties and headers of a stranger's, at random, of every type that AMQP has, on every queue that DAT reads: each
//! message is taken or parked, none is lost, and nobody falls.

use dat_plan::PlanState;
use dat_plan::clock::{Entropy, SeededEntropy};
use dat_tests::{Fleet, PlanDraft, eventually};
use dat_topology::{Exchange, Stage, Topology, key};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

/// Submissions, and half as many messages on each other queue.
const MESSAGES: usize = 120;

/// Texts that something might stumble over.
const TEXTS: [&str; 12] = [
    "",
    "\0",
    "a\0b",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "00-00000000000000000000000000000000-0000000000000000-ff",
    "control/1",
    "0199d3a4-7c1e-7b1a-9c44-0a3f5d0c7421/1/9",
    "\u{1F600}\u{202e}\u{7f}\u{1b}[31m",
    "{\"$from\": \"a\"}",
    "' OR 1=1; --",
    "9223372036854775807",
    "application/cloudevents+json",
];

/// Names that DAT reads, and others; none that the broker reads, which ends the connection over what it cannot.
const NAMES: [&str; 6] = ["traceparent", "x-dat-reason", "x-dat-faults", "x-dat-user", "x-other", "\u{e9}"];

struct Dice(SeededEntropy);

impl Dice {
    fn below(&self, limit: usize) -> usize {
        usize::try_from(self.0.below(limit as u64)).expect("small")
    }

    fn text(&self) -> String {
        let text = TEXTS[self.below(TEXTS.len())];
        if self.below(6) == 0 {
            text.repeat(self.below(8)).chars().take(60).collect()
        } else {
            text.to_owned()
        }
    }

    fn short(&self) -> ShortString {
        ShortString::from(self.text())
    }

    fn value(&self, depth: usize) -> AMQPValue {
        match self.below(if depth > 3 { 10 } else { 12 }) {
            0 => AMQPValue::Boolean(self.below(2) == 0),
            1 => AMQPValue::ShortShortInt(-1),
            2 => AMQPValue::LongLongInt(i64::MIN),
            3 => AMQPValue::LongInt(7),
            4 => AMQPValue::Double(-1.5e300),
            5 => AMQPValue::Timestamp(u64::MAX),
            6 => AMQPValue::Void,
            7 => AMQPValue::ByteArray(vec![0xff, 0, 0xfe].into()),
            8 => AMQPValue::LongString(vec![0xed, 0xa0, 0x80].into()),
            9 => AMQPValue::LongString(self.text().into()),
            10 => {
                let mut array = FieldArray::default();
                for _ in 0..self.below(4) {
                    array.push(self.value(depth + 1));
                }
                AMQPValue::FieldArray(array)
            }
            _ => AMQPValue::FieldTable(self.table(depth + 1)),
        }
    }

    fn table(&self, depth: usize) -> FieldTable {
        let mut table = FieldTable::default();
        for _ in 0..self.below(6) {
            let name = NAMES[self.below(NAMES.len())];
            let value = self.value(depth);
            table.insert(name.into(), value);
        }
        table
    }

    fn properties(&self) -> BasicProperties {
        let mut properties = BasicProperties::default().with_headers(self.table(0));
        let sometimes = || self.below(2) == 0;
        if sometimes() {
            properties = properties.with_message_id(self.short());
        }
        if sometimes() {
            properties = properties.with_correlation_id(self.short());
        }
        if sometimes() {
            properties = properties.with_type(self.short());
        }
        if sometimes() {
            properties = properties.with_content_type(self.short()).with_content_encoding(self.short());
        }
        if sometimes() {
            properties = properties.with_timestamp([0, u64::MAX, 1 << 53][self.below(3)]);
        }
        if sometimes() {
            properties = properties.with_reply_to("nowhere".into()).with_app_id(self.short());
        }
        properties.with_priority(u8::try_from(self.below(256)).expect("a byte"))
    }
}

async fn publish(
    channel: &Channel,
    exchange: &str,
    routing_key: &str,
    body: &[u8],
    properties: BasicProperties,
) {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let confirm = channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await;
    let confirmation = confirm.expect("published").await.expect("confirmed");
    assert!(confirmation.is_ack(), "the broker took it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_properties_a_message_has_it_is_taken_or_parked_and_nobody_falls() {
    let seed = SeededEntropy::from_os().below(u64::MAX);
    let dice = Dice(SeededEntropy::new(seed));
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let realm = fleet.realm();
    let connection =
        Connection::connect(&realm.amqp_url, ConnectionProperties::default()).await.expect("connected");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let topology = Topology::new(realm.namespace.as_deref());
    let (plans, steps) = (topology.exchange(Exchange::Plans), topology.exchange(Exchange::Steps));
    for n in 0..MESSAGES {
        let document = PlanDraft::in_order(&format!("stranger {n}"), 1).document().to_string();
        publish(&channel, plans.name(), key::PLAN_SUBMITTED, document.as_bytes(), dice.properties()).await;
        if n % 2 == 0 {
            for verdict in [key::PLAN_APPROVED, key::PLAN_REJECTED] {
                publish(&channel, plans.name(), verdict, b"{}", dice.properties()).await;
            }
            for bell in [key::STEP_DISPATCH, key::STEP_FAILED] {
                publish(&channel, steps.name(), bell, b"[]", dice.properties()).await;
            }
        }
    }
    // Each is a plan that ends, or a dead letter.
    eventually(format!("every submission is answered, seed {seed}"), async || {
        let ended = producer.heard().iter().filter(|event| event.kind == "plan.completed").count();
        let parked = producer.dead_letters(Stage::PlanSubmitted).await as usize;
        if ended + parked == MESSAGES { Ok(()) } else { Err(format!("{ended} ended, {parked} parked")) }
    })
    .await;
    for stage in [Stage::PlanApproved, Stage::PlanRejected] {
        let all = u32::try_from(MESSAGES / 2).expect("few");
        eventually(format!("every verdict of {stage} is parked, seed {seed}"), async || {
            let parked = producer.dead_letters(stage).await;
            if parked == all { Ok(()) } else { Err(parked) }
        })
        .await;
    }
    let plain = producer.submit(&PlanDraft::in_order("plain", 2).document()).await;
    assert_eq!(producer.wait_for_end(plain).await.state, PlanState::Completed, "seed {seed}");
    connection.close(200, "done".into()).await.expect("closed");
    fleet.check_everything().await;
}
