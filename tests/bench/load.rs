//! Runs of the load test on a fleet of its own.

use dat_tests::{Fleet, FleetOptions, PlanDraft, StepDraft, dat_binary, log_folder};
use serde_json::{Value, json};
use tokio::process::Command;

/// Rates and a token window that count every step, and never bind.
pub(crate) const LIMITS: &str = "[[rate]]\nconnector = \"echo\"\ncount = 1000000\nperiod_ms = 1000\n\
                                 burst = 100000\n[[token_window]]\nperiod = \"minute\"\nlimit = 1000000000000\n";

/// Consumers that read batches, as the sandbox's and the load test's do.
pub(crate) const BATCHED: &str = "[events]\nbatched = [\"flo\", \"pte\", \"dat.events\"]\n";

/// Five steps in order, that do nothing; with constraints and a budget, or with the budget alone.
pub(crate) fn document(guarded: bool) -> Value {
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

/// A fleet of so many workers, with these settings. Guarded, the tenants that the load test starts with have budgets of a
/// day and a year.
pub(crate) async fn fleet(workers: usize, settings: &str, guarded: bool) -> Fleet {
    let settings = format!("[worker]\nconnections = 6\nslots = 256\n{settings}");
    let fleet = Fleet::start(FleetOptions { workers, settings, ..FleetOptions::default() }).await;
    if guarded {
        for period in ["day", "year"] {
            let limit =
                ["budget", "set", "--tenant", "load-0", "--currency", "token", "--amount", "1000000000"];
            fleet.dat(&[&limit[..], &["--period", period, "--reason", "never binds"]].concat()).await;
        }
    }
    fleet
}

/// The report of one run of plans of this kind. Panics where anything was lost or doubled.
pub(crate) async fn run(fleet: &Fleet, document: &Value, arguments: &[&str]) -> Value {
    let folder = log_folder().join("plans");
    // Starting the fleet emptied the folder of its logs.
    std::fs::create_dir_all(&folder).expect("a folder for plans");
    let file = folder.join("plan.json");
    std::fs::write(&file, document.to_string()).expect("a file for the plan");
    let mut command = Command::new(dat_binary().with_file_name("dat-loadtest"));
    command.args(["run", "--shape", "chain-from-file", "--output", "json", "--file"]).arg(file);
    command.args(arguments).envs(fleet.realm().environment());
    let run = command.output().await.expect("dat-loadtest starts");
    let report: Value = serde_json::from_slice(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&run.stderr)));
    assert!(run.status.success(), "{report:#}");
    report
}

/// A figure of a report, by its place.
pub(crate) fn figure(report: &Value, place: &str) -> f64 {
    report.pointer(place).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {place}: {report:#}"))
}
