//! `dat topology apply | verify | print`: exchanges, queues and bindings.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;
use dat_topology::{ApplyError, Party, vhost_of};
use serde_json::json;

use crate::cli::failure::{Answer, Failure};
use crate::cli::output::{self, OutputFlag};
use crate::cli::session::{Session, without_login};

/// Exchanges, queues and bindings on the broker
#[derive(Debug, Subcommand)]
pub(crate) enum Topology {
    /// Declare what is missing; nothing is deleted or changed
    #[command(after_help = "\
Safe to run again. What is there and differs is named, with what to do about it.

Examples:
  dat topology apply
  dat topology apply --namespace staging     a fleet of its own on a shared broker")]
    Apply,
    /// Name every difference between the broker and this version; exit status 1 if there is one
    #[command(after_help = "\
Reads the management API (AMQP_MANAGEMENT_URL) and changes nothing.

Examples:
  dat topology verify
  dat topology verify --output json")]
    Verify {
        #[command(flatten)]
        output: OutputFlag,
    },
    /// Print what this version declares; asks no server
    #[command(after_help = "\
Examples:
  dat topology print
  dat topology print --output json | jq '.queues[].name'
  dat topology print --rights                the least that each user needs, as rabbitmqctl takes it")]
    Print {
        /// Print what each party needs to be allowed instead
        #[arg(long)]
        rights: bool,
        #[command(flatten)]
        output: OutputFlag,
    },
}

impl Topology {
    pub(crate) async fn run(self, session: &Session) -> Answer {
        match self {
            Self::Apply => apply(session).await,
            Self::Verify { output } => verify(session, output).await,
            Self::Print { rights: false, output } => print(session, output),
            Self::Print { rights: true, output } => print_rights(session, output),
        }
    }
}

async fn apply(session: &Session) -> Answer {
    let topology = session.topology();
    let url = &session.settings.amqp_url;
    topology.apply(url).await.map_err(|error| match error {
        ApplyError::Connect(_) | ApplyError::Silent => {
            Failure::Failed(format!("RabbitMQ at {}: {error}", without_login(url)))
        }
        _ => Failure::Failed(error.to_string()),
    })?;
    output::line(format_args!(
        "{} has {} exchanges, {} queues and {} bindings",
        without_login(url),
        topology.exchanges().len(),
        topology.queues().len(),
        topology.bindings().len()
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn verify(session: &Session, output: OutputFlag) -> Answer {
    let vhost = vhost_of(&session.settings.amqp_url).map_err(|error| Failure::Usage(error.to_string()))?;
    let url = &session.settings.amqp_management_url;
    let drift = session
        .topology()
        .verify(url, &vhost)
        .await
        .map_err(|error| Failure::Failed(format!("RabbitMQ at {}: {error}", without_login(url))))?;
    if output.is_json() {
        let lines: Vec<String> = drift.iter().map(ToString::to_string).collect();
        output::json(&json!({"virtual_host": vhost, "drift": lines}))?;
    } else if drift.is_empty() {
        output::line(format_args!("virtual host {vhost} is as this version declares it"))?;
    } else {
        for difference in &drift {
            output::line(difference)?;
        }
    }
    Ok(if drift.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_rights(session: &Session, output: OutputFlag) -> Answer {
    let topology = session.topology();
    let rights = Party::ALL.map(|party| (party.as_str(), topology.rights(party)));
    if output.is_json() {
        output::json(&json!(BTreeMap::from(rights)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let vhost = vhost_of(&session.settings.amqp_url).map_err(|error| Failure::Usage(error.to_string()))?;
    for (user, rights) in &rights {
        for command in rights.commands(user, &vhost) {
            output::line(command)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(session: &Session, output: OutputFlag) -> Answer {
    let topology = session.topology();
    if output.is_json() {
        output::json(&topology.to_json())?;
    } else {
        output::line(topology.print().trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}
