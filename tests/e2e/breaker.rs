//! Circuit breakers: the fleet leaves an outside system that is ill alone, tries it with one step, and goes on when it is
//! well; and an operator can overrule that.

use dat_plan::{PlanKey, PlanState};
use dat_tests::{Fleet, FleetOptions, PlanDraft, Producer, StepDraft, WorkerOptions, eventually};
use serde_json::json;

use crate::shop::{Mood, Shop, TOKEN};

async fn fleet(shop: &Shop, breaker: &str) -> Fleet {
    let environment = vec![("SHOP_TOKEN".to_owned(), TOKEN.to_owned())];
    let worker = WorkerOptions { environment, ..WorkerOptions::default() };
    let settings = shop.settings(&format!("[[breaker]]\nconnector = \"http\"\n{breaker}\n"));
    Fleet::start(FleetOptions { settings, worker, ..FleetOptions::default() }).await
}

/// A plan of so many orders side by side.
fn orders(name: &str, count: usize) -> PlanDraft {
    (0..count).fold(PlanDraft::new(name), |plan, n| {
        let step = StepDraft::new(&format!("s{n}"), &json!({})).set("connector", "http").needs(&[]);
        let step = step.set("action", "order.create").set("parameters", json!({"n": n}));
        plan.step(step.set("retry", json!({"max_attempts": 50, "initial_ms": 20, "max_ms": 50})))
    })
}

/// Waits until so many steps of plans wait for a reason that begins so.
async fn wait_because(fleet: &Fleet, plans: &[PlanKey], count: usize, reason: &str) {
    eventually(format_args!("{count} steps wait because {reason}"), async || {
        let mut waiting = 0;
        let mut seen = Vec::new();
        for plan in plans {
            let view = fleet.store().plan(*plan).await.expect("the database answers");
            for step in view.into_iter().flat_map(|view| view.steps) {
                waiting += usize::from(step.wait_reason.as_ref().is_some_and(|why| why.starts_with(reason)));
                seen.push((step.key, step.state, step.wait_reason));
            }
        }
        if waiting == count { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn completes(producer: &Producer, plan: PlanKey) {
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
}

async fn act(fleet: &Fleet, words: &[&str], reason: &str) -> String {
    fleet.dat(&[words, &["--actor", "ann", "--reason", reason]].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ill_system_is_left_alone_tried_by_one_step_and_used_again_when_it_is_well() {
    let shop = Shop::open(Mood::Ill).await;
    let fleet = fleet(&shop, "failures = 3\nwindow_ms = 60000\nopen_ms = 1500").await;
    let producer = fleet.producer().await;
    let first = producer.submit(&orders("finds out", 3).document()).await;
    let is_open = "the breaker of connector http is open";
    wait_because(&fleet, &[first], 3, is_open).await;
    let second = producer.submit(&orders("comes after", 10).document()).await;
    wait_because(&fleet, &[first, second], 13, is_open).await;
    let said = fleet.dat(&["plan", "explain", &second.plan_id.to_string()]).await;
    assert!(said.contains(is_open), "{said}");
    // However many wait, one of them alone tries; the others wait for what comes of it.
    shop.is(Mood::Holds);
    let before = shop.asked().len();
    eventually("one step tries", async || match shop.asked().len() - before {
        0 => Err(()),
        _ => Ok(()),
    })
    .await;
    wait_because(
        &fleet,
        &[first, second],
        12,
        "the breaker of connector http is open, and one step tries it",
    )
    .await;
    assert_eq!(shop.asked().len() - before, 1, "{:?}", shop.asked());
    shop.is(Mood::Well);
    completes(&producer, first).await;
    completes(&producer, second).await;
    assert_eq!(shop.orders().len(), 13, "each once");
    let metrics = fleet_metrics(fleet).await;
    assert!(metrics.contains("dat_breaker_opened_total{connector=\"http\"}"), "{metrics}");
    assert!(metrics.contains("dat_breaker_put_off_total{connector=\"http\"}"), "{metrics}");
}

/// The metrics of both workers, after everything was checked.
async fn fleet_metrics(mut fleet: Fleet) -> String {
    fleet.check_everything().await;
    let mut all = String::new();
    for worker in 0..2 {
        all.push_str(&fleet.worker(worker).get("/metrics").await.1);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_waits_for_the_breaker_and_never_fails_by_it() {
    let shop = Shop::open(Mood::Well).await;
    // A breaker that would let nothing through for the rest of the test but by an operator's word.
    let fleet = fleet(&shop, "failures = 1\nopen_ms = 3600000").await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let order = StepDraft::new("order", &json!({})).set("connector", "http").set("action", "order.create");
    let undo = json!({"action": "order.cancel", "parameters": {"id": {"$from": "order", "path": "/id"}}});
    let order = order.set("parameters", json!({})).set("irreversible", false).set("compensation", undo);
    let held = StepDraft::new("held", &json!({"outcome": "refuse"})).set("action", "test.held");
    sandbox.hold("test.held").await;
    let plan = producer.submit(&PlanDraft::new("undone later").step(order).step(held).document()).await;
    sandbox.wait_for_held(1).await;
    shop.is(Mood::Ill);
    let breaks = producer.submit(&orders("breaks it", 1).document()).await;
    wait_because(&fleet, &[breaks], 1, "the breaker of connector http is open").await;
    sandbox.release().await;
    wait_because(&fleet, &[plan, breaks], 2, "the breaker of connector http is open").await;
    assert_eq!(fleet.plan(plan).await.summary.state, PlanState::RollingBack);
    assert_eq!(shop.cancelled(), Vec::<String>::new());
    // Forced closed, what was put off is woken, and what comes now goes out, though the breaker itself is open for an hour.
    shop.is(Mood::Well);
    let said = act(&fleet, &["control", "connector", "close", "http"], "they are back").await;
    assert!(said.contains("is forced closed"), "{said}");
    let shown = fleet.dat(&["control", "show"]).await;
    assert!(shown.contains("the breaker of connector http is forced closed by ann"), "{shown}");
    let now = producer.submit(&orders("goes out", 2).document()).await;
    completes(&producer, now).await;
    completes(&producer, breaks).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    assert_eq!(
        (end.steps("step.rolled_back"), shop.cancelled().len()),
        (vec!["order"], 1),
        "{}",
        end.story()
    );
    // Left to itself it is open still: what would go now waits.
    act(&fleet, &["control", "connector", "auto", "http"], "let it be").await;
    let later = producer.submit(&orders("waits again", 1).document()).await;
    wait_because(&fleet, &[later], 1, "the breaker of connector http is open").await;
}

/// How often the shop was asked what came of an order.
fn probes(shop: &Shop) -> usize {
    shop.asked().iter().filter(|asked| asked.starts_with("GET ")).count()
}

/// One order, whose answer is lost.
fn lost(name: &str) -> PlanDraft {
    let step = StepDraft::new("order", &json!({})).set("connector", "http").set("action", "order.create");
    PlanDraft::new(name).step(step.set("parameters", json!({})).set("timeout_ms", 1000))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_is_held_back_by_an_open_breaker_with_its_reason_until_it_is_closed() {
    let shop = Shop::open(Mood::LosesAnswers).await;
    let fleet = fleet(&shop, "failures = 1\nopen_ms = 3600000").await;
    let producer = fleet.producer().await;
    let plan = producer.submit(&lost("open for an hour").document()).await;
    wait_because(&fleet, &[plan], 1, "the breaker of connector http is open until").await;
    let said = fleet.dat(&["plan", "explain", &plan.plan_id.to_string()]).await;
    assert!(said.contains("the outcome is unknown, and its probe waits"), "{said}");
    assert!(said.contains("'dat control connector close http --reason …'"), "{said}");
    shop.is(Mood::Well);
    assert_eq!((shop.orders().len(), probes(&shop)), (1, 0));
    act(&fleet, &["control", "connector", "close", "http"], "they are back").await;
    completes(&producer, plan).await;
    assert_eq!((shop.orders().len(), probes(&shop)), (1, 1), "found by the probe, and not sent again");
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_is_what_tries_a_breaker_and_what_comes_of_it_counts() {
    let shop = Shop::open(Mood::LosesAnswers).await;
    let fleet = fleet(&shop, "failures = 1\nopen_ms = 700").await;
    let producer = fleet.producer().await;
    let plan = producer.submit(&lost("tried by its probe").document()).await;
    producer.wait_for("its outcome is unknown", |e| e.plan == plan && e.is("step.unknown", "order")).await;
    // Nothing else goes to this shop: whoever tries it is the probe, and what it hears opens the breaker again.
    shop.is(Mood::Ill);
    eventually("it was tried and found ill twice", async || match probes(&shop) {
        0 | 1 => Err(shop.asked()),
        _ => Ok(()),
    })
    .await;
    shop.is(Mood::Well);
    completes(&producer, plan).await;
    let (asked, orders) = (probes(&shop), shop.orders().len());
    assert_eq!(orders, 1, "{:?}", shop.asked());
    let mut fleet = fleet;
    let mut opened = 0.0;
    for worker in 0..2 {
        opened += fleet.worker(worker).metric("dat_breaker_opened_total").await;
    }
    // The first time by the order, then by each probe but the last, which closed it.
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let expected = asked as f64;
    assert!((opened - expected).abs() < f64::EPSILON, "opened {opened} times, {asked} probes");
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_that_is_forced_open_holds_probes_and_says_so() {
    let shop = Shop::open(Mood::LosesAnswers).await;
    let fleet = fleet(&shop, "failures = 1000").await;
    let producer = fleet.producer().await;
    // The shop holds the order until its time is up; the operator speaks before.
    shop.is(Mood::Holds);
    let plan = producer.submit(&lost("left alone").document()).await;
    eventually("the order is there", async || if shop.asked().is_empty() { Err(()) } else { Ok(()) }).await;
    act(&fleet, &["control", "connector", "open", "http"], "they asked us to").await;
    producer.wait_for("its outcome is unknown", |e| e.plan == plan && e.is("step.unknown", "order")).await;
    shop.is(Mood::Well);
    let said = fleet.dat(&["plan", "explain", &plan.plan_id.to_string()]).await;
    assert!(said.contains("its probe is held back: the breaker of connector http is forced open"), "{said}");
    // Any number of looks later nobody was asked: a plan that needs something else goes its whole way meanwhile.
    completes(&producer, producer.submit(&PlanDraft::in_order("meanwhile", 3).document()).await).await;
    assert_eq!(probes(&shop), 0);
    act(&fleet, &["control", "connector", "auto", "http"], "they are done").await;
    completes(&producer, plan).await;
    assert_eq!((shop.orders().len(), probes(&shop) > 0), (1, true));
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_that_is_forced_open_holds_plans_and_steps_until_it_is_freed() {
    let shop = Shop::open(Mood::Well).await;
    // None is set: what an operator says holds all the same.
    let fleet = fleet(&shop, "failures = 5").await;
    let producer = fleet.producer().await;
    act(&fleet, &["control", "connector", "open", "mux"], "they asked us to").await;
    let event = producer.wait_for("it is announced", |e| e.kind == "control.open_breaker").await;
    assert_eq!((&event.data["actor"], &event.data["subject"]), (&json!("ann"), &json!("mux")), "{event:?}");
    let plan = producer.submit(&PlanDraft::in_order("needs mux", 2).document()).await;
    let because = "the breaker of connector mux is forced open by ann: they asked us to";
    eventually("the plan waits to be admitted", async || {
        let seen = fleet.store().plan(plan).await.expect("the database answers").map(|view| view.summary);
        let waits = seen
            .as_ref()
            .is_some_and(|plan| plan.state == PlanState::Staged && plan.reason.as_deref() == Some(because));
        if waits { Ok(()) } else { Err(seen) }
    })
    .await;
    let said = fleet.dat(&["plan", "explain", &plan.plan_id.to_string()]).await;
    assert!(said.contains("the breaker of connector mux is forced open by ann"), "{said}");
    assert!(said.contains("dat control connector auto mux"), "{said}");
    assert_eq!(fleet.sandbox().requests(plan).await, []);
    let again = act(&fleet, &["control", "connector", "open", "mux"], "again").await;
    assert!(again.contains("nothing changed"), "{again}");
    act(&fleet, &["control", "connector", "auto", "mux"], "the hour is over").await;
    producer.wait_for("it is announced", |e| e.kind == "control.free_breaker").await;
    completes(&producer, plan).await;
    fleet.check_everything().await;
}
