//! `dat audit verify`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::cli::failure::Answer;
use crate::cli::output::{self, OutputFlag};
use crate::cli::plan_name::{self, PlanName};
use crate::cli::session::Session;
use crate::cli::table;

/// Prove what happened
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    Verify(Verify),
}

/// Follow every hash chain, and compare log, ledger and accounts; exit status 1 if anything does not hold
#[derive(Debug, Args)]
#[command(after_help = "\
Changes nothing.

Examples:
  dat audit verify                                          everything
  dat audit verify PLAN     the newest version of one plan
  dat audit verify --full   every account from its beginning, not from its last snapshot
  dat audit verify --output json | jq .faults")]
pub(crate) struct Verify {
    /// Only this plan, as UUID or UUID/VERSION (the newest version if none is given)
    plan: Option<PlanName>,
    /// Its version
    #[arg(long, value_name = "N", requires = "plan", value_parser = clap::value_parser!(i32).range(1..))]
    version: Option<i32>,
    /// Follow every account from its beginning, through every snapshot, not only from its last one
    #[arg(long, conflicts_with = "plan")]
    full: bool,
    #[command(flatten)]
    output: OutputFlag,
}

impl Audit {
    pub(crate) async fn run(self, session: &Session) -> Answer {
        match self {
            Self::Verify(verify) => verify.run(session).await,
        }
    }
}

impl Verify {
    async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let only = match self.plan {
            None => None,
            Some(name) => {
                let name = PlanName { version: self.version.or(name.version), ..name };
                Some(name.find(&store).await?.ok_or_else(|| plan_name::unknown(name.id))?)
            }
        };
        let report = if self.full { store.audit_full().await? } else { store.audit(only).await? };
        if let Some(plan) = only
            && report.streams == 0
        {
            return Err(plan_name::unknown(plan));
        }
        if self.output.is_json() {
            output::json(&report)?;
        } else {
            let (streams, events) = (report.streams, report.events);
            if report.faults.is_empty() {
                output::line(format_args!(
                    "{events} events in {streams} streams: every chain holds, log, ledger and accounts agree"
                ))?;
            } else {
                let mut faults = table::table(&["stream", "what does not hold"]);
                for fault in &report.faults {
                    faults.add_row([table::text(fault.plan), table::text(&fault.message)]);
                }
                output::line(faults)?;
                let count = report.faults.len();
                output::line(format_args!("{events} events in {streams} streams: {count} faults"))?;
            }
        }
        Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
