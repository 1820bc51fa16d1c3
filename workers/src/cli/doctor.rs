//! `dat doctor`: looks at every server that the settings name, and says what to do about what is not well.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use dat_guards::RuntimeStore;
use dat_store::{Migrations, Rights};
use dat_topology::{broker_version, vhost_of};
use serde::Serialize;
use tokio::time::timeout;

use crate::cli::broker::Broker;
use crate::cli::failure::Answer;
use crate::cli::output::{self, OutputFlag};
use crate::cli::session::{Session, without_login};
use crate::cli::table::{health, maybe, table, text};

/// How long a server may take for all that it is asked.
const PATIENCE: Duration = Duration::from_secs(10);
/// How far a server's clock may be from ours: leases and windows are compared with times that others wrote.
const SKEW: TimeDelta = TimeDelta::seconds(1);
/// The oldest PostgreSQL, as `server_version_num`, and Redis that this version is tested with.
const POSTGRES: i32 = 150_000;
const REDIS: u32 = 7;
/// The oldest RabbitMQ whose quorum queues park at least once: 3.10.
const RABBITMQ: (Option<u32>, Option<u32>) = (Some(3), Some(10));
/// Fewer free connections than this are soon none.
const CONNECTIONS: i64 = 10;

/// Check every server, what this login may do there, clocks and versions, and say what to do
#[derive(Debug, Args)]
#[command(after_help = "\
Changes nothing. Exit status 1 if something does not work; what is only worth knowing is a warning.

Examples:
  dat doctor
  DATABASE_URL=postgres://worker:…@db/dat dat doctor      as a worker sees it
  dat doctor --output json | jq '.[] | select(.state != \"well\")'")]
pub(crate) struct Doctor {
    #[command(flatten)]
    output: OutputFlag,
}

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// As it should be.
    Well,
    /// It works, and may not for long, or not for everybody.
    Warning,
    /// It does not work.
    Fails,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    found: String,
    /// What to do about it.
    advice: Option<String>,
}

impl Finding {
    fn well(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, state: State::Well, found: found.into(), advice: None }
    }

    fn warning(what: &'static str, found: impl Into<String>, advice: &str) -> Self {
        Self { what, state: State::Warning, found: found.into(), advice: Some(advice.to_owned()) }
    }

    fn fails(what: &'static str, found: impl Into<String>, advice: &str) -> Self {
        Self { what, state: State::Fails, found: found.into(), advice: Some(advice.to_owned()) }
    }

    /// Well where it is so, else a warning.
    fn if_so(is: bool, what: &'static str, found: String, advice: &str) -> Self {
        if is { Self::well(what, found) } else { Self::warning(what, found, advice) }
    }
}

impl Doctor {
    pub(crate) async fn run(self, session: &Session) -> Answer {
        let (database, broker, topology, redis) =
            tokio::join!(database(session), broker(session), topology(session), redis(session));
        let findings: Vec<Finding> =
            [settings(session), database, broker, topology, redis].into_iter().flatten().collect();
        if self.output.is_json() {
            output::json(&findings)?;
        } else {
            let mut shown = table(&["what", "state", "found", "what to do"]);
            for finding in &findings {
                shown.add_row([
                    text(finding.what),
                    health(finding.state),
                    text(&finding.found),
                    maybe(finding.advice.as_deref()),
                ]);
            }
            output::line(shown)?;
        }
        let fails = findings.iter().any(|finding| finding.state == State::Fails);
        Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn settings(session: &Session) -> Vec<Finding> {
    let settings = &session.settings;
    let version = Finding::well("dat", format!("version {}", env!("CARGO_PKG_VERSION")));
    let signed = match settings.trust() {
        Err(error) => Finding::fails("keys", error.to_string(), "correct [[verdict_key]]"),
        Ok(trust) if trust.verdicts.is_empty() => Finding::warning(
            "keys",
            "any verdict is believed, whoever sends it",
            "give workers [[verdict_key]], so that only governance can approve",
        ),
        Ok(_) => Finding::well("keys", "verdicts must be signed"),
    };
    vec![version, signed]
}

async fn database(session: &Session) -> Vec<Finding> {
    let address = without_login(&session.settings.database_url);
    let store = match session.distant_store() {
        Ok(store) => store,
        Err(failure) => return vec![Finding::fails("database", failure.to_string(), "correct DATABASE_URL")],
    };
    let before = session.now();
    let asked = timeout(PATIENCE, store.diagnose()).await;
    let found = match asked {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            let why = session.no_store(&error).to_string();
            return vec![Finding::fails("database", why, "start it, or correct DATABASE_URL")];
        }
        Err(_) => {
            let why = format!("PostgreSQL at {address} has not answered within {} s", PATIENCE.as_secs());
            return vec![Finding::fails("database", why, "look whether it hangs, or what is between")];
        }
    };
    let (major, minor) = (found.version / 10_000, found.version % 10_000);
    let server = format!("PostgreSQL {major}.{minor} at {address}, as {}", found.login);
    let migrated = match found.migrations {
        Migrations::Current => Finding::well("migrations", "as this version needs them"),
        Migrations::Hidden => Finding::well("migrations", "the tables are there; this login sees no more"),
        Migrations::None => {
            Finding::fails("migrations", "it was never migrated", "run 'dat migrate' as the owner")
        }
        Migrations::Missing(count) => {
            Finding::fails("migrations", format!("{count} are missing"), "run 'dat migrate' as the owner")
        }
        Migrations::Newer(count) => Finding::warning(
            "migrations",
            format!("{count} are of a newer version of DAT"),
            "replace this one soon",
        ),
    };
    let rights = match found.rights {
        Rights { reads: false, .. } => "may not read plans",
        Rights { sets_limits: true, .. } => "may act as an operator",
        Rights { writes: true, .. } => "may work",
        Rights { .. } => "may read",
    };
    let rights = if found.rights.reads || found.migrations == Migrations::None {
        Finding::well("database rights", rights)
    } else {
        Finding::fails(
            "database rights",
            rights,
            "run 'dat migrate --worker-role …' (or --operator-role, --auditor-role)",
        )
    };
    vec![
        Finding::if_so(found.version >= POSTGRES, "database", server, "use PostgreSQL 15 or newer"),
        migrated,
        rights,
        clock("database clock", found.clock, before, session.now()),
        Finding::if_so(
            found.durable,
            "database commits",
            (if found.durable { "on disk when they are answered" } else { "may be lost in a crash" })
                .to_owned(),
            "set fsync = on and synchronous_commit = on: what was told to the outside must not be forgotten",
        ),
        Finding::if_so(
            found.connections_free >= CONNECTIONS,
            "database connections",
            format!("{} are free", found.connections_free),
            "raise max_connections, or lower worker.connections",
        ),
    ]
}

/// A clock that was read between two moments of ours.
fn clock(what: &'static str, theirs: DateTime<Utc>, before: DateTime<Utc>, after: DateTime<Utc>) -> Finding {
    let off = if theirs < before { theirs - before } else { (theirs - after).max(TimeDelta::zero()) };
    let found = format!("{} ms from this one's", off.num_milliseconds());
    Finding::if_so(
        off.abs() <= SKEW,
        what,
        found,
        "synchronise the clocks of all machines, for example by chrony",
    )
}

async fn broker(session: &Session) -> Vec<Finding> {
    let address = without_login(&session.settings.amqp_url);
    match Broker::connect(session).await {
        Err(failure) => vec![Finding::fails("broker", failure.to_string(), "start it, or correct AMQP_URL")],
        Ok(broker) => {
            broker.close().await;
            vec![Finding::well("broker", format!("RabbitMQ at {address} takes what is published"))]
        }
    }
}

async fn topology(session: &Session) -> Vec<Finding> {
    let url = &session.settings.amqp_management_url;
    let mut findings = Vec::new();
    if let Ok(Ok(version)) = timeout(PATIENCE, broker_version(url)).await {
        let number = |part: Option<&str>| part.and_then(|part| part.parse::<u32>().ok());
        let mut parts = version.split('.');
        let new = (number(parts.next()), number(parts.next())) >= RABBITMQ;
        let found = format!("RabbitMQ {version}");
        findings.push(Finding::if_so(new, "broker version", found, "use RabbitMQ 3.10 or newer"));
    }
    let Ok(vhost) = vhost_of(&session.settings.amqp_url) else { return findings };
    findings.extend(match timeout(PATIENCE, session.topology().verify(url, &vhost)).await {
        Ok(Ok(drift)) if drift.is_empty() => {
            vec![Finding::well("topology", format!("virtual host {vhost} is as this version declares it"))]
        }
        Ok(Ok(drift)) => {
            let advice = "run 'dat topology apply'; what differs, 'dat topology verify' says in full";
            drift.iter().map(|one| Finding::fails("topology", one.to_string(), advice)).collect()
        }
        Ok(Err(error)) => vec![Finding::warning(
            "topology",
            format!("{}: {error}", without_login(url)),
            "nothing but this check needs the management API",
        )],
        Err(_) => vec![Finding::warning("topology", "the management API does not answer", "look again")],
    });
    findings
}

async fn redis(session: &Session) -> Vec<Finding> {
    let settings = &session.settings;
    let address = without_login(&settings.redis_url);
    let store = match RuntimeStore::connect(&settings.redis_url, settings.redis_namespace(), PATIENCE) {
        Ok(store) => store,
        Err(error) => {
            return vec![Finding::fails("redis", error.to_string(), "correct REDIS_URL or DAT_NAMESPACE")];
        }
    };
    let before = session.now();
    let found = match store.diagnose().await {
        Ok(found) => found,
        Err(away) => {
            let why = format!("Redis at {address} cannot be used: {away}");
            let advice = "start it, or correct REDIS_URL; meanwhile token windows stay closed";
            return vec![Finding::fails("redis", why, advice)];
        }
    };
    let major = found.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    vec![
        Finding::if_so(
            major.is_some_and(|major| major >= REDIS),
            "redis",
            format!("Redis {} at {address}", found.version),
            "use Redis 7 or newer",
        ),
        clock("redis clock", found.clock, before, session.now()),
        Finding::if_so(
            found.eviction == "noeviction",
            "redis eviction",
            found.eviction.clone(),
            "set maxmemory-policy noeviction: what is evicted has to be counted from the ledger again",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::milliseconds(ms)
    }

    #[test]
    fn a_clock_is_off_by_what_the_answers_way_does_not_explain() {
        for (theirs, state) in [
            (at(50), State::Well),
            (at(1_090), State::Well),
            (at(1_101), State::Warning),
            (at(-1_001), State::Warning),
        ] {
            assert_eq!(clock("clock", theirs, at(0), at(100)).state, state, "{theirs}");
        }
    }
}
