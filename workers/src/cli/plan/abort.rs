//! `dat plan abort`.

use std::process::ExitCode;

use clap::Args;
use dat_store::{ControlChange, ControlScope};
use uuid::Uuid;

use crate::cli::act::Act;
use crate::cli::control::{requested, tell_workers};
use crate::cli::failure::{Answer, Failure};
use crate::cli::output;
use crate::cli::session::Session;

/// End a plan: skip what never started, undo what was done
#[derive(Debug, Args)]
#[command(after_help = "\
Undone is what the plan's own rollback says. Steps that run are let end first.

Examples:
  dat plan abort PLAN --reason 'supplier recalled the SKU'")]
pub(crate) struct Abort {
    /// The plan; every version of it that is open
    #[arg(value_name = "PLAN")]
    plan: Uuid,
    #[command(flatten)]
    act: Act,
}

impl Abort {
    pub(super) async fn run(self, session: &Session) -> Answer {
        let plan = self.plan;
        let store = session.store().await?;
        match store.abort(plan, &self.act.actor, &self.act.reason, session.now()).await? {
            ControlChange::Done => {
                tell_workers(session, &ControlScope::Plan(plan)).await;
                output::line(format_args!(
                    "plan {plan} is being ended: 'dat plan watch {plan}' shows what is undone"
                ))?;
                Ok(ExitCode::SUCCESS)
            }
            ControlChange::AlreadySo => {
                output::line(format_args!("plan {plan} is being undone already: nothing changed"))?;
                Ok(ExitCode::SUCCESS)
            }
            ControlChange::Requested(request) => requested(request),
            ControlChange::NotThere => Err(Failure::Failed(format!(
                "plan {plan} has no open version: 'dat plan list' shows the plans that do"
            ))),
        }
    }
}
