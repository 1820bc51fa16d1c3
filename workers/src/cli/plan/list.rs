//! `dat plan list`.

use std::process::ExitCode;

use clap::Args;
use dat_plan::PlanState;
use dat_store::PlanFilter;

use crate::cli::failure::Answer;
use crate::cli::output::{self, OutputFlag};
use crate::cli::session::Session;
use crate::cli::table::{maybe, number, plan_state, table, text};

/// List the plans that are open, newest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dat plan list
  dat plan list --all --limit 200
  dat plan list --state stuck
  dat plan list --output json | jq -r '.[].plan.plan_id'")]
pub(crate) struct List {
    /// Those that are over, too
    #[arg(long)]
    all: bool,
    /// Those in this state: executing, stuck, …; implies --all
    #[arg(long)]
    state: Option<PlanState>,
    /// Those of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    #[command(flatten)]
    output: OutputFlag,
}

impl List {
    pub(super) async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let open = !self.all && self.state.is_none();
        let filter =
            PlanFilter { open, state: self.state, tenant: self.tenant.clone(), ..PlanFilter::default() };
        let (plans, _) = store.plans_page(&filter, self.limit).await?;
        let summaries = store.summaries(&plans).await?;
        if self.output.is_json() {
            output::json(&summaries)?;
        } else if summaries.is_empty() {
            output::line(if self.state.is_some() || self.tenant.is_some() {
                "no plan is like that"
            } else if self.all {
                "no plan is registered"
            } else {
                "no plan is open: --all lists the others"
            })?;
        } else {
            let mut table = table(&[
                "plan", "name", "tenant", "state", "since", "steps", "spent", "of", "currency", "why",
            ]);
            for plan in &summaries {
                table.add_row([
                    text(plan.plan),
                    text(&plan.name),
                    text(&plan.tenant),
                    plan_state(plan.state),
                    text(output::moment(plan.state_since)),
                    number(format_args!("{}/{}", plan.steps_done, plan.steps_total)),
                    number(plan.spent),
                    number(plan.limit),
                    text(&plan.currency),
                    maybe(plan.reason.as_deref()),
                ]);
            }
            output::line(table)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
