//! Long actions whose connector tells how far they are: stored on the attempt, shown to whoever asks, and no event.

use dat_plan::PlanState;
use dat_plan::signing::Trust;
use dat_tests::{Fleet, FleetOptions, PlanDraft, StepDraft, eventually};
use dat_topology::{Outside, Topology};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::crowd;
use crate::foreign_mux::submit_approved;

/// A MUX that says what the test says.
struct Mux {
    connection: Connection,
    channel: Channel,
    request: Delivery,
}

impl Mux {
    /// Takes the first request that comes.
    async fn asked(fleet: &Fleet) -> Self {
        let realm = fleet.realm();
        let connection = Connection::connect(&realm.amqp_url, ConnectionProperties::default());
        let connection = connection.await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        let queue = Topology::new(realm.namespace.as_deref()).queue(Outside::MuxActions);
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consuming = channel.basic_consume(queue.name().into(), "".into(), options, FieldTable::default());
        let mut requests = consuming.await.expect("consuming");
        let request = requests.next().await.expect("a request").expect("a delivery");
        Self { connection, channel, request }
    }

    /// Says something of it, with the AMQP property `type` or without.
    async fn says(&self, kind: Option<&str>, body: Value) {
        let to = self.request.properties.reply_to().clone().expect("reply_to");
        let id = self.request.properties.correlation_id().clone().expect("correlation_id");
        let mut properties = BasicProperties::default().with_correlation_id(id);
        if let Some(kind) = kind {
            properties = properties.with_type(kind.into());
        }
        let (options, body) = (BasicPublishOptions::default(), body.to_string());
        let sent = self.channel.basic_publish("".into(), to, options, body.as_bytes(), properties);
        sent.await.expect("sent");
    }
}

async fn shows(fleet: &Fleet, words: &[&str], what: &str) {
    eventually(format_args!("{what} is shown by {words:?}"), async || {
        let shown = fleet.dat(words).await;
        if shown.contains(what) { Ok(()) } else { Err(shown) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_far_a_long_action_is_is_shown_and_is_no_event() {
    let settings = crowd::settings();
    let mut fleet = Fleet::start(FleetOptions { settings, ..FleetOptions::default() }).await;
    fleet.sandbox_process().kill().await;
    let producer = fleet.producer().await;
    let draft = PlanDraft::new("long").step(StepDraft::priced("pack", 10).set("timeout_ms", 120_000));
    let plan = submit_approved(&producer, draft).await;
    let mux = Mux::asked(&fleet).await;
    let id = plan.plan_id.to_string();
    let before =
        producer.wait_for("it runs", |event| event.plan == plan && event.is("step.running", "pack")).await;
    let unread = json!({"status": "progress", "done": "three"});
    mux.says(None, unread).await;
    mux.says(None, json!({"status": "progress", "done": 3, "total": 10, "message": "packing"})).await;
    shows(&fleet, &["plan", "explain", &id], "ago: 3 of 10, packing").await;
    shows(&fleet, &["plan", "show", &id], "3 of 10, packing").await;
    mux.says(Some("progress"), json!({"status": "progress", "done": 7, "total": 10})).await;
    shows(&fleet, &["plan", "explain", &id], "7 of 10").await;
    let view = fleet.plan(plan).await;
    assert_eq!(view.summary.sequence, before.sequence, "nothing of it is in the log");
    mux.says(None, json!({"status": "ok", "cost": 10})).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let view = fleet.plan(plan).await;
    let said = view.attempts[0].progress.as_ref().map(ToString::to_string);
    assert_eq!((view.attempts.len(), said.as_deref()), (1, Some("7 of 10")), "{:?}", view.attempts);
    let audit = fleet.store().audit(None, &Trust::default()).await.expect("the database answers");
    assert!(audit.faults.is_empty(), "{:#?}", audit.faults);
    mux.connection.close(200, "done".into()).await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_reports_over_its_delay_and_is_answered_as_ever() {
    let settings = crowd::settings();
    let fleet = Fleet::start(FleetOptions { settings, ..FleetOptions::default() }).await;
    let producer = fleet.producer().await;
    let sandbox = json!({"cost": 10, "delay_ms": 2000, "progress": 200});
    let step = StepDraft::new("pack", &sandbox).set("max_cost", 10);
    let plan = producer.submit(&PlanDraft::new("reports").step(step).document()).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let view = fleet.plan(plan).await;
    let progress = view.attempts[0].progress.clone().expect("it was reported");
    assert_eq!((progress.total, progress.message.as_deref()), (Some(200), Some("at it")), "{progress:?}");
    assert_eq!((view.summary.spent, fleet.sandbox().mux_summary(plan).await.requests), (10, 1));
    fleet.check_everything().await;
}
