//! A MUX that is not the sandbox, and answers what no database stores.

use std::collections::BTreeMap;

use dat_plan::mux::{ActionReply, ActionRequest, ActionStatus};
use dat_plan::signing::Trust;
use dat_plan::{PlanHash, PlanKey, PlanState, StepState};
use dat_tests::{Fleet, PlanDraft, Producer, StepDraft, Submission};
use dat_topology::{Exchange, Outside, Stage, Topology, key};
use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::json;

/// Answers each action of the fleet's as told, for as long as the connection is there.
async fn answer(fleet: &Fleet, answers: BTreeMap<&'static str, ActionReply>) -> Connection {
    let realm = fleet.realm();
    let connection =
        Connection::connect(&realm.amqp_url, ConnectionProperties::default()).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    let queue = Topology::new(realm.namespace.as_deref()).queue(Outside::MuxActions);
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consuming = channel.basic_consume(queue.name().into(), "".into(), options, FieldTable::default());
    let mut requests = consuming.await.expect("consuming");
    tokio::spawn(async move {
        while let Some(Ok(delivery)) = requests.next().await {
            let request: ActionRequest = serde_json::from_slice(&delivery.data).expect("a request");
            let reply = serde_json::to_vec(&answers[request.action.as_str()]).expect("JSON");
            let to = delivery.properties.reply_to().clone().expect("reply_to");
            let id = delivery.properties.correlation_id().clone().expect("correlation_id");
            let properties = BasicProperties::default().with_correlation_id(id);
            let sent =
                channel.basic_publish("".into(), to, BasicPublishOptions::default(), &reply, properties);
            sent.await.expect("sent");
        }
    });
    connection
}

/// Submits a plan and approves it, where no governance runs.
pub(crate) async fn submit_approved(producer: &Producer, draft: PlanDraft) -> PlanKey {
    let document = draft.document();
    let plan = producer.submit(&document).await;
    producer
        .wait_for("the registration", |event| {
            event.plan == plan && event.plan_state() == Some(PlanState::SubmittedForApproval)
        })
        .await;
    let verdict = json!({
        "decision_id": plan.plan_id, "plan_id": plan.plan_id, "plan_version": plan.plan_version,
        "outcome": "approved", "approver": "ann", "plan_hash": PlanHash::of(&document).expect("a hash"),
    });
    let submission = Submission { body: verdict.to_string().into_bytes(), message_id: None };
    producer.publish(Exchange::Plans, key::PLAN_APPROVED, submission).await;
    plan
}

fn reply(status: ActionStatus) -> ActionReply {
    ActionReply { status, result: None, cost: 0, refund: 0, message: None, retry_after_ms: None }
}

/// The step failed, as sent: with its cost, its undo, and what can be said of the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_cannot_be_stored_fails_the_step_and_unwinds_it() {
    let mut fleet = Fleet::standard().await;
    fleet.sandbox_process().kill().await;
    let paid =
        ActionReply { cost: 7, result: Some(json!({"receipt": "R\u{0}1"})), ..reply(ActionStatus::Ok) };
    let no = ActionReply { message: Some("not \u{0} today".to_owned()), ..reply(ActionStatus::Refused) };
    let back = ActionReply { refund: 7, ..reply(ActionStatus::Ok) };
    let answers = BTreeMap::from([("test.pay", paid), ("test.ask", no), ("test.undo", back)]);
    let mux = answer(&fleet, answers).await;
    let producer = fleet.producer().await;
    let pay = StepDraft::priced("pay", 10).set("action", "test.pay");
    let ask = StepDraft::new("ask", &json!({})).set("action", "test.ask");
    let mut plans = Vec::new();
    for (name, step) in [("unstorable result", pay), ("unstorable message", ask)] {
        plans.push(submit_approved(&producer, PlanDraft::new(name).step(step)).await);
    }
    for end in producer.wait_for_ends(&plans).await {
        assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    }
    let paid = fleet.plan(plans[0]).await;
    assert_eq!((paid.summary.spent, paid.summary.reserved), (0, 0));
    let step = paid.steps.iter().find(|step| step.kind == "action").expect("the step");
    assert_eq!((step.state, step.attempts, step.cost), (StepState::RolledBack, 1, 7), "{step:?}");
    let attempt = paid.attempts.iter().find(|attempt| attempt.kind == "action").expect("the attempt");
    assert!(attempt.detail.as_ref().is_some_and(|detail| detail.contains("R\\u00001")), "{attempt:?}");
    let asked = fleet.plan(plans[1]).await;
    assert_eq!(asked.steps[0].state, StepState::Failed);
    let detail = asked.attempts[0].detail.as_deref();
    assert!(detail.is_some_and(|detail| detail.contains("not \\u0000 today")), "{:?}", asked.attempts[0]);
    let audit = fleet.store().audit(None, &Trust::default()).await.expect("the database answers");
    assert!(audit.faults.is_empty(), "{:#?}", audit.faults);
    assert_eq!(producer.dead_letters(Stage::StepFailed).await, 0);
    mux.close(200, "done".into()).await.expect("closed");
}
