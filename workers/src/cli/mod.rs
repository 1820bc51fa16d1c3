//! The command line: one file a family of commands.
//!
//! A command asks for what it needs of a [`Session`], decides, and says what came of it through `output`, the only
//! place that writes. It never has SQL (that is the store's) nor the name of a queue (that is the topology's).

mod act;
mod approve;
mod audit;
mod broker;
mod budget;
mod completions;
mod console;
mod constraints;
mod control;
mod dead;
mod doctor;
mod failure;
mod input;
mod key;
mod logging;
mod metrics;
mod migrate;
mod output;
mod plan;
mod plan_name;
mod sandbox;
mod schema;
mod session;
mod stop;
mod table;
mod topology;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use crate::settings::Flags;
use failure::{Answer, Failure};
use session::Session;

/// How long the runtime waits for what a command left behind, such as a read of the terminal.
const LEAVE: Duration = Duration::from_millis(200);

/// Executes governed plans: nothing runs that was not approved, nothing is spent that was not budgeted, nothing fails
/// without being unwound.
#[derive(Debug, Parser)]
#[command(name = "dat", version, after_help = HELP)]
pub(crate) struct Dat {
    #[command(flatten, next_help_heading = "Servers and settings")]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  dat migrate && dat topology apply        prepare the servers
  dat doctor                               is all of it well, and what to do if not?
  dat worker                               work, in every role
  dat plan validate launch.json            find every fault of a plan, offline
  dat plan submit launch.json --wait       submit it and follow it to its end
  dat console                              look at plans in a browser
  dat plan explain PLAN                    what does it wait for, and what would help?
  dat audit verify                         does the log hold together?

Each command has examples of its own: dat plan submit --help. Exit status: 0 done, 1 not done, 2 wrong usage.";

#[derive(Debug, Subcommand)]
enum Command {
    Worker(worker::WorkerArgs),
    Migrate(migrate::Migrate),
    #[command(subcommand)]
    Topology(topology::Topology),
    #[command(subcommand)]
    Plan(Box<plan::Plan>),
    Approve(approve::Approve),
    #[command(subcommand)]
    Budget(budget::Budget),
    #[command(subcommand)]
    Constraints(constraints::Constraints),
    #[command(subcommand)]
    Control(control::Control),
    #[command(subcommand)]
    Dead(dead::Dead),
    #[command(subcommand)]
    Audit(audit::Audit),
    #[command(subcommand)]
    Key(key::Key),
    Sandbox(sandbox::SandboxArgs),
    Schema(schema::Schema),
    Metrics(metrics::MetricsArgs),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Console(console::ConsoleArgs),
}

/// Runs the command and says what went wrong, if anything did.
pub(crate) fn run(dat: Dat) -> ExitCode {
    let outcome = logging::start(dat.command.log_level()).and_then(|()| {
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("no threads can be started: {error}")))?;
        let outcome = runtime.block_on(dat.command.run(&dat.flags));
        runtime.shutdown_timeout(LEAVE);
        outcome
    });
    outcome.unwrap_or_else(|failure| failure.report())
}

impl Command {
    /// What runs for long says what it does; what answers says only what went wrong, and what it says itself of the
    /// broker is not said twice.
    const fn log_level(&self) -> &'static str {
        match self {
            // The AMQP client writes whole messages into the log; what matters of it we say ourselves.
            Self::Worker(_) | Self::Sandbox(_) => "info,lapin=off",
            Self::Doctor(_) => "off",
            _ => "warn,dat_bus=error,lapin=off",
        }
    }

    async fn run(self, flags: &Flags) -> Answer {
        match self {
            Self::Worker(args) => args.run(Session::open(flags)?).await,
            Self::Migrate(migrate) => migrate.run(&Session::open(flags)?).await,
            Self::Topology(topology) => topology.run(&Session::open(flags)?).await,
            Self::Plan(plan) => plan.run(flags).await,
            Self::Approve(approve) => approve.run(&Session::open(flags)?).await,
            Self::Budget(budget) => budget.run(&Session::open(flags)?).await,
            Self::Constraints(constraints) => constraints.run(flags).await,
            Self::Control(control) => control.run(&Session::open(flags)?).await,
            Self::Dead(dead) => dead.run(&Session::open(flags)?).await,
            Self::Audit(audit) => audit.run(&Session::open(flags)?).await,
            Self::Sandbox(sandbox) => sandbox.run(&Session::open(flags)?).await,
            Self::Key(key) => key.run(),
            Self::Schema(schema) => schema.run(),
            Self::Metrics(metrics) => metrics.run(),
            Self::Doctor(doctor) => doctor.run(&Session::open(flags)?).await,
            Self::Completions(completions) => completions.run(),
            Self::Console(console) => console.run(Session::open(flags)?).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Dat;

    #[test]
    fn every_flag_and_name_is_used_once() {
        Dat::command().debug_assert();
    }

    #[test]
    fn every_command_that_does_something_shows_examples() {
        fn look(command: &clap::Command, path: &str, bare: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            if !command.has_subcommands() && command.get_after_help().is_none() {
                bare.push(path.clone());
            }
            command.get_subcommands().for_each(|inner| look(inner, &path, bare));
        }
        let mut bare = Vec::new();
        look(&Dat::command(), "", &mut bare);
        assert!(bare.is_empty(), "without examples: {bare:?}");
    }

    /// Every command in a runbook: what stands between backticks and begins with `dat `.
    fn commands(runbook: &str) -> impl Iterator<Item = &str> {
        runbook.split('`').skip(1).step_by(2).filter(|code| code.starts_with("dat "))
    }

    #[test]
    fn every_command_of_a_runbook_is_one() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/runbooks");
        let (mut seen, mut faults) = (0, Vec::new());
        for entry in std::fs::read_dir(folder).expect("the runbooks") {
            let path = entry.expect("a file").path();
            for command in commands(&std::fs::read_to_string(&path).expect("a text")) {
                let (mut words, mut quoted) = (vec![String::new()], false);
                for letter in command.chars() {
                    match letter {
                        '"' => quoted = !quoted,
                        ' ' if !quoted => words.push(String::new()),
                        _ => words.last_mut().expect("there is one").push(letter),
                    }
                }
                let id = "d0000000-0000-4000-8000-000000000002";
                let words = words.iter().map(|word| match word.as_str() {
                    "PLAN" => id,
                    "CONNECTOR" => "mux",
                    word => word,
                });
                match Dat::command().try_get_matches_from(words) {
                    Ok(_) => {}
                    Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelp => {}
                    Err(error) => faults.push(format!("{}: {command}: {error}", path.display())),
                }
                seen += 1;
            }
        }
        assert!(faults.is_empty(), "{faults:#?}");
        assert!(seen > 20, "only {seen} commands were found");
    }
}
