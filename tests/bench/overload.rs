//! Twice what the fleet bears, for two minutes: it goes on at its best, holds no more memory for it, loses nothing, and
//! works off what waited.

use serde_json::Value;

use crate::load::{self, BATCHED, LIMITS, document, figure};

/// How long the overload lasts, seconds.
const OVERLOAD_S: u32 = 120;
/// What is measured of it: not its beginning.
const FROM_S: usize = 20;

/// Most of what a worker held at once, MiB.
fn peak_mib(report: &Value) -> f64 {
    let processes = report.pointer("/cost/processes").and_then(Value::as_array);
    let workers = processes
        .into_iter()
        .flatten()
        .filter(|p| p["name"].as_str().is_some_and(|n| n.starts_with("worker")));
    workers.filter_map(|worker| worker["peak_bytes"].as_f64()).fold(0.0, f64::max) / (1024.0 * 1024.0)
}

pub(crate) async fn run() -> bool {
    let settings = format!("{LIMITS}{BATCHED}");
    let fleet = load::fleet(2, &settings, true).await;
    let best = load::run(&fleet, &document(true), &["--plans", "2000", "--in-flight", "256", "--cost"]).await;
    let (sustained, before) = (figure(&best, "/steps_per_s"), peak_mib(&best));
    let rate = 2.0 * sustained / 5.0;
    let plans = format!("{:.0}", rate * f64::from(OVERLOAD_S));
    let arguments = ["--rate", &format!("{rate:.2}"), "--plans", &plans, "--cost", "--timeout-s", "900"];
    let report = load::run(&fleet, &document(true), &arguments).await;
    let timeline: Vec<f64> = report["timeline"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|second| second["steps"].as_f64())
        .skip(FROM_S)
        .take(OVERLOAD_S as usize - FROM_S)
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "a hundred seconds")]
    let during = timeline.iter().sum::<f64>() / timeline.len() as f64;
    let (after, took) = (peak_mib(&report), figure(&report, "/measured_s"));
    println!(
        "twice {sustained:.0} steps/s for {OVERLOAD_S} s, {plans} plans: {during:.0} steps/s meanwhile, {:.2} of the best",
        during / sustained
    );
    println!(
        "a worker held {before:.0} MiB at most before, {after:.0} under the overload; nothing was lost, and all of it was done {:.0} s after its end",
        took - f64::from(OVERLOAD_S)
    );
    during >= 0.9 * sustained
}
