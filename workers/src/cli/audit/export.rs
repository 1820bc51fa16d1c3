//! `dat audit export | checkpoint`, and the check of such files.

use std::fs::File;
use std::io::{BufWriter, IntoInnerError, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use dat_plan::checkpoint::Checkpoint;
use dat_plan::export::{Export as ExportFile, ExportReport};
use dat_plan::signing::Trust;

use super::Which;
use crate::cli::failure::{Answer, Failure};
use crate::cli::input::InputFile;
use crate::cli::output::{self, OutputFlag};
use crate::cli::plan_name;
use crate::cli::session::Session;

/// Write one self-contained file of a plan: document, verdicts, every event, and the proofs that checkpoints sealed them
#[derive(Debug, Args)]
#[command(after_help = "\
`dat audit verify --file FILE` checks it with no database; docs/audit-export.md says how anyone else can.

Examples:
  dat audit export PLAN --out plan.json
  dat audit export PLAN --version 2 | dat audit verify --file -")]
pub(crate) struct Export {
    #[command(flatten)]
    which: Which,
    /// Where it is written; the standard output if nothing is given
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Export {
    pub(super) async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let plan = self.which.one(&store).await?;
        let export = store.exporter().export(plan, session.now()).await?;
        let export = export.ok_or_else(|| plan_name::unknown(plan))?;
        if export.events.is_empty() {
            return Err(super::gone(plan));
        }
        let sealed = export.seals.last().map_or(0, |seal| seal.leaf.last_sequence);
        let events = export.events.len();
        match &self.out {
            None => output::json_line(&export)?,
            Some(path) => {
                write(path, &export)?;
                output::line(format_args!("{}: {events} events of plan {plan}", path.display()))?;
            }
        }
        if usize::try_from(sealed) != Ok(events) {
            output::note(format_args!(
                "events {} to {events} are not sealed by a checkpoint yet: export again in a few seconds, while a \
                 worker runs",
                sealed + 1
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes an export so that it is there whole or not at all, also when the machine ends just then.
pub(super) fn write(path: &Path, export: &ExportFile) -> Result<(), Failure> {
    let written = || -> std::io::Result<()> {
        let beside = path.with_extension("part");
        let mut file = BufWriter::new(File::create(&beside)?);
        serde_json::to_writer(&mut file, export)?;
        file.write_all(b"\n")?;
        // What a buffer still holds when it is dropped would be lost without a word.
        file.into_inner().map_err(IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&beside, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    written().map_err(|error| Failure::Failed(format!("{} cannot be written: {error}", path.display())))
}

/// Print a checkpoint of the log, to be kept elsewhere
#[derive(Debug, Args)]
#[command(after_help = "\
Whoever keeps a checkpoint where this database's owner cannot change it can have the log checked against it ever after:
`dat audit verify --checkpoint FILE`. Checkpoints are published as audit.checkpoint, too.

Examples:
  dat audit checkpoint > held.json              the newest
  dat audit checkpoint --number 17")]
pub(crate) struct CheckpointCommand {
    /// Which; the newest if nothing is given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    number: Option<i64>,
}

impl CheckpointCommand {
    pub(super) async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        match (store.checkpoint(self.number).await?, self.number) {
            (Some(checkpoint), _) => output::json_line(&checkpoint)?,
            (None, Some(number)) => {
                return Err(Failure::Failed(format!("there is no checkpoint {number}")));
            }
            (None, None) => {
                let why =
                    "there is no checkpoint yet: a worker makes one some seconds after something happened";
                return Err(Failure::Failed(why.to_owned()));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Checkpoints that someone kept: a file with one or several, as printed or as published.
pub(super) fn held(name: &str) -> Result<Vec<Checkpoint>, Failure> {
    let file = InputFile::read(name)?;
    let bad = |what: String| Failure::Failed(format!("{}: {what}", file.name));
    let text = std::str::from_utf8(&file.body).map_err(|error| bad(error.to_string()))?;
    let values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    let held: Vec<Checkpoint> = values
        .map(|value| {
            let value = value.map_err(|error| bad(error.to_string()))?;
            Checkpoint::read(&value.to_string()).map_err(|error| bad(error.to_string()))
        })
        .collect::<Result<_, Failure>>()?;
    if held.is_empty() {
        return Err(bad("there is no checkpoint in it".to_owned()));
    }
    Ok(held)
}

/// Reads an exported file.
pub(super) fn read(path: &Path) -> Result<ExportFile, Failure> {
    parse(&InputFile::read(&path.display().to_string())?)
}

fn parse(file: &InputFile) -> Result<ExportFile, Failure> {
    serde_json::from_slice(&file.body)
        .map_err(|error| Failure::Failed(format!("{}: it is no export of a plan: {error}", file.name)))
}

/// Checks an exported file with no database.
pub(super) fn verify(name: &str, trust: &Trust, form: OutputFlag) -> Answer {
    let file = InputFile::read(name)?;
    let export = parse(&file)?;
    let report = export
        .verify(trust)
        .map_err(|error| Failure::Failed(format!("{}: it cannot be checked: {error}", file.name)))?;
    if form.is_json() {
        output::json(&report)?;
    } else {
        say(&file.name, &report)?;
    }
    if trust.verdicts.is_empty() || trust.checkpoints.is_empty() {
        output::note(
            "signatures are checked where keys are set: [[verdict_key]] and [[checkpoint_key]] in the settings",
        );
    }
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say(name: &str, report: &ExportReport) -> Result<(), Failure> {
    for fault in &report.faults {
        output::line(fault)?;
    }
    let (plan, version, events) = (report.plan_id, report.plan_version, report.events);
    let sealed = match report.checkpoint {
        None => "none of them sealed".to_owned(),
        Some(number) if report.sealed.unsigned_abs() == events => {
            format!("all of them sealed, last by checkpoint {number}")
        }
        Some(number) => format!("sealed up to event {} by checkpoint {number}", report.sealed),
    };
    let holds = match report.faults.len() {
        0 => "it holds together".to_owned(),
        1 => "1 fault".to_owned(),
        many => format!("{many} faults"),
    };
    let state = report.state.map_or("in no state", |state| state.as_str());
    output::line(format_args!(
        "{name}: plan {plan}/{version}, {state}, {events} events, {sealed}; {} signatures checked; {holds}",
        report.signatures
    ))
}
