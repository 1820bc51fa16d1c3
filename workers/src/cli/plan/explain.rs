//! `dat plan explain`: what a plan waits for, and what would help.

use std::process::ExitCode;

use clap::Args;
use dat_plan::PlanDocument;
use dat_plan::graph::Graph;
use dat_plan::{PlanKey, StepKey};
use dat_store::Store;
use serde_json::json;

use crate::blocker::{Blocker, Facts};
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{self, OutputFlag};
use crate::cli::plan_name::{self, PlanArg};
use crate::cli::session::Session;

/// How many blockers are said; each of 10,000 steps may have its own.
const SAID: usize = 20;

/// Explain what a plan or a step waits for, and what would unblock it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dat plan explain PLAN
  dat plan explain PLAN promotion
  dat plan explain PLAN --output json | jq -r '.blockers[].unblocked_by'")]
pub(crate) struct Explain {
    #[command(flatten)]
    plan: PlanArg,
    /// Only this step
    #[arg(value_name = "STEP")]
    step: Option<String>,
    #[command(flatten)]
    output: OutputFlag,
}

impl Explain {
    pub(super) async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let plan = self.plan.key(&store).await?;
        let view = store.plan(plan).await?.ok_or_else(|| plan_name::unknown(plan))?;
        let stops = store.stops().await?;
        let document = document(&store, plan).await?;
        let needs = needs(&document)?;
        let facts =
            Facts { view: &view, stops: &stops, document: &document, needs: &needs, now: session.now() };
        let blockers = match &self.step {
            None => facts.of_plan(),
            Some(step) if document.steps.iter().any(|s| s.key.as_str() == step) || facts.has(step) => {
                facts.of_step(step)
            }
            Some(step) => return Err(no_step(step, &document)),
        };
        let summary = &view.summary;
        if self.output.is_json() {
            output::json(&json!({
                "plan": plan, "state": summary.state, "state_since": summary.state_since, "blockers": blockers,
            }))?;
            return Ok(ExitCode::SUCCESS);
        }
        output::line(format_args!(
            "plan {plan} \"{}\" is {}, since {} ({})",
            summary.name,
            summary.state,
            output::moment(summary.state_since),
            output::span(session.now() - summary.state_since)
        ))?;
        say(&blockers)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn say(blockers: &[Blocker]) -> Result<(), Failure> {
    for Blocker { about, because, unblocked_by } in blockers.iter().take(SAID) {
        output::line(format_args!("{about}: {because}"))?;
        if let Some(remedy) = unblocked_by {
            output::line(format_args!("    unblocked by: {remedy}"))?;
        }
    }
    match blockers.len().saturating_sub(SAID) {
        0 => Ok(()),
        more => output::line(format_args!("and {more} more: name a step, or use --output json")),
    }
}

/// A plan's document, read.
pub(super) async fn document(store: &Store, plan: PlanKey) -> Result<PlanDocument, Failure> {
    let stored = store.documents(&[plan]).await?.pop().ok_or_else(|| plan_name::unknown(plan))?;
    serde_json::from_slice(&stored.body)
        .map_err(|error| Failure::Failed(format!("the document of plan {plan} cannot be read: {error}")))
}

/// What each step needs, by index.
fn needs(document: &PlanDocument) -> Result<Vec<Vec<usize>>, Failure> {
    let graph = Graph::of(document).map_err(|error| {
        Failure::Failed(format!("the steps of plan {} have no order: {error}", document.key()))
    })?;
    Ok((0..graph.len()).map(|step| graph.needs(step).to_vec()).collect())
}

fn no_step(step: &str, document: &PlanDocument) -> Failure {
    let keys: Vec<&str> = document.steps.iter().take(SAID).map(|step| StepKey::as_str(&step.key)).collect();
    let more = if document.steps.len() > SAID { ", …" } else { "" };
    Failure::Failed(format!("plan {} has no step {step}; it has {}{more}", document.key(), keys.join(", ")))
}
