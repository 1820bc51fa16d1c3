//! The `dat` command: workers of every role, and the operator's commands.
//!
//! One file a queue (`plan_submitted`, `plan_approved`, `step_dispatch`, `step_failed`) says what its messages mean;
//! one generic loop (`stage`) consumes, commits and acknowledges. The `relay` publishes the log, the `sweeper` rings
//! what nobody heard. `cli` has a file for each family of commands.

mod alarm;
mod asked;
mod asyncapi;
mod backlog;
mod batch;
mod blocker;
mod breakers;
mod cli;
mod console;
mod control;
mod dispatcher;
mod documents;
mod doorbell;
mod doubtful;
mod ended;
mod fleet;
mod going_on;
mod guard;
mod health;
mod held;
mod landed;
mod lanes;
mod late;
mod limits;
mod live;
mod metrics;
mod moments;
mod operators;
mod orchestrator;
mod outbox;
mod outcomes;
mod plan_approved;
mod plan_submitted;
mod rates;
mod readiness;
mod recheck;
mod reconciler;
mod recovery;
mod relay;
mod runner;
mod running;
mod sealer;
mod settings;
mod signing;
mod stage;
mod step_dispatch;
mod step_failed;
mod submitters;
mod sweeper;
mod trace;
mod windows;
mod worker;

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;

/// A worker makes and drops much JSON: a quarter of its time was the C library's allocator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::run(cli::Dat::parse())
}
