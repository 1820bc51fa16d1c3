//! `dat audit replay`.

use std::process::ExitCode;

use clap::Args;
use dat_plan::UnitKind;

use super::Which;
use crate::cli::failure::Answer;
use crate::cli::output::{self, OutputFlag};
use crate::cli::plan_name;
use crate::cli::session::Session;
use crate::cli::table;

/// Rebuild a plan's state from its events alone, and compare it with its rows; exit status 1 where they differ
#[derive(Debug, Args)]
#[command(after_help = "\
Changes nothing.

Examples:
  dat audit replay PLAN
  dat audit replay PLAN --version 2 --output json | jq .units")]
pub(crate) struct Replay {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    output: OutputFlag,
}

impl Replay {
    pub(super) async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let plan = self.which.one(&store).await?;
        let replayed = store.replay(plan).await?.ok_or_else(|| plan_name::unknown(plan))?;
        if replayed.events == 0 {
            return Err(super::gone(plan));
        }
        let sound = replayed.faults.is_empty();
        if self.output.is_json() {
            output::json(&replayed)?;
        } else {
            let mut units = table::table(&["unit", "by its events", "by its row"]);
            let state = replayed.state.map_or("in no state", |state| state.as_str());
            units.add_row([table::text("plan"), table::text(state), table::text(&replayed.row)]);
            for unit in &replayed.units {
                let name = match unit.kind {
                    UnitKind::Action => unit.step.clone(),
                    UnitKind::Undo => format!("undo of {}", unit.step),
                };
                units.add_row([table::text(name), table::text(unit.state), table::text(&unit.row)]);
            }
            output::line(units)?;
            for fault in &replayed.faults {
                output::line(fault)?;
            }
            let (events, spent) = (replayed.events, replayed.spent);
            let outcome = if sound { "rows and events agree" } else { "rows and events differ" };
            output::line(format_args!("{events} events replayed, {spent} spent: {outcome}"))?;
        }
        Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
