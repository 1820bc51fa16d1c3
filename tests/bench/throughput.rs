//! Throughput and latency with everything on: guards, budgets, approval, the audit log and both streams of events; with one,
//! two and four workers, each with as many plans in flight as it has slots, and as a share of what the servers let through.

use serde_json::Value;

use crate::figures::median;
use crate::load::{self, BATCHED, LIMITS, document, figure};

/// How many times each is measured, in turns.
const RUNS: usize = 3;
const PLANS: &str = "3000";
/// Plans in flight, for each worker: as many as it has slots.
const IN_FLIGHT: usize = 256;
const WORKERS: [usize; 3] = [1, 2, 4];
/// Plans one after the other, for the latency of a plan alone.
const ALONE: &str = "100";
/// Shares of the best throughput at which latency is measured, per cent; an open loop.
const LOADS: [u32; 3] = [25, 50, 80];
/// How long such a load lasts, seconds.
const LOADED_S: f64 = 20.0;

/// The processor time a step of processes whose name begins so, microseconds.
fn cpu_us(report: &Value, name: &str) -> f64 {
    let processes = report.pointer("/cost/processes").and_then(Value::as_array);
    let of = |one: &&Value| one["name"].as_str().is_some_and(|found| found.starts_with(name));
    let seconds: f64 =
        processes.into_iter().flatten().filter(of).filter_map(|one| one["cpu_s"].as_f64()).sum();
    seconds * 1e6 / figure(report, "/counts/steps")
}

fn settings() -> String {
    format!("{LIMITS}{BATCHED}")
}

fn line(what: &str, runs: &[f64]) {
    let (least, most) = runs.iter().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
    println!("{what:58}{:>10.1}{least:>12.1}{most:>10.1}", median(runs));
}

pub(crate) async fn run() -> bool {
    let mut reports: Vec<Vec<Value>> = vec![Vec::new(); WORKERS.len()];
    for run in 0..RUNS {
        for (place, workers) in WORKERS.into_iter().enumerate() {
            let fleet = load::fleet(workers, &settings(), true).await;
            let in_flight = (IN_FLIGHT * workers).to_string();
            let arguments = ["--plans", PLANS, "--in-flight", &in_flight, "--cost"];
            let report = load::run(&fleet, &document(true), &arguments).await;
            println!("run {}, {workers} workers: {:.0} steps/s", run + 1, figure(&report, "/steps_per_s"));
            reports[place].push(report);
        }
    }
    println!("\n{:58}{:>10}{:>12}{:>10}", "everything on, five steps a plan", "median", "least", "most");
    let mut worker_cpu = Vec::new();
    let mut best: f64 = 0.0;
    for (workers, reports) in WORKERS.into_iter().zip(&reports) {
        let of = |place: &str| reports.iter().map(|report| figure(report, place)).collect::<Vec<_>>();
        line(&format!("{workers} workers: steps/s"), &of("/steps_per_s"));
        line(&format!("{workers} workers: all processor time a step, us"), &of("/cost/cpu_us_per_step"));
        let cpu: Vec<f64> = reports.iter().map(|report| cpu_us(report, "worker")).collect();
        line(&format!("{workers} workers: theirs, us"), &cpu);
        for (name, place) in [
            ("transactions a step", "/cost/transactions_per_step"),
            ("bytes of write-ahead log a step", "/cost/wal_bytes_per_step"),
            ("messages published a step", "/cost/messages_per_step"),
            ("round trips to Redis a step", "/cost/redis_round_trips_per_step"),
        ] {
            line(&format!("{workers} workers: {name}"), &of(place));
        }
        worker_cpu.push(median(&cpu));
        best = best.max(median(&of("/steps_per_s")));
    }
    latencies(best).await;
    let grows = worker_cpu[WORKERS.len() - 1] / worker_cpu[0];
    println!("processor time of workers a step, at 4 as a ratio of that at 1: {grows:.2} (at most 1.1)");
    grows <= 1.1
}

/// Latency of a plan alone, and under a part of the load that the fleet bears.
async fn latencies(best: f64) {
    let fleet = load::fleet(1, &settings(), true).await;
    println!("\n{:58}{:>10}{:>12}{:>10}", "approval to completion, ms", "p50", "p99", "max");
    let alone = load::run(&fleet, &document(true), &["--plans", ALONE, "--in-flight", "1", "--limit"]).await;
    let told = |what: &str, report: &Value| {
        let of = |part: &str| figure(report, &format!("/latency_ms/executed/{part}"));
        println!("{what:58}{:>10.1}{:>12.1}{:>10.1}", of("p50"), of("p99"), of("max"));
    };
    told("a plan alone", &alone);
    for load in LOADS {
        let plans_a_second = best / 5.0 * f64::from(load) / 100.0;
        let (rate, plans) = (format!("{plans_a_second:.2}"), format!("{:.0}", plans_a_second * LOADED_S));
        let report = load::run(&fleet, &document(true), &["--rate", &rate, "--plans", &plans]).await;
        told(&format!("at {load} % of {best:.0} steps/s, an open loop"), &report);
    }
    println!("\n{:58}{:>10}{:>12}", "the servers with no logic at all", "steps/s", "share");
    for limit in alone["limits"].as_array().into_iter().flatten() {
        let way = |part: &str| limit["way"][part].as_bool().unwrap_or_default();
        let name = format!(
            "a dispatch a {}, {}",
            if way("going_on") { "plan" } else { "step" },
            if way("batched_events") { "events of a batch in one message" } else { "a message an event" },
        );
        let steps = limit["steps_per_s"].as_f64().unwrap_or(f64::NAN);
        println!("{name:58}{steps:>10.0}{:>10.1} %", best / steps * 100.0);
    }
    println!();
}
