//! `dat console`: plans in a browser.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use dat_plan::clock::SystemClock;
use tokio::net::TcpListener;

use crate::cli::failure::{Answer, Failure};
use crate::cli::output;
use crate::cli::session::Session;
use crate::cli::stop::Stop;
use crate::console::{self, Console, Hosts};

/// Serve a web page of plans, one plan's way, and budgets; and the same as JSON under /api/v1
#[derive(Debug, Args)]
#[command(after_help = "\
It only reads: a login with an auditor's rights will do ('dat migrate --auditor-role'). Whoever reaches it sees every \
tenant's plans, so it listens to this machine alone unless told otherwise; put a proxy that asks who it is before it.

Examples:
  dat console
  dat console --listen 0.0.0.0:9465 --host console.example.com
  curl -s 'http://127.0.0.1:9465/api/v1/plans?state=executing' | jq '.plans[].name'")]
pub(crate) struct ConsoleArgs {
    /// Where it is served; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9465")]
    listen: SocketAddr,
    /// A name that it answers to besides its address
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
}

impl ConsoleArgs {
    pub(crate) async fn run(self, session: Session) -> Answer {
        let mut stop = Stop::listen()?;
        let store = session.store().await?;
        let cannot = |error| Failure::Failed(format!("cannot listen on {}: {error}", self.listen));
        let listener = TcpListener::bind(self.listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let routes =
            console::routes(Console::new(store, Arc::new(SystemClock)), Hosts::of(address, self.hosts));
        output::line(format_args!("ready http://{address}"))?;
        tokio::select! {
            served = axum::serve(listener, routes).into_future() => {
                served.map_err(|error| Failure::Failed(format!("it is not served any more: {error}")))?;
            }
            () = stop.told() => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}
