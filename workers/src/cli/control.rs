//! `dat control pause | resume | connector … | weight | two-person … | confirm | show`.

mod two_person;

use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::{Args, Subcommand};
use dat_connectors::Connectors;
use dat_store::{BreakerForce, ControlChange, ControlScope, Requested};
use dat_topology::Exchange;
use tokio::time::timeout;
use uuid::Uuid;

use crate::cli::act::Act;
use crate::cli::broker::Broker;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{self, OutputFlag};
use crate::cli::session::Session;
use crate::cli::table::{table, text};

/// How long a command tries to tell the workers what they will find by themselves.
const HINT: Duration = Duration::from_secs(2);

/// Stop and start parts of the fleet
#[derive(Debug, Subcommand)]
pub(crate) enum Control {
    /// Claim nothing more: of a tenant, a plan, or the whole fleet
    #[command(after_help = "\
What runs ends; nothing new is claimed from the moment this returns, undos included. Deadlines go on.

Examples:
  dat control pause --reason 'the ad platform is down'
  dat control pause --tenant acme --reason 'budget review'
  dat control pause --plan PLAN --reason 'wrong SKU?'")]
    Pause(Whose),
    /// Claim again
    #[command(after_help = "\
Lifts the pause of the same scope: a plan under a paused tenant stays paused. A plan that paused by itself, because a \
step failed and its rollback is manual, tries that step again.

Examples:
  dat control resume --reason 'the ad platform is back'
  dat control resume --plan PLAN --reason 'SKU is right'")]
    Resume(Whose),
    /// Stop and start one connector
    #[command(subcommand)]
    Connector(ConnectorControl),
    /// Set how much of the claims a tenant gets beside others that have work too
    #[command(after_help = "\
A tenant of weight 3 is claimed three units for each of a tenant of weight 1, which is what every tenant has that \
nothing was set for. Nobody's share is ever nothing.

Examples:
  dat control weight --tenant acme --weight 3 --reason 'they pay for it'
  dat control weight --tenant acme --weight 1 --reason 'their contract ended'")]
    Weight(Share),
    /// Set and show which acts take two operators
    #[command(subcommand)]
    TwoPerson(two_person::TwoPerson),
    Confirm(two_person::Confirm),
    /// Show what is stopped, by whom, and why, and what waits for a second operator
    #[command(after_help = "\
Examples:
  dat control show
  dat control show --output json")]
    Show {
        #[command(flatten)]
        output: OutputFlag,
    },
}

/// Stop and start one connector
#[derive(Debug, Subcommand)]
pub(crate) enum ConnectorControl {
    /// Claim no step of it
    #[command(after_help = "\
Examples:
  dat control connector disable mux --reason 'maintenance until noon'")]
    Disable(Which),
    /// Claim its steps again
    #[command(after_help = "\
Examples:
  dat control connector enable mux --reason 'maintenance is over'")]
    Enable(Which),
    /// Hold its circuit breaker open: no step of it is claimed, undos included
    #[command(after_help = "\
Examples:
  dat control connector open http --reason 'the shop asked us to stop for an hour'")]
    Open(Which),
    /// Hold its circuit breaker closed: its steps go out whatever became of others
    #[command(after_help = "\
Examples:
  dat control connector close http --reason 'their timeouts are harmless tonight'")]
    Close(Which),
    /// Let its circuit breaker open and close by itself again
    #[command(after_help = "\
Examples:
  dat control connector auto http --reason 'the hour is over'")]
    Auto(Which),
}

/// Whose steps, by whom and why. No scope means the whole fleet.
#[derive(Debug, Args)]
pub(crate) struct Whose {
    /// One tenant's plans; the whole fleet without --tenant and --plan
    #[arg(long, conflicts_with = "plan", value_parser = NonEmptyStringValueParser::new())]
    tenant: Option<String>,
    /// One plan, every version
    #[arg(long, value_name = "UUID")]
    plan: Option<Uuid>,
    #[command(flatten)]
    act: Act,
}

/// Whose share, how much, by whom and why.
#[derive(Debug, Args)]
pub(crate) struct Share {
    /// The tenant
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    tenant: String,
    /// Claims for each claim of a tenant of weight 1
    #[arg(long, value_parser = clap::value_parser!(i16).range(1..=100))]
    weight: i16,
    #[command(flatten)]
    act: Act,
}

/// Which connector, by whom and why.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The connector
    #[arg(value_parser = PossibleValuesParser::new(Connectors::NAMES))]
    name: String,
    #[command(flatten)]
    act: Act,
}

impl Control {
    pub(crate) async fn run(self, session: &Session) -> Answer {
        match self {
            Self::Pause(whose) => whose.run(session, true).await,
            Self::Resume(whose) => whose.run(session, false).await,
            Self::Connector(ConnectorControl::Disable(which)) => which.run(session, true).await,
            Self::Connector(ConnectorControl::Enable(which)) => which.run(session, false).await,
            Self::Connector(ConnectorControl::Open(which)) => {
                which.force(session, Some(BreakerForce::Open)).await
            }
            Self::Connector(ConnectorControl::Close(which)) => {
                which.force(session, Some(BreakerForce::Closed)).await
            }
            Self::Connector(ConnectorControl::Auto(which)) => which.force(session, None).await,
            Self::Weight(share) => share.run(session).await,
            Self::TwoPerson(two_person) => two_person.run(session).await,
            Self::Confirm(confirm) => confirm.run(session).await,
            Self::Show { output } => show(session, output).await,
        }
    }
}

impl Whose {
    async fn run(self, session: &Session, stop: bool) -> Answer {
        let scope = match (self.tenant, self.plan) {
            (Some(tenant), _) => ControlScope::Tenant(tenant),
            (None, Some(plan)) => ControlScope::Plan(plan),
            (None, None) => ControlScope::Fleet,
        };
        set(session, &scope, stop, &self.act).await
    }
}

impl Which {
    async fn run(self, session: &Session, stop: bool) -> Answer {
        set(session, &ControlScope::Connector(self.name), stop, &self.act).await
    }

    async fn force(self, session: &Session, force: Option<BreakerForce>) -> Answer {
        let Self { name, act } = self;
        let store = session.store().await?;
        let change = store.force_breaker(&name, force, &act.actor, &act.reason, session.now()).await?;
        let state = match force {
            Some(BreakerForce::Open) => "is forced open",
            Some(BreakerForce::Closed) => "is forced closed",
            None => "moves by itself",
        };
        match change {
            ControlChange::Done => {
                tell_workers(session, &ControlScope::Connector(name.clone())).await;
                output::line(format_args!("the breaker of connector {name} {state}"))?;
            }
            ControlChange::AlreadySo | ControlChange::NotThere | ControlChange::Requested(_) => output::line(
                format_args!("the breaker of connector {name} {state}, as before: nothing changed"),
            )?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Share {
    async fn run(self, session: &Session) -> Answer {
        let Self { tenant, weight, act } = self;
        let store = session.store().await?;
        match store.set_weight(&tenant, weight, &act.actor, &act.reason, session.now()).await? {
            ControlChange::Done => output::line(format_args!("tenant {tenant} has weight {weight}"))?,
            ControlChange::AlreadySo | ControlChange::NotThere | ControlChange::Requested(_) => {
                output::line(format_args!("tenant {tenant} had weight {weight} before: nothing changed"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn set(session: &Session, scope: &ControlScope, stop: bool, act: &Act) -> Answer {
    let store = session.store().await?;
    let change = store.control(scope, stop, &act.actor, &act.reason, session.now()).await?;
    said(session, scope, stop, change).await
}

/// Tells the workers of a stop or its end, and says what came of it.
async fn said(session: &Session, scope: &ControlScope, stop: bool, change: ControlChange) -> Answer {
    let subject = subject(scope);
    let state = match (scope, stop) {
        (ControlScope::Connector(_), true) => "disabled",
        (ControlScope::Connector(_), false) => "enabled",
        (_, true) => "paused",
        (_, false) => "resumed",
    };
    match change {
        ControlChange::Done => {
            tell_workers(session, scope).await;
            output::line(format_args!("{subject} is {state}"))?;
        }
        ControlChange::Requested(request) => return requested(request),
        ControlChange::AlreadySo if stop => {
            output::line(format_args!("{subject} was {state} before: nothing changed"))?;
        }
        ControlChange::AlreadySo => output::line(format_args!("{subject} was not stopped: nothing changed"))?,
        ControlChange::NotThere => {
            return Err(Failure::Failed(format!("{subject} is not there, or is over: see 'dat plan list'")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says that nothing is in force yet, and how it comes to be.
pub(crate) fn requested(Requested { id, expires_at }: Requested) -> Answer {
    output::line(format_args!(
        "this takes two operators: request {id} waits until {} for someone else's 'dat control confirm {id} --reason …'",
        output::moment(expires_at)
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn subject(scope: &ControlScope) -> String {
    match scope {
        ControlScope::Fleet => "the fleet".to_owned(),
        ControlScope::Tenant(tenant) => format!("tenant {tenant}"),
        ControlScope::Plan(plan) => format!("plan {plan}"),
        ControlScope::Connector(name) => format!("connector {name}"),
    }
}

/// Makes it quicker to notice. The row is what counts, so a broker that is away is only worth a note.
pub(crate) async fn tell_workers(session: &Session, scope: &ControlScope) {
    let telling = async {
        let broker = Broker::connect(session).await?;
        let body = serde_json::to_vec(scope).map_err(std::io::Error::from)?;
        // No worker may be there to take it.
        let message = broker.message(session, Exchange::Control, "", body).mandatory(false).persistent(false);
        let told = broker.publish(message).await;
        broker.close().await;
        told
    };
    let told = timeout(HINT, telling).await;
    if !matches!(told, Ok(Ok(()))) {
        output::note("note: the broker is away, so workers notice with their next claim");
    }
}

async fn show(session: &Session, output: OutputFlag) -> Answer {
    let store = session.store().await?;
    let stops = store.stops().await?;
    if output.is_json() {
        output::json(&stops)?;
        return Ok(ExitCode::SUCCESS);
    }
    if stops.is_empty() {
        output::line("nothing is stopped")?;
    } else {
        let mut table = table(&["scope", "subject", "by", "since", "reason"]);
        for stop in &stops {
            table.add_row([
                text(&stop.scope),
                text(&stop.subject),
                text(&stop.actor),
                text(output::moment(stop.since)),
                text(&stop.reason),
            ]);
        }
        output::line(table)?;
    }
    for breaker in store.forced_breakers().await?.iter().filter(|breaker| breaker.forced == "closed") {
        output::line(format_args!(
            "the breaker of connector {} is forced closed by {} since {}: {}",
            breaker.connector,
            breaker.actor,
            output::moment(breaker.since),
            breaker.reason
        ))?;
    }
    two_person::waiting(&store.control_requests(session.now()).await?)?;
    for set in store.weights().await? {
        output::line(format_args!("tenant {} has weight {}, set by {}", set.tenant, set.weight, set.set_by))?;
    }
    Ok(ExitCode::SUCCESS)
}
