//! `dat audit verify | checkpoint | export | replay | recheck | archive`.

mod archive;
mod export;
mod replay;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use dat_plan::PlanKey;
use dat_store::Store;

use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{self, OutputFlag};
use crate::cli::plan_name::{self, PlanName};
use crate::cli::session::Session;
use crate::cli::table;
use crate::recheck;

/// Prove what happened
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    Verify(Verify),
    Checkpoint(export::CheckpointCommand),
    Export(export::Export),
    Replay(replay::Replay),
    Recheck(Recheck),
    Archive(archive::Archive),
}

/// What is in the log no more.
fn gone(plan: PlanKey) -> Failure {
    Failure::Failed(format!(
        "the events of plan {plan} were archived: the file that was exported then has them"
    ))
}

/// Make every recorded decision again from its recorded inputs; exit status 1 if any comes out otherwise
#[derive(Debug, Args)]
#[command(after_help = "\
Every decision of the constraint engine is in the log with what it looked at: the moment, the plan, the step, the \
account, results, what was counted, and the hashes of the rules. This asks the same rules again, and compares. Changes \
nothing.

Examples:
  dat audit recheck                     everything
  dat audit recheck PLAN                the newest version of one plan
  dat audit recheck --output json | jq .differ")]
pub(crate) struct Recheck {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    output: OutputFlag,
}

/// Which plan.
#[derive(Debug, Args)]
struct Which {
    /// Only this plan, as UUID or UUID/VERSION (the newest version if none is given)
    plan: Option<PlanName>,
    /// Its version
    #[arg(long, value_name = "N", requires = "plan", value_parser = clap::value_parser!(i32).range(1..))]
    version: Option<i32>,
}

impl Which {
    async fn find(self, store: &Store) -> Result<Option<PlanKey>, Failure> {
        match self.plan {
            None => Ok(None),
            Some(name) => {
                let name = PlanName { version: self.version.or(name.version), ..name };
                Ok(Some(name.find(store).await?.ok_or_else(|| plan_name::unknown(name.id))?))
            }
        }
    }

    /// The plan that must be named.
    async fn one(self, store: &Store) -> Result<PlanKey, Failure> {
        let found = self.find(store).await?;
        found.ok_or_else(|| Failure::Usage("name a plan: its UUID, or UUID/VERSION".to_owned()))
    }
}

/// Follow every hash chain and checkpoint, and compare log, approvals, ledger and accounts; exit status 1 if anything
/// does not hold
#[derive(Debug, Args)]
#[command(after_help = "\
Changes nothing. Signatures are checked where keys are set: [[verdict_key]] and [[checkpoint_key]] in the settings.

Examples:
  dat audit verify                          everything
  dat audit verify PLAN                     the newest version of one plan
  dat audit verify --full                   every account from its beginning, not from its last snapshot
  dat audit verify --checkpoint held.json   and the log holds the checkpoints that someone kept
  dat audit verify --file plan.json         an exported plan, with no database
  dat audit verify --output json | jq .faults")]
pub(crate) struct Verify {
    #[command(flatten)]
    which: Which,
    /// Follow every account from its beginning, through every snapshot, not only from its last one
    #[arg(long, conflicts_with = "plan")]
    full: bool,
    /// The log must hold the checkpoints in this file, as they were printed or published; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["plan", "full"])]
    checkpoint: Option<String>,
    /// Check an exported plan, with no database; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["plan", "full", "checkpoint"])]
    file: Option<String>,
    #[command(flatten)]
    output: OutputFlag,
}

impl Audit {
    pub(crate) async fn run(self, session: &Session) -> Answer {
        match self {
            Self::Verify(verify) => verify.run(session).await,
            Self::Checkpoint(checkpoint) => checkpoint.run(session).await,
            Self::Export(export) => export.run(session).await,
            Self::Replay(replay) => replay.run(session).await,
            Self::Recheck(recheck) => recheck.run(session).await,
            Self::Archive(archive) => archive.run(session).await,
        }
    }
}

impl Verify {
    async fn run(self, session: &Session) -> Answer {
        let trust = session.settings.trust()?;
        if let Some(file) = &self.file {
            return export::verify(file, &trust, self.output);
        }
        let held = self.checkpoint.as_deref().map(export::held).transpose()?;
        let store = session.store().await?;
        let only = self.which.find(&store).await?;
        let report = match held {
            Some(held) => store.audit_against(&held, &trust).await?,
            None if self.full => store.audit_full(&trust).await?,
            None => store.audit(only, &trust).await?,
        };
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
                if report.archived > 0 {
                    let archived = report.archived;
                    output::line(format_args!(
                        "{archived} streams were archived: they ended where they were sealed"
                    ))?;
                }
                if only.is_none() {
                    let (checkpoints, signatures) = (report.checkpoints, report.signatures);
                    let unsealed = report.unsealed;
                    output::line(format_args!(
                        "{checkpoints} checkpoints: every one holds, {signatures} signatures checked; {unsealed} \
                         events are not sealed yet"
                    ))?;
                }
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

impl Recheck {
    async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let only = self.which.find(&store).await?;
        let report = recheck::recheck(&store, only).await?;
        if self.output.is_json() {
            output::json(&report)?;
        } else {
            if !report.differ.is_empty() {
                let mut table = table::table(&["plan", "event", "step", "what differs"]);
                for one in &report.differ {
                    table.add_row([
                        table::text(one.plan),
                        table::text(format!("{} {}", one.sequence, one.event)),
                        table::text(one.step.as_deref().unwrap_or("")),
                        table::text(&one.message),
                    ]);
                }
                output::line(table)?;
            }
            let (plans, decisions, differ) = (report.plans, report.decisions, report.differ.len());
            let outcome = match differ {
                0 => "each came out as it was recorded".to_owned(),
                1 => "1 came out otherwise".to_owned(),
                many => format!("{many} came out otherwise"),
            };
            output::line(format_args!("{decisions} decisions of {plans} plans made again: {outcome}"))?;
        }
        Ok(if report.differ.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
