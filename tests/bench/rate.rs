//! A rate of 50 a second, 4 workers, 20,000 steps waiting: what passes, and what PostgreSQL does for it.

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::PlanKey;
use dat_tests::{Fleet, FleetOptions};
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Duration, sleep};

use crate::figures::plan;

const RATE: usize = 50;
const BURST: usize = 40;
const WINDOW: TimeDelta = TimeDelta::seconds(20);

async fn transactions(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()",
    )
    .fetch_one(connection)
    .await
    .expect("the database answers")
}

async fn arrivals(fleet: &Fleet, plans: &[PlanKey]) -> Vec<DateTime<Utc>> {
    let mut arrivals = Vec::new();
    for plan in plans {
        arrivals.extend(fleet.sandbox().requests(*plan).await.iter().map(|request| request.received_at));
    }
    arrivals.sort();
    arrivals
}

fn between(arrivals: &[DateTime<Utc>], from: DateTime<Utc>, to: DateTime<Utc>) -> usize {
    arrivals.iter().filter(|at| (from..to).contains(at)).count()
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn ratio(part: i64, whole: usize) -> f64 {
    part as f64 / whole as f64
}

pub(crate) async fn run() -> bool {
    let settings = format!(
        "[worker]\nconnections = 5\n[[rate]]\nconnector = \"mux\"\ncount = {RATE}\nperiod_ms = 1000\nburst = {BURST}\n"
    );
    let fleet = Fleet::start(FleetOptions { workers: 4, settings, ..FleetOptions::default() }).await;
    let producer = fleet.producer().await;
    let mut database =
        PgConnection::connect(&fleet.realm().database_url).await.expect("the database answers");
    let mut plans = Vec::new();
    for _ in 0..2 {
        plans.push(producer.submit(&plan("acme", 10_000, true, 0).document()).await);
    }
    producer.wait_for("steps wait", |e| e.plan == plans[0] && e.kind == "plan.executing").await;
    let mut within = true;
    for name in ["the first 20 s, in which 20,000 steps are given their turns", "20 s later on"] {
        let (before, seen) = (transactions(&mut database).await, arrivals(&fleet, &plans).await.len());
        sleep(WINDOW.to_std().unwrap_or(Duration::ZERO)).await;
        let passed = arrivals(&fleet, &plans).await.len() - seen;
        let done = transactions(&mut database).await - before;
        let each = ratio(done, passed);
        println!("{name}: {passed} steps passed, {done} transactions, {each:.2} a step");
        within &= each <= 3.0;
    }
    let arrivals = arrivals(&fleet, &plans).await;
    let first = arrivals[0];
    let allowed = RATE * 20 + BURST;
    let seen = between(&arrivals, first, first + WINDOW);
    let most = arrivals.iter().map(|from| between(&arrivals, *from, *from + TimeDelta::seconds(1))).max();
    let share = ratio(i64::try_from(seen).unwrap_or(0), allowed);
    println!("from the first on, MUX saw {seen} of {allowed} in 20 s: {:.1} %", share * 100.0);
    println!("in no second more than {} of {}", most.unwrap_or(0), RATE + BURST);
    within && share >= 0.95 && most.unwrap_or(0) <= RATE + BURST
}
