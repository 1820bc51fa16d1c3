//! The connector `http` through the whole fleet: what it does outside, what it gives back, and that no secret stays.

use dat_plan::signing::Trust;
use dat_plan::{PlanKey, PlanState, StepState};
use dat_tests::{Announcement, Fleet, FleetOptions, PlanDraft, StepDraft, WorkerOptions, eventually};
use dat_topology::Stage;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::shop::{Mood, Shop, TOKEN};

async fn fleet(shop: &Shop) -> Fleet {
    let environment = vec![("SHOP_TOKEN".to_owned(), TOKEN.to_owned())];
    let worker = WorkerOptions { environment, ..WorkerOptions::default() };
    Fleet::start(FleetOptions { settings: shop.settings(""), worker, ..FleetOptions::default() }).await
}

/// A step that orders, without a way back.
fn order(key: &str, action: &str, parameters: &Value) -> StepDraft {
    StepDraft::new(key, &json!({}))
        .set("connector", "http")
        .set("action", action)
        .set("parameters", parameters.clone())
}

fn cancelled(step: StepDraft, id: &Value) -> StepDraft {
    step.set("irreversible", false)
        .set("compensation", json!({"action": "order.cancel", "parameters": {"id": id}}))
}

/// How often a text stands in everything that the database keeps of plans.
async fn kept(fleet: &Fleet, text: &str) -> i64 {
    let mut connection = PgConnection::connect(&fleet.realm().database_url).await.expect("a connection");
    let mut found = 0;
    for table in ["execution_event", "execution_step", "step_attempt", "execution_plan"] {
        // Tables are named by this test alone.
        let query = sqlx::AssertSqlSafe(format!(
            "SELECT count(*) FROM {table} AS t WHERE t::text LIKE '%' || $1 || '%'"
        ));
        found +=
            sqlx::query(query).bind(text).fetch_one(&mut connection).await.expect("counted").get::<i64, _>(0);
    }
    connection.close().await.expect("closed");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_made_by_http_and_undone_when_the_plan_fails_and_no_secret_stays() {
    let shop = Shop::open(Mood::Well).await;
    let mut fleet = fleet(&shop).await;
    let producer = fleet.producer().await;
    let made = order("order", "order.create", &json!({"sku": "X", "cost": 30})).set("max_cost", 50);
    let made = cancelled(made, &json!({"$from": "order", "path": "/id"}));
    let fails = StepDraft::new("fails", &json!({"outcome": "refuse"}));
    let plan = producer.submit(&PlanDraft::new("order and fail").step(made).step(fails).document()).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    assert_eq!(end.steps("step.rolled_back"), ["order"], "{}", end.story());
    assert_eq!(shop.asked(), ["POST /orders", "DELETE /orders/O-1"]);
    assert_eq!(
        (shop.orders(), shop.cancelled()),
        (vec![json!({"sku": "X", "cost": 30})], vec!["O-1".to_owned()])
    );
    assert_eq!(shop.unauthorised(), 0, "every request had the token");
    let view = fleet.plan(plan).await;
    let step = view.steps.iter().find(|step| step.kind == "action" && step.key == "order").expect("the step");
    assert_eq!((step.state, step.cost, step.refund), (StepState::RolledBack, 30, 30), "{step:?}");
    assert_eq!(step.result.as_ref().map(|r| r["you"].clone()), Some(json!("Bearer [redacted]")));
    assert!(kept(&fleet, "redacted").await > 0, "what the shop said was kept");
    assert_eq!(kept(&fleet, TOKEN).await, 0, "the token is in the database");
    assert!(
        producer.heard().iter().all(|event| !format!("{event:?}").contains(TOKEN)),
        "the token is in an event"
    );
    for worker in 0..2 {
        assert!(!fleet.worker(worker).log().contains(TOKEN), "the token is in a log");
    }
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_probed_repeated_or_left_to_the_plan_as_its_action_declares() {
    let shop = Shop::open(Mood::LosesAnswers).await;
    let fleet = fleet(&shop).await;
    let producer = fleet.producer().await;
    let plan = |name: &str, action: &str| {
        let step = order("order", action, &json!({"for": name})).set("timeout_ms", 500);
        PlanDraft::new(name)
            .step(step.set("retry", json!({"max_attempts": 50, "initial_ms": 20, "max_ms": 100})))
    };
    // Probed: it is found done, and sent once.
    let probed = producer.submit(&plan("probed", "order.create").document()).await;
    let end = producer.wait_for_end(probed).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    assert_eq!(end.count("step.unknown"), 1, "{}", end.story());
    // Neither probed nor repeatable: the plan says what then.
    let given_up = plan("given up", "order.hope").set("on_unknown", "rollback");
    let given_up = producer.submit(&given_up.document()).await;
    let waits = producer.submit(&plan("waits", "order.hope").document()).await;
    let end = producer.wait_for_end(given_up).await;
    assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    let why = "order.hope has no probe, and cannot be sent again";
    eventually("it is left to an operator", async || {
        let said = fleet.dat(&["plan", "explain", &waits.plan_id.to_string()]).await;
        if said.contains(why) { Ok(()) } else { Err(said) }
    })
    .await;
    assert_eq!(step_state(&fleet, waits).await, StepState::Unknown);
    // Idempotent: sent again with the same key once nothing can be on its way.
    let repeated = producer.submit(&plan("repeated", "order.put").document()).await;
    let again = |event: &Announcement| event.plan == repeated && event.is("step.failed", "order");
    producer.wait_for("it is to be sent again", again).await;
    shop.is(Mood::Well);
    let end = producer.wait_for_end(repeated).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let mut orders: Vec<String> = shop.orders().iter().map(|order| order["for"].to_string()).collect();
    orders.sort();
    assert_eq!(orders, ["\"given up\"", "\"probed\"", "\"repeated\"", "\"waits\""], "one order a plan");
    let audit = fleet.store().audit(None, &Trust::default()).await.expect("the database answers");
    assert!(audit.faults.is_empty(), "{:#?}", audit.faults);
}

/// A worker dies while the shop has the order: its attempt is lost, may be repeated, and does not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_was_lost_with_its_worker_is_repeated_and_counts_for_nothing() {
    let shop = Shop::open(Mood::Holds).await;
    let environment = vec![("SHOP_TOKEN".to_owned(), TOKEN.to_owned())];
    let worker = WorkerOptions { environment, ..WorkerOptions::default() };
    let settings = shop.settings("");
    let options = FleetOptions { workers: 1, settings, worker: worker.clone(), ..FleetOptions::default() };
    let mut fleet = Fleet::start(options).await;
    let producer = fleet.producer().await;
    let step = order("order", "order.put", &json!({"for": "lost"})).set("timeout_ms", 1000);
    let draft = PlanDraft::new("lost").step(step.set("retry", json!({"max_attempts": 1})));
    let plan = producer.submit(&draft.document()).await;
    eventually("the order is there", async || if shop.asked().is_empty() { Err(()) } else { Ok(()) }).await;
    fleet.worker(0).kill().await;
    shop.is(Mood::Well);
    fleet.spawn_worker(&worker).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let view = fleet.plan(plan).await;
    let outcomes: Vec<Option<&str>> =
        view.attempts.iter().map(|attempt| attempt.outcome.as_deref()).collect();
    assert_eq!(outcomes, [Some("lost"), Some("ok")], "{:?}", view.attempts);
    assert_eq!(view.attempts[0].idempotency_key, view.attempts[1].idempotency_key, "no seal: the same key");
    assert_eq!(shop.orders().len(), 1);
    fleet.check_everything().await;
}

async fn step_state(fleet: &Fleet, plan: PlanKey) -> StepState {
    fleet.plan(plan).await.steps[0].state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_needs_more_of_a_connector_than_it_declares_is_refused() {
    let shop = Shop::open(Mood::Well).await;
    let fleet = fleet(&shop).await;
    let producer = fleet.producer().await;
    let undone_by_hope = order("b", "order.create", &json!({}))
        .set("irreversible", false)
        .set("compensation", json!({"action": "order.hope", "parameters": {}}));
    let draft = PlanDraft::new("asks too much")
        .step(order("a", "order.unheard", &json!({})))
        .step(undone_by_hope)
        .step(order("c", "order.cancel", &json!({})));
    producer.submit(&draft.document()).await;
    let letter = producer.dead_letter(Stage::PlanSubmitted).await;
    let faults: Vec<(String, String)> = letter
        .faults
        .as_array()
        .expect("a list")
        .iter()
        .map(|fault| {
            (
                fault["pointer"].as_str().unwrap_or_default().to_owned(),
                fault["code"].as_str().unwrap_or_default().to_owned(),
            )
        })
        .collect();
    let expected = [
        ("/steps/0/action", "unknown_value"),
        ("/steps/1/compensation/action", "no_way_back"),
        ("/steps/2/parameters", "missing"),
    ];
    assert_eq!(faults, expected.map(|(pointer, code)| (pointer.to_owned(), code.to_owned())));
    assert_eq!(shop.asked(), Vec::<String>::new());
}
