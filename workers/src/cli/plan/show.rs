//! `dat plan show`: a plan version, whole.

use std::collections::BTreeMap;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use dat_plan::document::Mode;
use dat_plan::{PlanDocument, PlanState, UnitKind};
use dat_store::{AttemptView, PlanView, StepView};
use serde_json::{Value, json};

use super::explain::document;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{self, OutputFlag};
use crate::cli::plan_name::{self, PlanArg};
use crate::cli::session::Session;
use crate::cli::table::{maybe, number, step_state, table, text};

/// Show a plan: state, approval, budget, steps, undos, attempts
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dat plan show PLAN
  dat plan show PLAN/2
  dat plan show PLAN --output json | jq .summary.state")]
pub(crate) struct Show {
    #[command(flatten)]
    plan: PlanArg,
    #[command(flatten)]
    output: OutputFlag,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let plan = self.plan.key(&store).await?;
        let view = store.plan(plan).await?.ok_or_else(|| plan_name::unknown(plan))?;
        let document = document(&store, plan).await?;
        let dry = (document.mode == Mode::Dry).then_some(&document);
        if self.output.is_json() {
            output::json(&shown(&view, dry))?;
        } else {
            summary(&view, session.now())?;
            if let Some(document) = dry {
                forecast(document)?;
            }
            units(&view, UnitKind::Action)?;
            units(&view, UnitKind::Undo)?;
            attempts(&view)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn summary(view: &PlanView, now: DateTime<Utc>) -> Result<(), Failure> {
    let plan = &view.summary;
    let currency = &plan.currency;
    output::line(format_args!("plan      {} \"{}\"", plan.plan, plan.name))?;
    output::line(format_args!("tenant    {}", plan.tenant))?;
    if let Some(submitter) = &view.submitter {
        output::line(format_args!("from      {submitter}"))?;
    }
    output::line(format_args!(
        "state     {}, since {} ({})",
        plan.state,
        output::moment(plan.state_since),
        output::span(now - plan.state_since)
    ))?;
    if let Some(reason) = &plan.reason {
        output::line(format_args!("why       {reason}"))?;
    }
    output::line(format_args!("hash      {}", view.plan_hash))?;
    output::line(format_args!("approval  {}", approval(view)))?;
    if let Some(earlier) = view.supersedes {
        output::line(format_args!("version   supersedes version {earlier}"))?;
    }
    for later in &view.superseded_by {
        output::line(format_args!("version   superseded by version {later}"))?;
    }
    output::line(format_args!(
        "budget    {} {currency} spent, {} reserved, {} left of {}",
        plan.spent,
        plan.reserved,
        plan.limit - plan.spent - plan.reserved,
        plan.limit
    ))?;
    output::line(format_args!(
        "steps     {} of {} completed; registered {}",
        plan.steps_done,
        plan.steps_total,
        output::moment(view.registered_at)
    ))
}

/// The view, and of a dry run what it found.
fn shown(view: &PlanView, dry: Option<&PlanDocument>) -> Value {
    let mut shown = json!(view);
    if let (Some(document), Some(fields)) = (dry, shown.as_object_mut()) {
        let found = json!({
            "cost": document.cost_range(), "irreversible": document.irreversible(), "approvals_needed": ["ggp"],
        });
        fields.insert("dry_run".to_owned(), found);
    }
    shown
}

/// What a dry run says of the live plan.
fn forecast(document: &PlanDocument) -> Result<(), Failure> {
    let (cost, currency) = (document.cost_range(), document.budget.currency.as_str());
    output::line(format_args!(
        "dry run   no effects, no spend; live it costs {} to {} {currency}, {} with every undo, {} with every retry",
        cost.least, cost.most, cost.with_undos, cost.with_retries
    ))?;
    let irreversible = document.irreversible();
    if !irreversible.is_empty() {
        output::line(format_args!(
            "          {} {currency} of it for good: {} cannot be undone",
            cost.irreversible,
            irreversible.join(", ")
        ))?;
    }
    output::line("          needs governance's approval of the live document: its hash is another")
}

fn approval(view: &PlanView) -> String {
    match (&view.approval_decision, view.approval_expires_at) {
        (Some(decision), Some(end)) => format!("decision {decision}, until {}", output::moment(end)),
        (Some(decision), None) => format!("decision {decision}"),
        (None, _) if view.summary.state == PlanState::SubmittedForApproval => {
            "none yet: governance was asked".to_owned()
        }
        (None, _) => "none".to_owned(),
    }
}

fn units(view: &PlanView, kind: UnitKind) -> Result<(), Failure> {
    let units: Vec<&StepView> = view.steps.iter().filter(|step| step.kind == kind.as_str()).collect();
    if units.is_empty() {
        return Ok(());
    }
    let title = match kind {
        UnitKind::Action => "step",
        UnitKind::Undo => "undo of",
    };
    let mut table = table(&["#", title, "action", "state", "attempts", "cost", "refund", "why"]);
    for unit in units {
        table.add_row([
            number(unit.index),
            text(&unit.key),
            text(format_args!("{}: {}", unit.connector, unit.action)),
            step_state(unit.state),
            number(unit.attempts),
            number(unit.cost),
            number(unit.refund),
            maybe(unit.wait_reason.as_deref().or(unit.detail.as_deref())),
        ]);
    }
    output::line("")?;
    output::line(table)
}

fn attempts(view: &PlanView) -> Result<(), Failure> {
    if view.attempts.is_empty() {
        return Ok(());
    }
    let keys: BTreeMap<(&str, i32), &str> =
        view.steps.iter().map(|unit| ((unit.kind.as_str(), unit.index), unit.key.as_str())).collect();
    let mut table = table(&["attempt of", "n", "worker", "started", "took", "outcome", "detail"]);
    for attempt in &view.attempts {
        let took = attempt.ended_at.map(|end| output::span(end - attempt.started_at));
        table.add_row([
            text(name(attempt, keys.get(&(attempt.kind.as_str(), attempt.index)).copied())),
            number(attempt.attempt),
            text(&attempt.worker),
            text(output::moment(attempt.started_at)),
            number(took.unwrap_or_default()),
            text(attempt.outcome.as_deref().unwrap_or("under way")),
            maybe(attempt.detail.as_deref().or(progress(attempt).as_deref())),
        ]);
    }
    output::line("")?;
    output::line(table)
}

/// How far an attempt that is under way is, where its connector says so.
fn progress(attempt: &AttemptView) -> Option<String> {
    attempt.progress.as_ref().filter(|_| attempt.ended_at.is_none()).map(ToString::to_string)
}

fn name(attempt: &AttemptView, key: Option<&str>) -> String {
    let key = key.map_or_else(|| format!("step {}", attempt.index), ToOwned::to_owned);
    if attempt.kind == UnitKind::Undo.as_str() { format!("undo of {key}") } else { key }
}
