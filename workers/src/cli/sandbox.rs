//! `dat sandbox`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use dat_plan::clock::SystemClock;
use dat_sandbox::{GgpMode, Governance, RuleBook, Rules, Sandbox, SandboxConfig, SandboxError};
use figment::Figment;
use figment::providers::{Format as _, Toml};
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::cli::failure::{Answer, Failure};
use crate::cli::output;
use crate::cli::session::Session;
use crate::cli::stop::Stop;

/// Stand in for the outside systems: GGP, MUX, FLO and PTE
#[derive(Debug, Args)]
#[command(after_help = "\
It needs the broker and nothing else: what it says of the world comes from messages alone. When its queues are there it \
prints one line, 'ready http://ADDR'; GET there what it holds (/mux/effects, /flo/plans, /ggp/packages, …).

Examples:
  dat sandbox
  dat sandbox --ggp wait                     leave approving to you: dat approve
  dat sandbox --ggp-rules rules.toml         approve by rules, or ask for people: dat approve --to-ggp
  dat sandbox --data target/sandbox.redb     keep the world over a restart")]
pub(crate) struct SandboxArgs {
    /// Where its report is served; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9480")]
    listen: SocketAddr,
    /// Where it keeps the world; in memory if nowhere
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// How GGP judges
    #[arg(long, value_enum, default_value = "approve", value_name = "HOW")]
    ggp: Judgement,
    /// Approvers' rules, TOML or (.json) JSON: the first that matches approves, rejects, or asks for people; instead
    /// of --ggp
    #[arg(long, value_name = "FILE", conflicts_with = "ggp")]
    ggp_rules: Option<PathBuf>,
    /// MUX cannot say what came of a key: it answers probes with 'unknown', and seals nothing by them
    #[arg(long)]
    cannot_tell: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Judgement {
    /// Approves every plan
    Approve,
    /// Rejects every plan
    Reject,
    /// Leaves it to somebody
    Wait,
}

impl SandboxArgs {
    pub(crate) async fn run(self, session: &Session) -> Answer {
        let shutdown = CancellationToken::new();
        let mut stop = Stop::listen()?;
        let config = self.config(session, shutdown.clone())?;
        let sandbox = Sandbox::start(config).await.map_err(failed)?;
        let address = sandbox.address();
        let stopped = tokio::select! {
            () = sandbox.ready() => false,
            () = stop.told() => true,
        };
        let mut ended = pin!(sandbox.join());
        if !stopped {
            // It is ready as well when it broke off.
            if let Some(outcome) = (&mut ended).now_or_never() {
                return outcome.map(|()| ExitCode::FAILURE).map_err(failed);
            }
            output::line(format_args!("ready http://{address}"))?;
            tokio::select! {
                outcome = &mut ended => return outcome.map(|()| ExitCode::FAILURE).map_err(failed),
                () = stop.told() => {}
            }
        }
        shutdown.cancel();
        ended.await.map(|()| ExitCode::SUCCESS).map_err(failed)
    }

    fn config(self, session: &Session, shutdown: CancellationToken) -> Result<SandboxConfig, Failure> {
        let governance = Governance {
            rules: self.ggp_rules.as_deref().map(rules).transpose()?,
            signing: session.settings.signing_key()?.map(Arc::new),
            approvers: session.settings.trust()?.approvals,
        };
        Ok(SandboxConfig {
            amqp_url: session.settings.amqp_url.clone(),
            namespace: session.settings.namespace.clone(),
            listen: self.listen,
            data: self.data,
            ggp: match self.ggp {
                Judgement::Approve => GgpMode::Approve,
                Judgement::Reject => GgpMode::Reject,
                Judgement::Wait => GgpMode::Wait,
            },
            governance,
            cannot_tell: self.cannot_tell,
            clock: Arc::new(SystemClock),
            shutdown,
        })
    }
}

/// Reads a file of rules.
fn rules(path: &Path) -> Result<Rules, Failure> {
    let bad = |why: String| Failure::Usage(format!("the rules in {}: {why}", path.display()));
    let book: RuleBook = if path.extension().is_some_and(|extension| extension == "json") {
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?
    } else {
        Figment::from(Toml::file_exact(path)).extract().map_err(|error| bad(error.to_string()))?
    };
    Rules::compile(book).map_err(|rule| bad(rule.to_string()))
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn failed(error: SandboxError) -> Failure {
    Failure::Failed(format!("the sandbox ended: {error}"))
}
