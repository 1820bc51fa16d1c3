//! What the sandbox needs to know.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use dat_plan::Clock;
use tokio_util::sync::CancellationToken;

use crate::governance::Governance;
use crate::report::GgpMode;

/// Settings of a [`Sandbox`](crate::Sandbox).
#[derive(Clone)]
pub struct SandboxConfig {
    /// The broker.
    pub amqp_url: String,
    /// The prefix of every name on the broker, as DAT has it.
    pub namespace: Option<String>,
    /// Where the report is served; port 0 takes a free one. There is no login: keep it on loopback.
    pub listen: SocketAddr,
    /// The file of the sandbox's own store, made if it is missing; `None` keeps everything in memory.
    pub data: Option<PathBuf>,
    /// How GGP judges plans without a label `sandbox.ggp`.
    pub ggp: GgpMode,
    /// GGP's rules, its key, and the keys of people it asks.
    pub governance: Governance,
    /// MUX cannot say what came of a key, and seals none when it is asked.
    pub cannot_tell: bool,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Ends the sandbox.
    pub shutdown: CancellationToken,
}

impl fmt::Debug for SandboxConfig {
    /// Leaves the broker's address out, because it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxConfig")
            .field("namespace", &self.namespace)
            .field("listen", &self.listen)
            .field("data", &self.data)
            .field("ggp", &self.ggp)
            .field("governance", &self.governance)
            .field("cannot_tell", &self.cannot_tell)
            .finish_non_exhaustive()
    }
}
