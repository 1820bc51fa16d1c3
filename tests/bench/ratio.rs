//! The fleet's throughput with every guard on, as a ratio of that without any, in one run.

use std::path::Path;

use dat_tests::{Fleet, FleetOptions, PlanDraft, StepDraft, dat_binary, log_folder};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::figures::median;

/// How many times each is measured, in turns.
const RUNS: usize = 3;
const PLANS: &str = "600";

const LIMITS: &str = "[[rate]]\nconnector = \"echo\"\ncount = 1000000\nperiod_ms = 1000\nburst = 100000\n\
                      [[token_window]]\nperiod = \"minute\"\nlimit = 1000000000000\n";

/// Five steps in order, that do nothing.
fn document(guarded: bool) -> Value {
    let draft = (0..5).fold(PlanDraft::new("bench"), |plan, n| {
        let step =
            StepDraft::new(&format!("s{n}"), &json!({})).set("connector", "echo").set("action", "echo");
        plan.step(step.set("max_cost", 10).set("parameters", json!({"units": 3})))
    });
    let draft = draft.set("budget", json!({"amount": 1_000, "currency": "token"}));
    if !guarded {
        return draft.document();
    }
    let rules = json!([
        {"id": "window", "enforcement": "hard", "kind": "time_window", "not_before": "2020-01-01T00:00:00Z"},
        {"id": "units", "enforcement": "hard", "kind": "quantity", "parameter": "units", "max": 10},
        {"id": "room", "enforcement": "hard", "kind": "predicate", "require": "budget.reserved <= budget.amount"},
    ]);
    draft.set("constraints", rules).document()
}

/// Steps a second of one run of the load test on a fleet of its own.
async fn steps_a_second(folder: &Path, guarded: bool) -> f64 {
    let limits = if guarded { LIMITS } else { "" };
    let settings = format!("[worker]\nconnections = 5\n{limits}");
    let fleet = Fleet::start(FleetOptions { settings, ..FleetOptions::default() }).await;
    if guarded {
        for period in ["day", "year"] {
            let limit =
                ["budget", "set", "--tenant", "load-0", "--currency", "token", "--amount", "1000000000"];
            fleet.dat(&[&limit[..], &["--period", period, "--reason", "never binds"]].concat()).await;
        }
    }
    // Starting the fleet emptied the folder of its logs.
    std::fs::create_dir_all(folder).expect("a folder for plans");
    let file = folder.join("plan.json");
    std::fs::write(&file, document(guarded).to_string()).expect("a file for the plan");
    let mut command = Command::new(dat_binary().with_file_name("dat-loadtest"));
    command
        .args(["run", "--shape", "chain-from-file", "--plans", PLANS, "--output", "json", "--file"])
        .arg(file);
    command.envs(fleet.realm().broker_environment());
    let run = command.output().await.expect("dat-loadtest starts");
    let report: Value = serde_json::from_slice(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&run.stderr)));
    assert!(run.status.success(), "{report:#}");
    report["steps_per_s"].as_f64().expect("a figure")
}

pub(crate) async fn run() -> bool {
    let folder = log_folder().join("plans");
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        off.push(steps_a_second(&folder, false).await);
        on.push(steps_a_second(&folder, true).await);
        println!("run {}: {:.0} steps a second without guards, {:.0} with all", run + 1, off[run], on[run]);
    }
    let (on, off) = (median(&on), median(&off));
    println!("medians: {off:.0} without, {on:.0} with: the guards leave {:.0} %", on / off * 100.0);
    true
}
