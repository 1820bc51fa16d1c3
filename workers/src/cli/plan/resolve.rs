//! `dat plan resolve`: an operator settles what nobody could tell, or an undo that cannot finish.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::{ArgGroup, Args};
use dat_plan::amount::MAX;
use dat_plan::signing::KeyRing;
use dat_plan::{PlanKey, PlanState, StepState, UnitKey, UnitKind};
use dat_store::{
    ControlScope, NotResolved, PlanView, Resolution, Resolve as Order, Resolved, StepView, Store,
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::cli::act::Act;
use crate::cli::control::{requested, tell_workers};
use crate::cli::failure::{Answer, Failure};
use crate::cli::output;
use crate::cli::plan_name::{self, PlanArg};
use crate::cli::session::Session;
use crate::documents::Documents;
use crate::runner::holds_nul;

/// How long is waited for what ends by itself: a probe that is under way, a request that may still be accepted.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether that has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Settle a step whose outcome nobody can tell, or an undo that is stuck
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("resolution").required(true),
    after_help = "\
What is unknown is probed by itself; resolve it when the outside system cannot tell and you can. Its request must be \
past its deadline before you can say that it had no effect. A stuck plan goes on when nothing of it is stuck any more. \
Without STEP, --retry and --undone are for every stuck undo of the plan.

Examples:
  dat plan resolve PLAN order --done --cost 29900 --result '{\"order\": \"A-7\"}' --reason 'supplier confirmed by phone'
  dat plan resolve PLAN order --no-effect --reason 'supplier has no such order'
  dat plan resolve PLAN listing --undone --refund 200 --reason 'taken down by hand'
  dat plan resolve PLAN --retry --reason 'the marketplace is back'"
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a flag for each way of resolving; the command line takes one"
)]
pub(crate) struct Resolve {
    #[command(flatten)]
    plan: PlanArg,
    /// The step; every stuck undo of the plan without it
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// Unknown: the effect happened
    #[arg(long, group = "resolution", requires = "step")]
    done: bool,
    /// Unknown: it had no effect and never will; nothing is charged
    #[arg(long, group = "resolution", requires = "step", conflicts_with_all = ["cost", "refund", "result"])]
    no_effect: bool,
    /// Stuck: it was undone by hand
    #[arg(long, group = "resolution", conflicts_with = "result")]
    undone: bool,
    /// Stuck: try the undo again, its attempts anew
    #[arg(long, group = "resolution", conflicts_with_all = ["cost", "refund", "result"])]
    retry: bool,
    /// What it cost, in the smallest unit; the most it may cost if --done is given without, nothing for --undone
    #[arg(long, requires = "step", value_parser = clap::value_parser!(i64).range(0..=MAX))]
    cost: Option<i64>,
    /// What came back, in the smallest unit
    #[arg(long, requires = "step", value_parser = clap::value_parser!(i64).range(0..=MAX))]
    refund: Option<i64>,
    /// What the step resulted in, as JSON, for the steps that use it; {} if none is given
    #[arg(long, value_name = "JSON", value_parser = json)]
    result: Option<Value>,
    #[command(flatten)]
    act: Act,
}

fn json(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if holds_nul(&value) { Err("U+0000 cannot be stored".to_owned()) } else { Ok(value) }
}

impl Resolve {
    pub(super) async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let plan = self.plan.key(&store).await?;
        let until = Instant::now() + PATIENCE;
        let mut told = false;
        let resolved = loop {
            let orders = self.orders(&store, plan).await?;
            let now = session.now();
            let resolved = store.resolve(plan, &orders, &self.act.actor, &self.act.reason, now).await?;
            match resolved {
                Resolved::Refused(why) if ends_before(&why, until - Instant::now(), now) => {
                    if !std::mem::replace(&mut told, true) {
                        output::note(format_args!("note: {why}; waiting for that"));
                    }
                    sleep(LOOK).await;
                }
                resolved => break resolved,
            }
        };
        match resolved {
            Resolved::Done { plan: state, stuck } => {
                tell_workers(session, &ControlScope::Plan(plan.plan_id)).await;
                say(plan, state, stuck)?;
                Ok(ExitCode::SUCCESS)
            }
            Resolved::Requested(request) => requested(request),
            Resolved::Refused(why) => Err(Failure::Failed(format!("nothing was resolved: {why}"))),
        }
    }

    /// What is asked of the store, from the rows as they are now.
    async fn orders(&self, store: &Store, plan: PlanKey) -> Result<Vec<Order>, Failure> {
        let view = store.plan(plan).await?.ok_or_else(|| plan_name::unknown(plan))?;
        let units = self.units(&view)?;
        // Nothing is executed by it: whether the verdict was signed does not matter here.
        let mut documents = Documents::new(KeyRing::default()).get(store, [plan]).await?.plans;
        let prepared = documents.remove(&plan).ok_or_else(|| unreadable(plan))?;
        let mut orders = Vec::with_capacity(units.len());
        for unit in units {
            let (index, attempt) = (unit.index, unit.attempts);
            let unit = UnitKey { plan, kind: unit.kind.parse().map_err(|_| unreadable(plan))?, index };
            let spec = prepared.unit(unit).ok_or_else(|| unreadable(plan))?;
            let resolution = if self.done {
                Resolution::Done {
                    result: self.result.clone().unwrap_or_else(|| Value::Object(serde_json::Map::new())),
                    cost: self.cost.unwrap_or(spec.max_cost),
                    refund: self.refund.unwrap_or(0),
                }
            } else if self.no_effect {
                Resolution::NoEffect { timeout_ms: spec.timeout_ms }
            } else if self.undone {
                Resolution::Undone { cost: self.cost.unwrap_or(0), refund: self.refund.unwrap_or(0) }
            } else {
                Resolution::Retry
            };
            orders.push(Order { unit, attempt, resolution, successors: prepared.successors(unit) });
        }
        Ok(orders)
    }

    /// The units that are meant.
    fn units<'a>(&self, view: &'a PlanView) -> Result<Vec<&'a StepView>, Failure> {
        let plan = view.summary.plan;
        let wanted = if self.done || self.no_effect { StepState::Unknown } else { StepState::Stuck };
        let is_meant = |unit: &&StepView| {
            unit.state == wanted && (wanted == StepState::Unknown || unit.kind == UnitKind::Undo.as_str())
        };
        let Some(step) = &self.step else {
            let units: Vec<&StepView> = view.steps.iter().filter(is_meant).collect();
            if units.is_empty() {
                let state = view.summary.state;
                return Err(Failure::Failed(format!("nothing of plan {plan} is stuck: it is {state}")));
            }
            return Ok(units);
        };
        let named: Vec<&StepView> = view.steps.iter().filter(|unit| unit.key == *step).collect();
        if let Some(unit) = named.iter().copied().find(is_meant) {
            return Ok(vec![unit]);
        }
        let states: Vec<String> = named
            .iter()
            .map(|unit| {
                let kind = if unit.kind == UnitKind::Undo.as_str() { "its undo" } else { "the step" };
                format!("{kind} is {}", unit.state)
            })
            .collect();
        Err(Failure::Failed(if states.is_empty() {
            format!(
                "plan {plan} has no step {step} that was staged: 'dat plan show {plan}' shows those it has"
            )
        } else {
            format!("{step} of plan {plan} is not {wanted}: {}", states.join(", "))
        }))
    }
}

fn unreadable(plan: PlanKey) -> Failure {
    Failure::Failed(format!("the stored document of plan {plan} does not fit its rows: was it altered?"))
}

/// Whether what is in the way ends by itself within so long. What holds a lease may give it back at any moment.
fn ends_before(why: &NotResolved, within: Duration, now: DateTime<Utc>) -> bool {
    let within = TimeDelta::from_std(within).unwrap_or(TimeDelta::MAX);
    match why {
        NotResolved::Held { .. } => within > TimeDelta::zero(),
        why => why.until().is_some_and(|until| until - now < within),
    }
}

fn say(plan: PlanKey, state: PlanState, stuck: i64) -> Result<(), Failure> {
    match (state, stuck) {
        (PlanState::Stuck, 1) => output::line(format_args!(
            "resolved; one undo of plan {plan} is stuck still: 'dat plan explain {plan}' names it"
        )),
        (PlanState::Stuck, more) => output::line(format_args!(
            "resolved; {more} undos of plan {plan} are stuck still: 'dat plan explain {plan}' names them"
        )),
        (state, _) => output::line(format_args!("resolved; plan {plan} is {state}")),
    }
}
