//! `dat approve`: governance's verdict by hand, or one person's approval of the quorum that governance gathers.

mod shown_package;

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use dat_plan::amount::MAX;
use dat_plan::approval::{ApprovalPackage, Outcome, Verdict, hash_of_sets};
use dat_plan::quorum::Vote;
use dat_plan::{Amount, PlanDocument, PlanHash, PlanKey, PlanState};
use dat_store::{PlanView, Store};
use dat_topology::{Exchange, key};
use serde_json::{Value, json};

use crate::cli::broker::Broker;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output;
use crate::cli::plan_name::{self, PlanArg};
use crate::cli::session::Session;

/// Approve, reject or revoke a plan, as governance; or approve it as one of several whom governance asks
#[derive(Debug, Args)]
#[command(after_help = "\
Shows the approval package: steps and what undoes each, cost, rules, budgets, what changed since the version approved \
last. Then publishes a verdict that names exactly its hash, and the hash of the rules shown. Between approved and \
rejected the first verdict binds; a revocation always does. A verdict may tighten the budget, never widen it. With \
[signing] in the settings it is signed. With --to-ggp it is no verdict but one person's approval, which governance \
counts: once each, never the submitter's.

Examples:
  dat approve PLAN --approver ann
  dat approve PLAN --approver ann --budget 300000 --expires-at 2026-12-01T00:00:00Z
  dat approve PLAN --approver ann --to-ggp
  dat approve PLAN --reject --approver ann --reason 'margin too thin'
  dat approve PLAN --revoke --approver ann --reason 'recalled' --yes")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command")]
pub(crate) struct Approve {
    #[command(flatten)]
    plan: PlanArg,
    /// Reject it instead
    #[arg(long, conflicts_with_all = ["revoke", "budget", "expires_at"])]
    reject: bool,
    /// Revoke its approval instead: nothing forward starts any more, and what was done is undone
    #[arg(long, conflicts_with_all = ["budget", "expires_at", "to_ggp"])]
    revoke: bool,
    /// Tell governance, which gathers the approvals of several people, instead of giving the verdict
    #[arg(long, conflicts_with_all = ["budget", "expires_at"])]
    to_ggp: bool,
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

/// What is judged: the package that governance was sent, which holds the registered document as it hashes now.
struct Judged {
    view: PlanView,
    document: PlanDocument,
    hash: PlanHash,
    package: ApprovalPackage,
}

impl Approve {
    pub(crate) async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let judged = Judged::read(&store, self.plan.key(&store).await?).await?;
        self.can_bind(&judged, session.now())?;
        shown_package::show(&judged.package, &judged.document)?;
        if !self.yes && output::can_ask() {
            let question = format!("{} this plan?", self.question());
            let said = tokio::task::spawn_blocking(move || output::confirm(&question)).await;
            if !said.map_err(|error| Failure::Failed(format!("the answer was not read: {error}")))?? {
                return Err(Failure::Failed("nothing was published".to_owned()));
            }
        }
        let (exchange, routing_key) = match (self.to_ggp, self.outcome()) {
            (true, _) => (Exchange::Ggp, key::PLAN_APPROVAL),
            (false, Outcome::Approved) => (Exchange::Plans, key::PLAN_APPROVED),
            (false, Outcome::Rejected) => (Exchange::Plans, key::PLAN_REJECTED),
            (false, Outcome::Revoked) => (Exchange::Plans, key::PLAN_REVOKED),
        };
        let id = session.id().to_string();
        let mut said =
            if self.to_ggp { json!(self.vote(&id, &judged)) } else { json!(self.verdict(&id, &judged)) };
        let signing = session.settings.signing_key()?;
        if let Some(signing) = &signing {
            let unsigned = |fault| Failure::Failed(format!("it cannot be signed: {fault}"));
            signing.sign(&mut said).map_err(unsigned)?;
        }
        let body = serde_json::to_vec(&said).map_err(std::io::Error::from)?;
        let broker = Broker::connect(session).await?;
        let message = broker.message(session, exchange, routing_key, body).message_id(&id);
        let published = broker.publish(message).await;
        broker.close().await;
        published?;
        let by = signing.map_or_else(String::new, |key| format!(", signed with {}", key.key_id()));
        output::line(format_args!("published {routing_key} as decision {id}{by}"))?;
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

    fn verdict(&self, id: &str, judged: &Judged) -> Verdict {
        let plan = judged.view.summary.plan;
        let currency = &judged.document.budget.currency;
        Verdict {
            decision_id: id.to_owned(),
            plan_id: plan.plan_id,
            plan_version: plan.plan_version,
            plan_hash: judged.hash.clone(),
            constraint_set_hash: Some(judged.package.constraint_set_hash.clone()),
            outcome: self.outcome(),
            approver: self.approver.clone(),
            reason: self.reason.clone(),
            expires_at: self.expires_at,
            budget: self.budget.map(|amount| Amount { amount, currency: currency.clone() }),
            constraints: None,
            key_id: None,
            signature: None,
        }
    }

    fn vote(&self, id: &str, judged: &Judged) -> Vote {
        let plan = judged.view.summary.plan;
        Vote {
            approval_id: id.to_owned(),
            plan_id: plan.plan_id,
            plan_version: plan.plan_version,
            plan_hash: judged.hash.clone(),
            constraint_set_hash: Some(judged.package.constraint_set_hash.clone()),
            outcome: self.outcome(),
            approver: self.approver.clone(),
            reason: self.reason.clone(),
            key_id: None,
            signature: None,
        }
    }
}

impl Judged {
    /// Reads it from the log, and trusts no hash in it: document and rules are hashed here, and what is stored of the
    /// document must be the same.
    async fn read(store: &Store, plan: PlanKey) -> Result<Self, Failure> {
        let view = store.plan(plan).await?.ok_or_else(|| plan_name::unknown(plan))?;
        let unreadable =
            |why: String| Failure::Failed(format!("the document of plan {plan} cannot be judged: {why}"));
        let stored = store.documents(&[plan]).await?.pop().ok_or_else(|| plan_name::unknown(plan))?;
        let value: Value =
            serde_json::from_slice(&stored.body).map_err(|error| unreadable(error.to_string()))?;
        let hash = PlanHash::of(&value).map_err(|error| unreadable(error.to_string()))?;
        if hash.as_str() != view.plan_hash {
            return Err(unreadable(format!("it hashes to {hash}, it was registered as {}", view.plan_hash)));
        }
        let package = store.approval_package(plan).await?;
        let package = package.ok_or_else(|| unreadable("its log holds no approval package".to_owned()))?;
        let package: ApprovalPackage =
            serde_json::from_value(package).map_err(|error| unreadable(error.to_string()))?;
        let shown = PlanHash::of(&package.plan).map_err(|error| unreadable(error.to_string()))?;
        if shown != hash || package.plan_hash != hash.as_str() {
            return Err(unreadable(format!("its approval package is of {shown}")));
        }
        let rules = hash_of_sets(&package.constraint_sets).map_err(|error| unreadable(error.to_string()))?;
        if rules.as_str() != package.constraint_set_hash {
            return Err(unreadable(format!("its approval package shows other rules than it names: {rules}")));
        }
        let document = serde_json::from_value(value).map_err(|error| unreadable(error.to_string()))?;
        Ok(Self { view, document, hash, package })
    }
}
