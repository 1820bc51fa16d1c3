//! `dat approve`: governance's verdict by hand, where GGP is a sandbox or leaves it to a person.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use dat_plan::amount::MAX;
use dat_plan::approval::{Outcome, Verdict};
use dat_plan::{Amount, PlanDocument, PlanHash, PlanKey, PlanState};
use dat_store::{PlanView, Store};
use dat_topology::{Exchange, key};

use crate::cli::broker::Broker;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output;
use crate::cli::plan_name::{self, PlanArg};
use crate::cli::session::Session;
use crate::cli::table::{number, table, text};

/// Approve, reject or revoke a plan, as governance
#[derive(Debug, Args)]
#[command(after_help = "\
Shows what is judged and publishes a verdict that names exactly its hash. Between approved and rejected the first \
verdict binds; a revocation always does. A verdict may tighten the budget, never widen it.

Examples:
  dat approve PLAN --approver ann
  dat approve PLAN --approver ann --budget 300000 --expires-at 2026-12-01T00:00:00Z
  dat approve PLAN --reject --approver ann --reason 'margin too thin'
  dat approve PLAN --revoke --approver ann --reason 'recalled' --yes")]
pub(crate) struct Approve {
    #[command(flatten)]
    plan: PlanArg,
    /// Reject it instead
    #[arg(long, conflicts_with_all = ["revoke", "budget", "expires_at"])]
    reject: bool,
    /// Revoke its approval instead: nothing forward starts any more, and what was done is undone
    #[arg(long, conflicts_with_all = ["budget", "expires_at"])]
    revoke: bool,
    /// Who judges
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    approver: String,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    /// A tighter budget, in the smallest unit of the plan's currency
    #[arg(long, value_name = "AMOUNT", value_parser = clap::value_parser!(i64).range(0..=MAX))]
    budget: Option<i64>,
    /// Past this the approval acts as a revocation (RFC 3339)
    #[arg(long, value_name = "TIME")]
    expires_at: Option<DateTime<Utc>>,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

/// What is judged: the registered document, as it hashes now.
struct Judged {
    view: PlanView,
    document: PlanDocument,
    hash: PlanHash,
}

impl Approve {
    pub(crate) async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let judged = Judged::read(&store, self.plan.key(&store).await?).await?;
        self.can_bind(&judged, session.now())?;
        judged.show()?;
        if !self.yes && output::can_ask() {
            let question = format!("{} this plan?", self.question());
            let said = tokio::task::spawn_blocking(move || output::confirm(&question)).await;
            if !said.map_err(|error| Failure::Failed(format!("the answer was not read: {error}")))?? {
                return Err(Failure::Failed("nothing was published".to_owned()));
            }
        }
        let verdict = self.verdict(session, &judged);
        let routing_key = match verdict.outcome {
            Outcome::Approved => key::PLAN_APPROVED,
            Outcome::Rejected => key::PLAN_REJECTED,
            Outcome::Revoked => key::PLAN_REVOKED,
        };
        let body = serde_json::to_vec(&verdict).map_err(std::io::Error::from)?;
        let broker = Broker::connect(session).await?;
        let message =
            broker.message(session, Exchange::Plans, routing_key, body).message_id(&verdict.decision_id);
        let published = broker.publish(message).await;
        broker.close().await;
        published?;
        output::line(format_args!("published {routing_key} as decision {}", verdict.decision_id))?;
        Ok(ExitCode::SUCCESS)
    }

    const fn outcome(&self) -> Outcome {
        match (self.reject, self.revoke) {
            (true, _) => Outcome::Rejected,
            (_, true) => Outcome::Revoked,
            _ => Outcome::Approved,
        }
    }

    const fn question(&self) -> &'static str {
        match self.outcome() {
            Outcome::Approved => "Approve",
            Outcome::Rejected => "Reject",
            Outcome::Revoked => "Revoke the approval of",
        }
    }

    /// What would be parked is better said here.
    fn can_bind(&self, judged: &Judged, now: DateTime<Utc>) -> Result<(), Failure> {
        let summary = &judged.view.summary;
        let state = summary.state;
        let asked = &judged.document.budget;
        let no = |why: String| Err(Failure::Failed(format!("plan {}: {why}", summary.plan)));
        match self.outcome() {
            Outcome::Revoked if state.is_end() => {
                no(format!("it is {state} already, so there is nothing to revoke"))
            }
            Outcome::Approved | Outcome::Rejected
                if !matches!(state, PlanState::Draft | PlanState::SubmittedForApproval) =>
            {
                let instead = if state.is_end() { "it is over" } else { "--revoke takes its approval back" };
                no(format!("it is {state} already; {instead}"))
            }
            _ if self.budget.is_some_and(|budget| budget > asked.amount) => {
                no(format!("a verdict never widens the budget: give at most {}", asked.amount))
            }
            _ if self.expires_at.is_some_and(|end| end <= now) => {
                no("the approval would be over before it began: give a later --expires-at".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn verdict(self, session: &Session, judged: &Judged) -> Verdict {
        let outcome = self.outcome();
        let plan = judged.view.summary.plan;
        let currency = &judged.document.budget.currency;
        Verdict {
            decision_id: session.id().to_string(),
            plan_id: plan.plan_id,
            plan_version: plan.plan_version,
            plan_hash: judged.hash.clone(),
            constraint_set_hash: None,
            outcome,
            approver: self.approver,
            reason: self.reason,
            expires_at: self.expires_at,
            budget: self.budget.map(|amount| Amount { amount, currency: currency.clone() }),
            constraints: None,
            key_id: None,
            signature: None,
        }
    }
}

impl Judged {
    async fn read(store: &Store, plan: PlanKey) -> Result<Self, Failure> {
        let view = store.plan(plan).await?.ok_or_else(|| plan_name::unknown(plan))?;
        let stored = store.documents(&[plan]).await?.pop().ok_or_else(|| plan_name::unknown(plan))?;
        let unreadable =
            |why: String| Failure::Failed(format!("the document of plan {plan} cannot be judged: {why}"));
        let value = serde_json::from_slice(&stored.body).map_err(|error| unreadable(error.to_string()))?;
        let hash = PlanHash::of(&value).map_err(|error| unreadable(error.to_string()))?;
        if hash.as_str() != view.plan_hash {
            return Err(unreadable(format!("it hashes to {hash}, it was registered as {}", view.plan_hash)));
        }
        let document = serde_json::from_value(value).map_err(|error| unreadable(error.to_string()))?;
        Ok(Self { view, document, hash })
    }

    fn show(&self) -> Result<(), Failure> {
        let document = &self.document;
        let budget = &document.budget;
        output::line(format_args!("plan    {} \"{}\"", document.key(), document.name))?;
        output::line(format_args!("tenant  {}", document.tenant))?;
        output::line(format_args!("hash    {}", self.hash))?;
        output::line(format_args!(
            "budget  {} {}; all steps and undos cost at most {}",
            budget.amount,
            budget.currency,
            document.max_cost()
        ))?;
        let mut steps = table(&["step", "action", "max cost", "undone by"]);
        for step in &document.steps {
            let undo = match &step.compensation {
                Some(undo) => undo.action.as_str(),
                None => "irreversible",
            };
            let action = format!("{}: {}", step.connector, step.action);
            steps.add_row([text(&step.key), text(action), number(step.max_cost), text(undo)]);
        }
        output::line(steps)
    }
}
