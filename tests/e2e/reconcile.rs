//! Ledger, reservations and Redis are compared all the time: what drifts is repaired towards PostgreSQL and counted, and
//! a loss of Redis is noticed, made good and told of, without an operator.

use dat_plan::{PlanKey, PlanState};
use dat_tests::{
    Fleet, FleetOptions, PlanDraft, PrivateRedis, Producer, StepDraft, WorkerOptions, eventually,
};
use redis::AsyncCommands as _;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::crowd;
use crate::redis_loss::{counted, submit_call, wait_until_counted};

const HOURLY: &str = "[[token_window]]\nconnector = \"mux\"\nperiod = \"hour\"\nlimit = ";

/// Workers whose Redis is theirs alone, with a limit on tokens an hour where one is given.
async fn fleet(redis: &PrivateRedis, limit: Option<i64>, workers: usize) -> Fleet {
    let worker = WorkerOptions { environment: vec![at(redis)], ..WorkerOptions::default() };
    let window = limit.map(|limit| format!("{HOURLY}{limit}\n")).unwrap_or_default();
    let settings = format!("{}{window}", crowd::settings());
    Fleet::start(FleetOptions { workers, worker, settings, ..FleetOptions::default() }).await
}

fn at(redis: &PrivateRedis) -> (String, String) {
    ("REDIS_URL".to_owned(), redis.url())
}

/// The sum of a metric over all workers.
async fn metric(fleet: &mut Fleet, workers: usize, name: &str) -> f64 {
    let mut sum = 0.0;
    for number in 0..workers {
        sum += fleet.worker(number).metric(name).await;
    }
    sum
}

/// Waits until the workers together have counted so much.
async fn wait_for(fleet: &mut Fleet, workers: usize, name: &str, at_least: f64) {
    eventually(format_args!("{name} is at least {at_least}"), async || {
        match metric(fleet, workers, name).await {
            value if value >= at_least => Ok(()),
            value => Err(value),
        }
    })
    .await;
}

fn heard(producer: &Producer, kind: &str) -> usize {
    producer.heard().iter().filter(|event| event.kind == kind).count()
}

/// Waits until a loss was told of and made good, so many times in all.
async fn wait_for_losses(producer: &Producer, losses: usize) {
    eventually(format_args!("{losses} losses are made good"), async || {
        let told = (heard(producer, "runtime.lost"), heard(producer, "runtime.rebuilt"));
        if told == (losses, losses) { Ok(()) } else { Err(told) }
    })
    .await;
}

/// Changes the only step by hand as no code of ours could: past the triggers, as the owner of the table.
async fn force(fleet: &Fleet, change: &str) {
    let mut connection = PgConnection::connect(&fleet.realm().database_url).await.expect("a connection");
    let mut tx = connection.begin().await.expect("a transaction");
    for statement in [
        "ALTER TABLE execution_step DISABLE TRIGGER USER",
        &format!("UPDATE execution_step {change}"),
        "ALTER TABLE execution_step ENABLE TRIGGER USER",
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await.expect("done");
    }
    tx.commit().await.expect("committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_of_redis_is_noticed_without_windows_and_told_of_once_with_how_long_it_took() {
    let mut redis = PrivateRedis::start().await;
    let mut fleet = fleet(&redis, None, 3).await;
    let producer = fleet.producer().await;
    wait_for(&mut fleet, 3, "dat_runtime_rebuilds_total", 1.0).await;
    assert_eq!(heard(&producer, "runtime.lost"), 0, "what was never filled is not lost");
    redis.flush().await;
    wait_for_losses(&producer, 1).await;
    redis.kill().await;
    redis.restart().await;
    wait_for_losses(&producer, 2).await;
    let rebuilt = producer.wait_for("the first loss", |event| event.kind == "runtime.rebuilt").await;
    assert!(rebuilt.data["took_ms"].as_i64().is_some_and(|ms| ms >= 0), "{rebuilt:?}");
    let lost = producer.wait_for("the first loss", |event| event.kind == "runtime.lost").await;
    assert!(lost.data["worker"].is_string() && lost.data["reason"].is_string(), "{lost:?}");
    // The fleet goes on as before, and nothing more is told of.
    let plan = producer.submit(&PlanDraft::in_order("after", 2).document()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    let timed = metric(&mut fleet, 3, "dat_runtime_rebuild_seconds_count").await;
    assert!((timed - 2.0).abs() < 0.5, "{timed} losses were timed");
    assert_eq!((heard(&producer, "runtime.lost"), heard(&producer, "runtime.rebuilt")), (2, 2));
    fleet.check_everything().await;
}

/// As after a failover to a replica that lacks the last writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_without_its_last_writes_is_filled_from_the_ledger() {
    let mut redis = PrivateRedis::start().await;
    let fleet = fleet(&redis, Some(180), 2).await;
    let producer = fleet.producer().await;
    let first = submit_call(&producer, "saved").await;
    assert_eq!(producer.wait_for_end(first).await.state, PlanState::Completed);
    wait_until_counted(&redis, &fleet, 60).await;
    let mut connection = redis.connection().await.expect("Redis answers");
    redis::cmd("SAVE").exec_async(&mut connection).await.expect("saved");
    let second = submit_call(&producer, "not saved").await;
    assert_eq!(producer.wait_for_end(second).await.state, PlanState::Completed);
    // A plan that would fit beside what was saved, and does not fit beside what was spent.
    redis.kill().await;
    let third = submit_call(&producer, "one too many").await;
    redis.restart().await;
    wait_for_losses(&producer, 1).await;
    wait_until_counted(&redis, &fleet, 120).await;
    eventually("the third waits for its window", async || {
        let seen = fleet.plan(third).await.summary.reason;
        if seen.as_ref().is_some_and(|reason| reason.contains("token window is full")) {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    assert_eq!(fleet.sandbox().requests(third).await, []);
    fleet.dat(&["plan", "abort", &third.plan_id.to_string(), "--reason", "not this hour"]).await;
    assert_eq!(producer.wait_for_end(third).await.state, PlanState::Aborted);
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_counts_other_than_the_ledger_is_filled_anew() {
    let redis = PrivateRedis::start().await;
    let mut fleet = fleet(&redis, Some(1_000_000), 2).await;
    let producer = fleet.producer().await;
    let plan = submit_call(&producer, "counted").await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    wait_until_counted(&redis, &fleet, 60).await;
    // Above the ledger, as a leak would leave it, and below, as a lost write would.
    for (drift, times) in [(900, 1.0), (-50, 2.0)] {
        let mut connection = redis.connection().await.expect("Redis answers");
        let namespace = fleet.realm().namespace.clone().unwrap_or_default();
        let marker: String = connection.get(format!("{namespace}:windows")).await.expect("a marker");
        let pattern = format!("{namespace}:window:*:{}", marker.split(' ').next().unwrap_or_default());
        let mut found = connection.scan_match::<_, String>(pattern).await.expect("keys");
        let window = found.next_item().await.expect("a window").expect("a window");
        drop(found);
        let _: i64 = connection.incr(&window, drift).await.expect("changed");
        wait_for(&mut fleet, 2, "dat_reconciler_drift_total", times).await;
        wait_until_counted(&redis, &fleet, 60).await;
    }
    assert_eq!(heard(&producer, "runtime.lost"), 0, "nothing was lost");
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_reserved_in_a_window_and_never_claimed_is_taken_back() {
    let redis = PrivateRedis::start().await;
    let mut fleet = fleet(&redis, Some(100), 0).await;
    let producer = fleet.producer().await;
    let dies = ("DAT_FAULT".to_owned(), "windows.reserve.after:kill:1".to_owned());
    // Nothing else of it acts, so that it is filled before it asks.
    let other = fleet
        .spawn_worker(&WorkerOptions { environment: vec![at(&redis)], ..WorkerOptions::role("sweeper") })
        .await;
    fleet.worker(other).wait_for_metric("dat_runtime_rebuilds_total", 1.0).await;
    let first = fleet
        .spawn_worker(&WorkerOptions { environment: vec![at(&redis), dies], ..WorkerOptions::default() })
        .await;
    let left = submit_call(&producer, "left").await;
    fleet.worker(first).exit().await;
    assert_eq!(counted(&redis, &fleet).await.expect("Redis answers"), 100);
    fleet.dat(&["plan", "abort", &left.plan_id.to_string(), "--reason", "its worker died"]).await;
    let whole = WorkerOptions { environment: vec![at(&redis)], ..WorkerOptions::default() };
    fleet.spawn_worker(&whole).await;
    assert_eq!(producer.wait_for_end(left).await.state, PlanState::Aborted);
    let next = submit_call(&producer, "next").await;
    eventually("what was reserved is taken back", async || {
        let end = producer.heard().iter().any(|event| event.plan == next && event.is_end());
        if end { Ok(()) } else { Err(fleet.plan(next).await.summary.reason) }
    })
    .await;
    assert_eq!(producer.wait_for_end(next).await.state, PlanState::Completed);
    wait_until_counted(&redis, &fleet, 60).await;
    fleet.check_everything().await;
}

/// A plan of a tenant, of one step that may use so many tokens.
async fn submit_tokens(producer: &Producer, tenant: &str, tokens: i64) -> PlanKey {
    let step = StepDraft::new("call", &json!({"cost": tokens}));
    let budget = json!({"amount": 1_000, "currency": "token"});
    let plan = PlanDraft::new(tenant).set("tenant", tenant).set("budget", budget).step(step);
    producer.submit(&plan.document()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_budget_refuses_holds_nothing_in_a_window() {
    let redis = PrivateRedis::start().await;
    let fleet = fleet(&redis, Some(100), 2).await;
    let producer = fleet.producer().await;
    let limit =
        ["budget", "set", "--tenant", "acme", "--currency", "token", "--period", "year", "--amount", "50"];
    fleet.dat(&[&limit[..], &["--actor", "ann", "--reason", "a test"]].concat()).await;
    let refused = submit_tokens(&producer, "acme", 80).await;
    let told = producer.wait_for("a refusal", |event| event.kind == "budget.refused").await;
    let figures = ["needed", "settled", "reserved", "limit", "short"].map(|name| told.data[name].as_i64());
    assert_eq!((told.plan, figures), (refused, [80, 0, 0, 50, 30].map(Some)), "{told:?}");
    // In the hour's window there is room for this one, unless the refused one holds it.
    let fits = submit_tokens(&producer, "bolt", 60).await;
    assert_eq!(producer.wait_for_end(fits).await.state, PlanState::Completed);
    let waits = fleet.plan(fits).await.steps[0].wait_reason.clone();
    assert_eq!(waits, None);
    fleet.dat(&["plan", "abort", &refused.plan_id.to_string(), "--reason", "over"]).await;
    assert_eq!(producer.wait_for_end(refused).await.state, PlanState::Aborted);
    wait_until_counted(&redis, &fleet, 60).await;
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reservation_that_lost_its_owner_is_closed_and_counted() {
    let redis = PrivateRedis::start().await;
    let mut fleet = fleet(&redis, None, 2).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    sandbox.hold("*").await;
    let step = StepDraft::new("s0", &json!({})).set("max_cost", 10);
    let plan = producer.submit(&PlanDraft::new("orphan").step(step).document()).await;
    sandbox.wait_for_held(1).await;
    // As a fault of ours would leave it: nobody runs the step, and its attempt's reservation is open.
    let left = "SET state = 'ready', not_before = now() + interval '1 day'";
    force(&fleet, left).await;
    wait_for(&mut fleet, 2, "dat_reconciler_drift_total", 1.0).await;
    assert_eq!(fleet.plan(plan).await.summary.reserved, 0);
    // Back to what the log says of it: its worker comes with the answer.
    force(&fleet, "SET state = 'running', not_before = now(), lease_until = now() + interval '1 minute'")
        .await;
    sandbox.release().await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    let released: Vec<String> = sandbox
        .flo_events(plan)
        .await
        .iter()
        .filter(|event| format!("{event:?}").contains("closed by the reconciler"))
        .map(|event| format!("{event:?}"))
        .collect();
    assert_eq!(released.len(), 1, "{released:?}");
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_copy_of_no_row_is_removed_and_holds_nothing_up() {
    let redis = PrivateRedis::start().await;
    let mut fleet = fleet(&redis, None, 2).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    sandbox.hold("*").await;
    let plan = producer.submit(&PlanDraft::in_order("copied", 2).document()).await;
    sandbox.wait_for_held(1).await;
    let account = {
        let accounts = fleet.store().accounts(None, Some(plan.plan_id)).await.expect("the database answers");
        accounts[0].account_id
    };
    let mut connection = redis.connection().await.expect("Redis answers");
    let key = format!("{}:account:{account}", fleet.realm().namespace.as_deref().unwrap_or("dat"));
    let copy = json!({"account": account.to_string(), "version": 1_000_000, "limit": 0, "settled": 1, "reserved": 0});
    redis::pipe()
        .atomic()
        .del(&key)
        .hset_multiple(&key, &[("version", "1000000"), ("text", copy.to_string().as_str())])
        .exec_async(&mut connection)
        .await
        .expect("forged");
    wait_for(&mut fleet, 2, "dat_reconciler_drift_total", 1.0).await;
    sandbox.release().await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    fleet.check_everything().await;
}
