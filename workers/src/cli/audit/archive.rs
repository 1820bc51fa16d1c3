//! `dat audit archive`: months of the log whose plans ended long ago leave the database, each plan in a file of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use chrono::TimeDelta;
use clap::Args;
use dat_plan::PlanKey;
use dat_plan::signing::Trust;
use dat_store::{LogMonth, Store};
use tokio::time::sleep;

use super::export;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{self, OutputFlag};
use crate::cli::session::Session;
use crate::cli::table;

/// Plans in one transaction.
const PAGE: i64 = 200;
/// How often it looks whether what it waits for is there.
const LOOK: Duration = Duration::from_millis(500);
/// How often it tries to lock the log, where somebody writes.
const TRIES: u32 = 5;

/// Export months of the log whose plans ended long ago, a file each plan, and detach them from the database
#[derive(Debug, Args)]
#[command(after_help = "\
A month goes when every plan that was registered in it ended longer ago than retention.days (or --older-than). Its plans \
become archived, checkpoints seal that, each plan is written to DIR/YYYY-MM/PLAN.vVERSION.json and checked as \
'dat audit verify --file' would, and only then the month's table is detached. It stays in the database, by itself, as \
execution_event_YYYY_MM, until you drop it. Checkpoints stay for ever. A worker must be running: it publishes and seals.
Run again after an interruption: it goes on where it was.

Examples:
  dat audit archive                                     which months could go, and what keeps the others
  dat audit archive --out /archive                      by retention.days
  dat audit archive --out /archive --older-than 90      days")]
pub(crate) struct Archive {
    /// Where the files are written; without it, nothing is changed
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Days since the last plan of a month ended, instead of retention.days
    #[arg(long, value_name = "DAYS")]
    older_than: Option<u32>,
    /// Seconds to wait for what is not published and sealed yet
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    wait: u64,
    #[command(flatten)]
    output: OutputFlag,
}

impl Archive {
    pub(super) async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let days = self.older_than.unwrap_or(session.settings.retention.days);
        let before = session.now() - TimeDelta::days(i64::from(days));
        let months = store.log_months(before).await?;
        let Some(folder) = &self.out else { return self.list(&months, days) };
        let mut archived = 0;
        for month in &months {
            let name = month.first.format("%Y-%m");
            if let Some(blocker) = month.blocker() {
                output::note(format_args!("{name} stays: {blocker}"));
                continue;
            }
            let events = self.month(session, &store, month, &folder.join(name.to_string())).await?;
            archived += 1;
            output::line(format_args!(
                "{name}: {} plans, {events} events: exported, checked and detached",
                month.plans
            ))?;
        }
        if archived == 0 {
            output::line(format_args!("no month is over whose plans all ended {days} days ago"))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn list(&self, months: &[LogMonth], days: u32) -> Answer {
        if self.output.is_json() {
            output::json(&months)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = table::table(&["month", "plans", "what keeps it"]);
        for month in months {
            let why = month.blocker().unwrap_or_else(|| "nothing: --out DIR archives it".to_owned());
            table.add_row([
                table::text(month.first.format("%Y-%m")),
                table::text(month.plans),
                table::text(why),
            ]);
        }
        output::line(table)?;
        output::line(format_args!("{} months are over whose last day is {days} days ago", months.len()))?;
        Ok(ExitCode::SUCCESS)
    }

    /// Archives a month: its plans first, then, when that is sealed, their files, and its table last. Gives how many events
    /// it held.
    async fn month(
        &self,
        session: &Session,
        store: &Store,
        month: &LogMonth,
        folder: &Path,
    ) -> Result<i64, Failure> {
        let reason = format!("the log of {} is archived", month.first.format("%Y-%m"));
        let mut after: Option<PlanKey> = None;
        loop {
            let plans = store.plans_of_month(month.first, after, PAGE).await?;
            let Some(last) = plans.last() else { break };
            after = Some(*last);
            store.archive_plans(&plans, &reason, session.now()).await?;
        }
        let mut exported = self.exported(session, store, month, folder).await?;
        let mut tries = 0;
        loop {
            match store.detach_month(month.first, exported, session.now()).await {
                Ok(true) => return Ok(exported),
                Ok(false) if tries < TRIES => {
                    output::note("something was written to it while it was exported: again");
                    exported = self.exported(session, store, month, folder).await?;
                }
                Ok(false) => {
                    let why = "something is written to it again and again: it stays, see 'dat audit verify'";
                    return Err(Failure::Failed(why.to_owned()));
                }
                // Somebody writes to the log all the time; nobody waits for long.
                Err(error) if error.is_unavailable() && error.denied().is_none() && tries < TRIES => {
                    output::note(format_args!("the log is busy ({error}): again"));
                    sleep(LOOK).await;
                }
                Err(error) => return Err(error.into()),
            }
            tries += 1;
        }
    }

    /// Waits until everything of a month is published and sealed.
    async fn settled(&self, store: &Store, month: &LogMonth) -> Result<(), Failure> {
        let wait = tokio::time::timeout(Duration::from_secs(self.wait), async {
            loop {
                match store.log_month(month.first).await? {
                    Some(seen) if seen.is_settled() => return Ok::<_, Failure>(()),
                    _ => sleep(LOOK).await,
                }
            }
        });
        let late =
            "what was written is not published and sealed yet: is a worker running? Run this again then";
        wait.await.map_err(|_| Failure::Failed(late.to_owned()))?
    }

    /// Writes the file of every plan of a month, when everything of it is published and sealed, and checks each as it
    /// stands there. Gives how many events they hold.
    async fn exported(
        &self,
        session: &Session,
        store: &Store,
        month: &LogMonth,
        folder: &Path,
    ) -> Result<i64, Failure> {
        self.settled(store, month).await?;
        let trust = session.settings.trust()?;
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::Failed(format!("{} cannot be made: {error}", folder.display())))?;
        let mut exporter = store.exporter();
        let mut after: Option<PlanKey> = None;
        let mut events = 0;
        loop {
            let plans = store.plans_of_month(month.first, after, PAGE).await?;
            let Some(last) = plans.last() else { return Ok(events) };
            after = Some(*last);
            for plan in plans {
                let Some(found) = exporter.export(plan, session.now()).await? else { continue };
                let path = folder.join(format!("{}.v{}.json", plan.plan_id, plan.plan_version));
                export::write(&path, &found)?;
                events += checked(&path, &trust)?;
            }
        }
    }
}

/// Checks a file as 'dat audit verify --file' would, and that all of it is sealed; gives how many events it holds.
fn checked(path: &Path, trust: &Trust) -> Result<i64, Failure> {
    let stays = |why: String| Failure::Failed(format!("{}: {why}; the month stays", path.display()));
    let report = export::read(path)?.verify(trust).map_err(|error| stays(error.to_string()))?;
    if let Some(fault) = report.faults.first() {
        return Err(stays(fault.clone()));
    }
    if report.sealed.unsigned_abs() != report.events {
        return Err(stays(format!("checkpoints seal {} of its {} events", report.sealed, report.events)));
    }
    Ok(report.sealed)
}
