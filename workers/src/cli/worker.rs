//! `dat worker`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;

use crate::cli::failure::{Answer, Failure};
use crate::cli::output;
use crate::cli::session::Session;
use crate::cli::stop::Stop;
use crate::worker::{Role, Worker};

/// Work: consume the queues, run steps, publish events
#[derive(Debug, Args)]
#[command(after_help = "\
Workers keep no state: start as many as there is work, on any machine that reaches the servers. SIGTERM drains. \
/livez, /readyz and /metrics are served on --listen. DAT_LOG chooses what is logged (info).

Examples:
  dat worker                                          every role
  dat worker --role step-dispatch --role step-failed  only run, retry and undo steps
  dat worker --listen 127.0.0.1:0 --name w2           a second one on the same machine")]
pub(crate) struct WorkerArgs {
    /// What this worker does; every role if none is given
    #[arg(long = "role", value_enum, value_name = "ROLE")]
    roles: Vec<Role>,
    /// Its name in leases and logs; a new one if none is given
    #[arg(long)]
    name: Option<String>,
    /// Where health and metrics are served, over worker.listen of the settings; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

impl WorkerArgs {
    /// Works until it is told to stop, then drains.
    pub(crate) async fn run(self, session: Session) -> Answer {
        let mut stop = Stop::listen()?;
        let roles = self.roles();
        let mut settings = session.settings;
        settings.worker.listen = self.listen.unwrap_or(settings.worker.listen);
        let worker = Worker::start(&settings, &roles, self.name)
            .await
            .map_err(|error| Failure::Failed(format!("the worker does not start: {error}")))?;
        tracing::info!(worker = worker.name(), address = %worker.address(), ?roles, "the worker has started");
        output::line(format_args!("ready http://{}", worker.address()))?;
        stop.told().await;
        Ok(if worker.drain().await { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn roles(&self) -> BTreeSet<Role> {
        if self.roles.is_empty() { Role::ALL.into() } else { self.roles.iter().copied().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_told_nothing_has_every_role() {
        let none = WorkerArgs { roles: Vec::new(), name: None, listen: None };
        assert_eq!(none.roles(), Role::ALL.into());
        let twice = WorkerArgs { roles: vec![Role::Relay, Role::Relay], ..none };
        assert_eq!(twice.roles(), [Role::Relay].into());
    }
}
