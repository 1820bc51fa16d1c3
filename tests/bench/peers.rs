//! Five no-op steps of a workflow beside other engines, in turns on the same machine: DAT with everything on, they with what
//! they have. `make bench-peers` installs them into the folder that `DAT_PEERS` names.

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::figures::median;
use crate::load::{self, BATCHED, LIMITS, document, figure};

/// How many times each is measured, in turns.
const RUNS: usize = 3;
/// Workflows that are in flight at once, of each.
const CLIENTS: &str = "128";
/// Workflows one after the other, for the latency of one alone.
const ALONE: &str = "100";
/// Who is measured, the program and how many workflows: some seconds' worth.
const PEERS: [(&str, &[&str], &str); 3] = [
    ("restate", &["node", "bench.mjs"], "6000"),
    ("dbos", &["node", "bench.mjs"], "3000"),
    ("celery", &["venv/bin/python", "bench.py"], "1500"),
];
const DAT_PLANS: &str = "3000";

/// One run of DAT: steps a second, and the latency of a plan alone.
async fn dat() -> Value {
    let fleet = load::fleet(1, &format!("{LIMITS}{BATCHED}"), true).await;
    let many = load::run(&fleet, &document(true), &["--plans", DAT_PLANS, "--in-flight", CLIENTS]).await;
    let alone = load::run(&fleet, &document(true), &["--plans", ALONE, "--in-flight", "1"]).await;
    json!({
        "peer": "dat, everything on",
        "version": env!("CARGO_PKG_VERSION"),
        "steps_per_s": figure(&many, "/steps_per_s"),
        "alone_p50_ms": figure(&alone, "/latency_ms/executed/p50"),
        "alone_p99_ms": figure(&alone, "/latency_ms/executed/p99"),
    })
}

async fn peer(name: &str, program: &[&str], workflows: &str) -> Value {
    let folder = PathBuf::from(std::env::var_os("DAT_PEERS").expect("DAT_PEERS is set: make bench-peers"));
    // Its own database, virtual host and Redis, with no worker in it.
    let realm = load::fleet(0, "", false).await;
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).current_dir(folder.join(name));
    command.envs(realm.realm().environment()).env("DATABASE_URL", &realm.realm().database_url);
    command.envs([("WORKFLOWS", workflows), ("CLIENTS", CLIENTS), ("ALONE", ALONE)]);
    let run = command.output().await.expect("the peer's program starts");
    let said = String::from_utf8_lossy(&run.stdout);
    said.lines().rev().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| {
        panic!("{name} ended with {} and no figures: {}", run.status, String::from_utf8_lossy(&run.stderr))
    })
}

pub(crate) async fn run() -> bool {
    let mut reports: Vec<Vec<Value>> = vec![Vec::new(); PEERS.len() + 1];
    for _ in 0..RUNS {
        for (place, (name, program, workflows)) in PEERS.into_iter().enumerate() {
            reports[place + 1].push(peer(name, program, workflows).await);
            println!("{}", reports[place + 1].last().unwrap_or(&Value::Null));
        }
        reports[0].push(dat().await);
        println!("{}", reports[0].last().unwrap_or(&Value::Null));
    }
    let of = |place: usize, part: &str| -> Vec<f64> {
        reports[place].iter().map(|report| figure(report, &format!("/{part}"))).collect()
    };
    println!(
        "\n{:28}{:>10}{:>10}{:>10}{:>12}{:>12}{:>8}",
        "five steps, 128 at once", "steps/s", "least", "most", "alone p50", "alone p99", "ratio"
    );
    let ours = median(&of(0, "steps_per_s"));
    for (place, report) in reports.iter().enumerate() {
        let steps = of(place, "steps_per_s");
        let (least, most) = steps.iter().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
        let name =
            [&report[0]["peer"], &report[0]["version"]].map(|part| part.as_str().unwrap_or("?")).join(" ");
        println!(
            "{name:28}{:>10.0}{least:>10.0}{most:>10.0}{:>9.1} ms{:>9.1} ms{:>8.2}",
            median(&steps),
            median(&of(place, "alone_p50_ms")),
            median(&of(place, "alone_p99_ms")),
            ours / median(&steps),
        );
    }
    true
}
