//! Rates as the connector sees them: the fleet's bound, a connector that asks for a pause, and a rate beside other limits.

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::clock::SystemClock;
use dat_plan::{Clock as _, PlanKey, PlanState};
use dat_tests::{Fleet, FleetOptions, PlanDraft, Producer, SandboxClient, StepDraft, eventually};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::crowd;

async fn fleet(workers: usize, limits: &str) -> Fleet {
    let settings = format!("{}{limits}", crowd::settings());
    Fleet::start(FleetOptions { workers, settings, ..FleetOptions::default() }).await
}

/// A plan of so many steps side by side.
fn wide(name: &str, steps: usize, sandbox: &Value, action: &str) -> PlanDraft {
    (0..steps).fold(PlanDraft::new(name), |plan, n| {
        plan.step(StepDraft::new(&format!("s{n}"), sandbox).set("action", action).needs(&[]))
    })
}

async fn completes(producer: &Producer, plan: PlanKey) {
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
}

/// When MUX received the requests of plans, in order.
async fn arrivals(sandbox: &SandboxClient, plans: &[PlanKey]) -> Vec<DateTime<Utc>> {
    let mut arrivals = Vec::new();
    for plan in plans {
        arrivals.extend(sandbox.requests(*plan).await.iter().map(|request| request.received_at));
    }
    arrivals.sort();
    arrivals
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_no_second_does_the_connector_see_more_than_the_rate_and_the_burst() {
    let fleet = fleet(4, "[[rate]]\nconnector = \"mux\"\ncount = 50\nperiod_ms = 1000\nburst = 25\n").await;
    let producer = fleet.producer().await;
    let mut plans = Vec::new();
    for number in 0..4 {
        let draft = wide(&format!("rated {number}"), 75, &json!({"cost": 1}), "test.act");
        plans.push(producer.submit(&draft.document()).await);
    }
    for plan in &plans {
        completes(&producer, *plan).await;
    }
    let arrivals = arrivals(&fleet.sandbox(), &plans).await;
    assert_eq!(arrivals.len(), 300);
    for (n, from) in arrivals.iter().enumerate() {
        let within = arrivals[n..].iter().filter(|at| **at - *from < TimeDelta::seconds(1)).count();
        assert!(within <= 50 + 25, "{within} arrived within a second from {from}: {arrivals:#?}");
    }
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connector_that_asks_for_a_pause_is_left_alone_by_every_step_of_that_kind() {
    let fleet = fleet(2, "").await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let pause = TimeDelta::seconds(3);
    let busy = json!({"outcome": "error", "times": 1, "retry_after_ms": pause.num_milliseconds(), "cost": 1});
    let first = producer.submit(&wide("told to wait", 1, &busy, "test.busy").document()).await;
    producer.wait_for("MUX asks for a pause", |e| e.plan == first && e.kind == "step.failed").await;
    let others =
        producer.submit(&wide("the same kind", 5, &json!({"cost": 1}), "test.busy").document()).await;
    let free = producer.submit(&wide("another kind", 1, &json!({"cost": 1}), "test.free").document()).await;
    eventually("the others wait for the pause to end", async || {
        let view = fleet.store().plan(others).await.expect("the database answers");
        let reason = "the connector asked for a pause of mux/test.busy";
        let steps = view.iter().flat_map(|view| &view.steps);
        let waiting = steps.filter(|step| step.wait_reason.as_deref() == Some(reason)).count();
        if waiting == 5 { Ok(()) } else { Err(view) }
    })
    .await;
    for plan in [first, others, free] {
        completes(&producer, plan).await;
    }
    let told = arrivals(&sandbox, &[first]).await;
    assert_eq!(told.len(), 2);
    let (told, again) = (told[0], told[1]);
    let others = arrivals(&sandbox, &[others]).await;
    for at in others.iter().chain([&again]) {
        assert!(*at - told >= pause, "it came {} after the pause was asked for", *at - told);
    }
    assert!(arrivals(&sandbox, &[free]).await[0] < others[0], "another kind is not held up");
    fleet.check_everything().await;
}

/// Whether a turn was granted for a step of a plan.
async fn has_turn(fleet: &Fleet, plan: PlanKey) -> Result<(), Vec<String>> {
    let client = redis::Client::open(fleet.realm().redis_url.as_str()).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis is there");
    let turns = format!("*:turn:*{}*", plan.plan_id);
    let found: Vec<String> =
        redis::cmd("KEYS").arg(turns).query_async(&mut connection).await.expect("it answers");
    if found.is_empty() { Err(found) } else { Ok(()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_turn_of_a_plan_that_is_stopped_just_when_it_was_granted_is_the_next_ones() {
    let fleet = fleet(1, "[[rate]]\nconnector = \"mux\"\ncount = 1\nperiod_ms = 3600000\nburst = 1\n").await;
    let producer = fleet.producer().await;
    let step = StepDraft::new("s0", &json!({"cost": 1})).set("action", "test.act");
    let opens = now() + TimeDelta::seconds(3);
    let stopped = PlanDraft::new("stopped").step(step.set("not_before", json!(opens)));
    let stopped = producer.submit(&stopped.document()).await;
    producer.wait_for("it waits for its time", |e| e.plan == stopped && e.kind == "plan.executing").await;
    // Whoever holds the plan's row keeps the claim out, which has asked for the turn by then.
    let url = &fleet.realm().database_url;
    let mut sql = PgConnection::connect(url).await.expect("the database is there");
    let mut other = PgConnection::connect(url).await.expect("the database is there");
    let mut holds = sql.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM execution_plan WHERE plan_id = $1 FOR NO KEY UPDATE")
        .bind(stopped.plan_id)
        .execute(&mut *holds)
        .await
        .expect("the row is there");
    eventually("its step has the only turn", async || has_turn(&fleet, stopped).await).await;
    let id = stopped.plan_id.to_string();
    let abort = ["plan", "abort", id.as_str(), "--reason", "a test"];
    tokio::join!(fleet.dat(&abort), async {
        eventually("its abort is next", async || {
            let waits = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
                         WHERE NOT granted AND datname = current_database()";
            let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&mut other).await.expect("it answers");
            if waiting > 0 { Ok(()) } else { Err(waiting) }
        })
        .await;
        holds.rollback().await.expect("it is let go");
    });
    assert_eq!(producer.wait_for_end(stopped).await.state, PlanState::Aborted);
    let next = producer.submit(&wide("next", 1, &json!({"cost": 1}), "test.act").document()).await;
    completes(&producer, next).await;
    fleet.check_everything().await;
}

fn now() -> DateTime<Utc> {
    SystemClock.now()
}

/// How many turns the rate below has at once; the next comes after an hour.
const TURNS: usize = 6;

const LIMITS: &str = "[[rate]]\nconnector = \"mux\"\ncount = 1\nperiod_ms = 3600000\nburst = 11\n\
                      [[token_window]]\ntenant = \"acme\"\nperiod = \"hour\"\nlimit = 100\n";

async fn waits_for(fleet: &Fleet, plan: PlanKey, reason: &str) {
    eventually(format_args!("a step waits: {reason}"), async || {
        let view = fleet.store().plan(plan).await.expect("the database answers");
        let said = |step: &dat_store::StepView| step.wait_reason.as_ref().is_some_and(|r| r.contains(reason));
        let waits = view.as_ref().is_some_and(|view| view.steps.iter().any(said));
        if waits { Ok(()) } else { Err(view) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_together_cost_no_more_than_the_tightest_alone() {
    let fleet = fleet(2, LIMITS).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let hour = |at: DateTime<Utc>| at.timestamp() / 3_600;
    let from = hour(now());
    let limit = ["budget", "set", "--tenant", "acme", "--currency", "usd", "--period", "year", "--amount"];
    fleet.dat(&[&limit[..], &["1000", "--actor", "ann", "--reason", "a test"]].concat()).await;
    let one = |name: &str, cost: i64, currency: &str| {
        wide(name, 1, &json!({"cost": cost}), "test.act")
            .set("budget", json!({"amount": 10_000, "currency": currency}))
    };
    // One turn is used; then three steps wait, each for another limit, and use up none of what the rate allows.
    let tokens = producer.submit(&one("tokens", 80, "token").document()).await;
    completes(&producer, tokens).await;
    let full = producer.submit(&one("more tokens", 80, "token").document()).await;
    waits_for(&fleet, full, "token window is full").await;
    let dear = producer.submit(&one("too dear", 2_000, "usd").document()).await;
    waits_for(&fleet, dear, "budget: that of tenant acme").await;
    let opens = now() + TimeDelta::days(1);
    let rule = json!([{"id": "w", "enforcement": "hard", "kind": "time_window", "not_before": opens}]);
    let closed = producer.submit(&one("not today", 1, "usd").set("constraints", rule).document()).await;
    producer.wait_for("the window is closed", |e| e.plan == closed && e.kind == "constraint.violated").await;
    // One of two may run; the other waits for it, and uses up no turn but its own.
    sandbox.hold("test.slow").await;
    let rule = json!([{"id": "single", "enforcement": "hard", "kind": "concurrency", "max": 1}]);
    let single = wide("one at a time", 2, &json!({"cost": 1}), "test.slow").set("constraints", rule);
    let single = producer.submit(&single.document()).await;
    sandbox.wait_for_held(1).await;
    waits_for(&fleet, single, "at most 1 run at once").await;
    sandbox.release().await;
    completes(&producer, single).await;
    // All but one of the turns that are left; the one step that still asks now and then has that one meanwhile.
    let passing = wide("passing", TURNS - 4, &json!({"cost": 1}), "test.act").document();
    let passing = producer.submit(&passing).await;
    completes(&producer, passing).await;
    fleet.dat(&["plan", "abort", &dear.plan_id.to_string(), "--reason", "too dear"]).await;
    assert_eq!(producer.wait_for_end(dear).await.state, PlanState::Aborted);
    let last = producer.submit(&one("the last turn", 1, "usd").document()).await;
    completes(&producer, last).await;
    let over = producer.submit(&one("one too many", 1, "usd").document()).await;
    waits_for(&fleet, over, "the rate limit of mux/* is 1 calls in 3600000 ms").await;
    if hour(now()) != from {
        return; // the token window has turned meanwhile, and its step has run
    }
    let calls = arrivals(&sandbox, &[tokens, full, dear, closed, single, passing, last, over]).await.len();
    assert_eq!(calls, TURNS, "as many as the rate alone allows");
    for plan in [full, closed, over] {
        fleet.dat(&["plan", "abort", &plan.plan_id.to_string(), "--reason", "the end"]).await;
        assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Aborted);
    }
    fleet.check_everything().await;
}
