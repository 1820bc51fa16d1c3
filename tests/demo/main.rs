//! The demo: the whole system on this machine, seen from outside.
//!
//! It starts a sandbox and two workers, each a process of its own, publishes scenario plans to `plan.submitted` as any
//! AMQP producer would, shows their progress as an operator sees it (`dat plan watch`), and ends with a table. It
//! succeeds only if every plan came to the end it must have and DAT's ledger and FLO agree to the last unit.
#![expect(clippy::print_stdout, reason = "what it prints is the demo")]

mod report;
mod scenario;

use std::process::{Command, ExitCode, Stdio};

use dat_plan::PlanKey;
use dat_tests::{Fleet, FleetOptions, dat_binary};

use report::Report;
use scenario::Scenario;

#[tokio::main]
async fn main() -> ExitCode {
    println!(
        "Starting a sandbox (GGP, MUX, FLO, PTE) and two workers, on a database and virtual host of their own …"
    );
    let fleet = Fleet::start(FleetOptions::default()).await;
    let producer = fleet.producer().await;
    let scenarios = Scenario::all();
    let mut plans = Vec::new();
    println!("Publishing {} plans to plan.submitted:\n", scenarios.len());
    for scenario in &scenarios {
        println!("  {:<26} {}", scenario.file, scenario.story);
        plans.push(producer.submit(&scenario.document()).await);
    }
    println!("\nTheir progress, as `dat plan watch` shows it:\n");
    watch(&fleet, &plans).await;
    let ends = producer.wait_for_ends(&plans).await;
    println!("\nWhat came of them (amounts in the smallest unit of the currency):\n");
    let report = Report::gather(&fleet, &scenarios, &plans, &ends).await;
    println!("{report}");
    if report.holds() {
        println!("Everything held. `make down` stops the servers; they are kept for the next run.");
        ExitCode::SUCCESS
    } else {
        println!("NOT everything held: see the lines marked ✗ above.");
        ExitCode::FAILURE
    }
}

/// What a program needs to know of its terminal.
const TERMINAL: [&str; 6] = ["TERM", "COLUMNS", "LINES", "NO_COLOR", "COLORTERM", "LANG"];

/// Follows the plans as an operator would, in this terminal, until they have ended.
async fn watch(fleet: &Fleet, plans: &[PlanKey]) {
    let mut command = Command::new(dat_binary());
    command.args(["plan", "watch"]).args(plans.iter().map(|plan| plan.plan_id.to_string()));
    // Nothing of the caller's settings gets in; the terminal's own variables do.
    command.env_clear().envs(std::env::vars().filter(|(name, _)| TERMINAL.contains(&name.as_str())));
    command.envs(fleet.realm().environment()).stdin(Stdio::null());
    let watched = tokio::task::spawn_blocking(move || command.status()).await;
    if !matches!(watched, Ok(Ok(status)) if status.success()) {
        println!("(dat plan watch could not follow them: {watched:?})");
    }
}
