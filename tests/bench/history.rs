//! The same throughput in a database with a million finished steps, or with 200,000 plans that wait, as in an empty one.

use dat_plan::Clock as _;
use dat_plan::clock::SystemClock;
use dat_tests::{Fleet, PlanDraft, StepDraft, dat_binary};
use serde_json::json;
use tokio::process::Command;

use crate::figures::median;
use crate::load::{self, BATCHED, LIMITS, document, figure};

/// How many times each is measured, in turns.
const RUNS: usize = 3;
const RUN: [&str; 4] = ["--plans", "2000", "--in-flight", "256"];

/// How many plans are copied: `DAT_BENCH_PLANS`, or 200,000; a million steps.
fn plans() -> String {
    std::env::var("DAT_BENCH_PLANS").unwrap_or_else(|_| "200000".to_owned())
}

async fn copy(fleet: &Fleet, arguments: &[&str]) {
    let mut command = Command::new(dat_binary().with_file_name("dat-loadtest"));
    command.arg("history").args(arguments).env("DATABASE_URL", &fleet.realm().database_url);
    let done = command.output().await.expect("dat-loadtest starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    print!("{}", String::from_utf8_lossy(&done.stdout));
}

async fn fleet() -> Fleet {
    load::fleet(1, &format!("{LIMITS}{BATCHED}"), true).await
}

async fn steps_a_second(fleet: &Fleet) -> f64 {
    figure(&load::run(fleet, &document(true), &RUN).await, "/steps_per_s")
}

/// Two fleets in turns: one whose database was filled, and one whose was not.
async fn compare(what: &str, filled: &Fleet, few: &Fleet) -> bool {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        without.push(steps_a_second(few).await);
        with.push(steps_a_second(filled).await);
        println!("run {}: {:.0} steps/s without, {:.0} with {what}", run + 1, without[run], with[run]);
    }
    let (with, without) = (median(&with), median(&without));
    println!("medians: {without:.0} without, {with:.0} with {what}: {:.2} (at least 0.9)", with / without);
    with >= 0.9 * without
}

/// With a million finished steps, and their events, as with none.
pub(crate) async fn run() -> bool {
    let (filled, few) = (fleet().await, fleet().await);
    // Both are warm: what was planned for empty tables is planned anew.
    for fleet in [&filled, &few] {
        steps_a_second(fleet).await;
    }
    copy(&filled, &["--plans", &plans(), "--tenant", "history"]).await;
    compare("a history", &filled, &few).await
}

/// With 200,000 plans that wait for tomorrow, of the tenant that is measured, as with 200.
pub(crate) async fn backlog() -> bool {
    let (filled, few) = (fleet().await, fleet().await);
    for (fleet, plans) in [(&filled, plans()), (&few, "200".to_owned())] {
        let tomorrow = (SystemClock.now() + chrono::TimeDelta::days(1)).to_rfc3339();
        let window =
            json!([{"id": "later", "enforcement": "hard", "kind": "time_window", "not_before": tomorrow}]);
        let step = StepDraft::new("s", &json!({})).set("connector", "echo").set("action", "echo");
        let draft = PlanDraft::new("waits").set("tenant", "load-0").set("constraints", window).step(step);
        let producer = fleet.producer().await;
        let waiting = producer.submit(&draft.document()).await;
        producer.wait_for("it waits", |e| e.plan == waiting && e.kind == "constraint.violated").await;
        steps_a_second(fleet).await;
        let id = waiting.plan_id.to_string();
        copy(fleet, &["--plans", &plans, "--of", &id]).await;
    }
    compare("a backlog", &filled, &few).await
}
