//! `dat-loadtest`: plans for a fleet, and a measure of what becomes of them.
//!
//! It is a producer like any other: it publishes plan documents with confirms, follows `dat.events`, and knows of DAT
//! only the names and bodies of the contract ([`contract`], [`event`]). Of DAT's crates it links the bus, and the
//! clock and the seeded randomness of `dat-plan`; it sees no worker and no topology, and of the servers' data nothing but
//! their counters, where it is asked what a run [`cost`]. Only [`history`], which copies a plan's rows so that a fleet may
//! be measured on millions of them, goes behind the contract.
//!
//! [`workload`] makes the documents, [`pace`] says when each is due, [`session`] publishes and listens, [`tally`]
//! accounts for every plan, and [`sandbox`] asks the outside world whether it agrees.
//!
//! The exit status is 0 if every plan ended once and as expected, 1 if one did not, 2 if no run could be made.

mod blueprint;
mod command;
mod contract;
mod cost;
mod event;
mod failure;
mod faults;
mod history;
mod latency;
mod limit;
mod pace;
mod picture;
mod progress;
mod report;
mod sandbox;
mod seen;
mod session;
mod submission;
mod tally;
mod timeline;
mod workload;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use dat_plan::Entropy as _;
use dat_plan::clock::{SeededEntropy, SystemClock};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::blueprint::Blueprint;
use crate::command::{Cli, Command, OutputFormat, RunArgs};
use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::report::{Report, Setup};
use crate::session::{Outcome, Session};
use crate::workload::Workload;

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("dat_bus=warn"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    let told = match command {
        Command::Run(args) => run(&args).await.map(|report| {
            let text = match args.output {
                OutputFormat::Table => report.table(),
                OutputFormat::Json => report.json(),
            };
            (text, report.passed)
        }),
        Command::History(args) => {
            history::load(&args, SeededEntropy::from_os().id()).await.map(|text| (text, true))
        }
        Command::Limit { args, output } => limit::measure(&args).await.map(|limits| {
            let text = match output {
                OutputFormat::Table => limit::table(&limits, None),
                OutputFormat::Json => serde_json::json!(limits).to_string(),
            };
            (text, true)
        }),
    };
    match told {
        Ok((text, passed)) => {
            let written = writeln!(std::io::stdout(), "{}", text.trim_end());
            if written.is_ok() && passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "dat-loadtest: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Makes one run and judges it.
async fn run(args: &RunArgs) -> Result<Report, Failure> {
    let blueprint = match args.file()? {
        Some(path) => Blueprint::read(path)?,
        None => Blueprint::generated(args.shape, args.connector, args.steps),
    };
    let pace = args.pace()?;
    let seed = args.seed.unwrap_or_else(|| SeededEntropy::from_os().below(u64::MAX));
    let workload = Workload::new(&blueprint, args.plans, args.tenants, args.fail_share()?, seed);
    if let Some(url) = &args.sandbox_url {
        sandbox::find(url).await?;
    }
    let session = Session::open(args, pace, blueprint.steps()).await?;
    let (outcome, cost) = measured(args, session.run(workload, &SystemClock)).await?;
    if let Some(path) = &args.picture {
        picture::draw(path, &outcome.tally.timeline.points())?;
    }
    let world = match &args.sandbox_url {
        Some(url) => Some(sandbox::compare(url, outcome.tally.ended_plans(), blueprint.charges()).await?),
        None => None,
    };
    let setup = Setup {
        seed,
        plans: args.plans,
        steps: blueprint.steps(),
        shape: args.shape,
        connector: args.file()?.is_none().then_some(args.connector),
        fail_share: args.fail_share()?,
        tenants: args.tenants.get(),
        pace,
    };
    let limits = match args.limit(blueprint.steps()) {
        Some(args) => limit::measure(&args).await?,
        None => Vec::new(),
    };
    Ok(Report::new(setup, &outcome, world, (cost, limits)))
}

/// A run, and what it cost where that is asked for.
async fn measured(
    args: &RunArgs,
    run: impl Future<Output = Result<Outcome, Failure>>,
) -> Result<(Outcome, Option<Cost>), Failure> {
    if !args.counters.cost {
        return Ok((run.await?, None));
    }
    let meter = Meter::start(&args.counters, &args.amqp_url).await?;
    let over = CancellationToken::new();
    let watching = tokio::spawn(meter.watch(over.clone()));
    let outcome = run.await;
    over.cancel();
    let (outcome, meter) = (outcome?, watching.await?);
    let steps = u64::from(outcome.tally.counts.steps);
    Ok((outcome, Some(meter.read(steps).await?)))
}
