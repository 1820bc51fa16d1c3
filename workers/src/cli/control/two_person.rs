//! `dat control two-person set | show` and `dat control confirm`: acts that a second operator must confirm.

use std::process::ExitCode;

use chrono::TimeDelta;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use dat_plan::event::ControlAct;
use dat_store::{Confirmation, ControlChange, ControlRequest, ControlScope, Resolved};
use serde_json::json;
use uuid::Uuid;

use super::{requested, said, tell_workers};
use crate::cli::act::Act;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{self, OutputFlag};
use crate::cli::session::Session;
use crate::cli::table::{number, table, text};

/// The acts that can take two.
const ACTS: [ControlAct; 6] = [
    ControlAct::Pause,
    ControlAct::Resume,
    ControlAct::Abort,
    ControlAct::DisableConnector,
    ControlAct::EnableConnector,
    ControlAct::Resolve,
];

/// Set and show which acts take two operators
#[derive(Debug, Subcommand)]
pub(crate) enum TwoPerson {
    /// Say which acts take two; instead of those that did before
    #[command(after_help = "\
Such an act is only a request at first; a second, different operator's 'dat control confirm' puts it in force. While \
any act takes two, so does a change of this. The rule is a row of the database: it binds every command.

Examples:
  dat control two-person set --act abort --act resume --reason 'four eyes'
  dat control two-person set --none --reason 'the audit is over'")]
    Set(Set),
    /// Show which acts take two
    #[command(after_help = "\
Examples:
  dat control two-person show
  dat control two-person show --output json")]
    Show {
        #[command(flatten)]
        output: OutputFlag,
    },
}

/// Which acts, by whom and why.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// An act that takes two; repeat it for several
    #[arg(
        long = "act",
        value_name = "ACT",
        required_unless_present = "none",
        value_parser = PossibleValuesParser::new(ACTS.map(ControlAct::as_str))
    )]
    acts: Vec<String>,
    /// No act takes two
    #[arg(long, conflicts_with = "acts")]
    none: bool,
    /// How long a request waits for the second operator, in seconds, at most 30 days
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = clap::value_parser!(i64).range(1..=2_592_000))]
    valid_for_s: i64,
    #[command(flatten)]
    act: Act,
}

/// Confirm an act that another operator asked for
#[derive(Debug, Args)]
#[command(after_help = "\
What waits is shown by 'dat control show'.

Examples:
  dat control confirm 7 --reason 'I looked at it too'")]
pub(crate) struct Confirm {
    /// The request
    #[arg(value_name = "REQUEST")]
    id: i64,
    #[command(flatten)]
    act: Act,
}

impl TwoPerson {
    pub(super) async fn run(self, session: &Session) -> Answer {
        match self {
            Self::Set(set) => set.run(session).await,
            Self::Show { output } => show(session, output).await,
        }
    }
}

impl Set {
    async fn run(self, session: &Session) -> Answer {
        let mut acts = Vec::with_capacity(self.acts.len());
        for act in &self.acts {
            acts.push(act.parse().map_err(|_| Failure::Usage(format!("there is no act {act}")))?);
        }
        let store = session.store().await?;
        let valid_for = TimeDelta::seconds(self.valid_for_s);
        let Act { actor, reason } = &self.act;
        set_said(store.set_two_person(&acts, valid_for, actor, reason, session.now()).await?)
    }
}

fn set_said(change: ControlChange) -> Answer {
    match change {
        ControlChange::Done => output::line("set: 'dat control two-person show' shows which acts take two")?,
        ControlChange::AlreadySo | ControlChange::NotThere => {
            output::line("it was so before: nothing changed")?;
        }
        ControlChange::Requested(request) => return requested(request),
    }
    Ok(ExitCode::SUCCESS)
}

impl Confirm {
    pub(super) async fn run(self, session: &Session) -> Answer {
        let store = session.store().await?;
        let (id, Act { actor, reason }) = (self.id, &self.act);
        let refused = |why: String| Err(Failure::Failed(format!("request {id} is not confirmed: {why}")));
        match store.confirm(id, actor, reason, session.now()).await? {
            Confirmation::NotThere => refused("there is none of that number".to_owned()),
            Confirmation::SamePerson => {
                refused(format!("{actor} asked for it, and a second operator must confirm"))
            }
            Confirmation::Before(who) => refused(format!("{who} confirmed it before")),
            Confirmation::Expired(at) => refused(format!("it expired at {}", output::moment(at))),
            Confirmation::Resolved(asked, resolved) => match resolved {
                Resolved::Done { plan, .. } => {
                    let id: Uuid = asked.subject.parse().unwrap_or_default();
                    tell_workers(session, &ControlScope::Plan(id)).await;
                    output::line(format_args!("resolved; plan {id} is {plan}"))?;
                    Ok(ExitCode::SUCCESS)
                }
                Resolved::Refused(why) => refused(why.to_string()),
                Resolved::Requested(request) => requested(request),
            },
            Confirmation::Control(asked, change) => control_said(session, &asked, change).await,
        }
    }
}

async fn control_said(session: &Session, asked: &ControlRequest, change: ControlChange) -> Answer {
    // The store has just acted on it.
    let Some(scope) = asked.control_scope() else { return set_said(change) };
    match asked.act.parse() {
        Ok(ControlAct::Pause | ControlAct::DisableConnector) => said(session, &scope, true, change).await,
        Ok(ControlAct::Resume | ControlAct::EnableConnector) => said(session, &scope, false, change).await,
        Ok(ControlAct::Abort) if change == ControlChange::Done => {
            tell_workers(session, &scope).await;
            let plan = &asked.subject;
            output::line(format_args!(
                "plan {plan} is being ended: 'dat plan watch {plan}' shows what is undone"
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(ControlAct::Abort) => {
            output::line(format_args!("plan {} is being undone or over: nothing changed", asked.subject))?;
            Ok(ExitCode::SUCCESS)
        }
        _ => set_said(change),
    }
}

/// Says which requests wait for their second operator.
pub(super) fn waiting(requests: &[ControlRequest]) -> Result<(), Failure> {
    if requests.is_empty() {
        return Ok(());
    }
    let mut table = table(&["request", "act", "scope", "subject", "asked by", "until", "reason"]);
    for request in requests {
        table.add_row([
            number(request.id),
            text(&request.act),
            text(&request.scope),
            text(&request.subject),
            text(&request.actor),
            text(output::moment(request.expires_at)),
            text(&request.reason),
        ]);
    }
    output::line("these wait for a second operator's 'dat control confirm':")?;
    output::line(table)
}

async fn show(session: &Session, output: OutputFlag) -> Answer {
    let store = session.store().await?;
    let (acts, requests) = (store.two_person().await?, store.control_requests(session.now()).await?);
    if output.is_json() {
        output::json(&json!({"acts": acts, "requests": requests}))?;
        return Ok(ExitCode::SUCCESS);
    }
    if acts.is_empty() {
        output::line("every act takes one operator")?;
    }
    for act in &acts {
        output::line(format_args!(
            "{} takes two, within {} s; set by {} at {}",
            act.act,
            act.valid_for_ms / 1000,
            act.set_by,
            output::moment(act.set_at)
        ))?;
    }
    waiting(&requests)?;
    Ok(ExitCode::SUCCESS)
}
