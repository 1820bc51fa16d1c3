//! A handle on one supervised connection, whichever it is at the moment.

use std::sync::Arc;
use std::time::Duration;

use lapin::{Channel, Connection};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config::BusConfig;
use crate::supervisor::Supervisor;

/// Whether a link has a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// There is none, and the supervisor is at it.
    Connecting,
    /// There is one.
    Up,
}

/// A connection that was up when it was asked for.
#[derive(Clone)]
pub(crate) struct Live {
    /// Which connection of this link: the first is 1.
    pub(crate) generation: u64,
    pub(crate) connection: Arc<Connection>,
}

/// What the supervisor shows of the connection.
#[derive(Clone, Default)]
pub(crate) struct View {
    pub(crate) live: Option<Live>,
    /// Whether the broker has stopped reading from it.
    pub(crate) blocked: bool,
    /// How many there have been.
    pub(crate) established: u64,
}

/// A handle on a supervised connection.
#[derive(Clone)]
pub(crate) struct Link {
    view: watch::Receiver<View>,
    condemned: Arc<watch::Sender<u64>>,
    patience: Duration,
}

impl Link {
    /// The link, and the future that supervises it until `shutdown`.
    pub(crate) fn new(
        role: &'static str,
        config: Arc<BusConfig>,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (view, seen) = watch::channel(View::default());
        let (condemn, condemned) = watch::channel(0);
        let link = Self { view: seen, condemned: Arc::new(condemn), patience: config.connect_timeout };
        (link, Supervisor { role, config, view, condemned, shutdown }.run())
    }

    pub(crate) fn state(&self) -> LinkState {
        if self.view.borrow().live.is_some() { LinkState::Up } else { LinkState::Connecting }
    }

    /// Whether the broker has stopped reading from this connection.
    pub(crate) fn blocked(&self) -> bool {
        self.view.borrow().blocked
    }

    pub(crate) fn reconnects(&self) -> u64 {
        self.view.borrow().established.saturating_sub(1)
    }

    pub(crate) fn live(&self) -> Option<Live> {
        self.view.borrow().live.clone()
    }

    /// Waits for a connection. `None`: the bus has shut down.
    pub(crate) async fn up(&self) -> Option<Live> {
        self.view.clone().wait_for(|view| view.live.is_some()).await.ok()?.live.clone()
    }

    /// Waits for a connection that the broker reads from. Returns as well when the bus has shut down.
    pub(crate) async fn writable(&self) {
        let _ = self.view.clone().wait_for(|view| view.live.is_some() && !view.blocked).await;
    }

    /// Returns when the connection of this generation is gone.
    pub(crate) async fn lost(&self, generation: u64) {
        let gone = |view: &View| view.live.as_ref().is_none_or(|live| live.generation != generation);
        let _ = self.view.clone().wait_for(gone).await;
    }

    /// Opens a channel, or gives the connection up if the broker does not answer in time.
    pub(crate) async fn open_channel(&self, live: &Live) -> Option<Channel> {
        match timeout(self.patience, live.connection.create_channel()).await {
            Ok(Ok(channel)) => Some(channel),
            Ok(Err(error)) => {
                debug!(%error, "no channel");
                None
            }
            Err(_) => {
                self.condemned.send_replace(live.generation);
                None
            }
        }
    }

    /// Finds out whether a broker that owes an answer is still there. Opening a channel asks nothing of any queue,
    /// so a queue that is slow does not cost the others their connection.
    pub(crate) async fn probe(&self, generation: u64) {
        if let Some(live) = self.live().filter(|live| live.generation == generation)
            && let Some(channel) = self.open_channel(&live).await
        {
            close(channel, self.patience).await;
        }
    }
}

/// Closes a channel by asking, so that the answer comes to us: when dropping one, an error of the close would end
/// the connection with all of its other channels.
pub(crate) async fn close(channel: Channel, patience: Duration) {
    if channel.status().connected() {
        let _ = timeout(patience, channel.close(200, "done".into())).await;
    }
}
