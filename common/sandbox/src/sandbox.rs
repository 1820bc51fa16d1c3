//! The sandbox as a whole: starts, serves, drains.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dat_bus::{Bus, BusConfig, ConfigError, Malformed};
use dat_topology::{ApplyError, Exchange, Topology};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::broker::Broker;
use crate::config::SandboxConfig;
use crate::desk::Desks;
use crate::herald::Herald;
use crate::http;
use crate::store::{Store, StoreError};
use crate::world::World;

/// How long what is decided may take to reach the broker once the sandbox is told to end.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the sandbox did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The broker's address is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A name is longer than AMQP can carry: shorten the namespace.
    #[error(transparent)]
    Name(#[from] Malformed),
    /// The broker refuses the sandbox's queues.
    #[error(transparent)]
    Topology(#[from] ApplyError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The report cannot be served there.
    #[error("the sandbox's report cannot be served on {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// A part of the sandbox broke off.
    #[error("a part of the sandbox broke off: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

/// The four outside systems, running.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    ready: watch::Receiver<bool>,
    supervisor: JoinHandle<Result<(), SandboxError>>,
}

impl Sandbox {
    /// Opens the store, serves the report, and starts to connect to the broker. Must be called within a Tokio runtime.
    pub async fn start(config: SandboxConfig) -> Result<Self, SandboxError> {
        let data = config.data.clone();
        let (store, writer) = tokio::task::spawn_blocking(move || Store::open(data)).await??;
        let listen = |error| SandboxError::Listen { address: config.listen, error };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        // The bus outlives `shutdown`, so that what is decided is still answered.
        let closing = CancellationToken::new();
        let bus = Bus::start(BusConfig::new(&config.amqp_url, "dat-sandbox")?, closing.clone());
        let topology = Topology::sandbox(config.namespace.as_deref());
        let desks = Desks::open(&bus, &topology)?;
        let herald = Herald::new(bus.publisher(), topology.exchange(Exchange::Plans).name);
        let world = Arc::new(World::new(
            store,
            herald,
            config.clock,
            (config.governance, config.ggp),
            config.cannot_tell,
        ));
        let (ready, readiness) = watch::channel(false);
        let supervisor = Supervisor { world, bus, writer, ready, shutdown: config.shutdown };
        let broker = Broker { amqp_url: config.amqp_url, topology };
        info!(%address, "the sandbox reports here");
        let supervisor = tokio::spawn(supervisor.run(listener, broker, desks));
        Ok(Self { address, ready: readiness, supervisor })
    }

    /// Where the report is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every queue is there and consumed. Returns as well when the sandbox has ended; [`Sandbox::join`]
    /// says why.
    pub async fn ready(&self) {
        // An error means that the supervisor has ended.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Waits until the sandbox has ended, and everything that was decided is stored and answered.
    pub async fn join(self) -> Result<(), SandboxError> {
        self.supervisor.await?
    }
}

/// What ends the parts, and waits for them.
struct Supervisor {
    world: Arc<World>,
    bus: Bus,
    writer: JoinHandle<Result<(), StoreError>>,
    ready: watch::Sender<bool>,
    shutdown: CancellationToken,
}

type Ended = Result<(), SandboxError>;

impl Supervisor {
    /// Runs until `shutdown`, or until a part ends, which takes the others with it.
    async fn run(self, listener: TcpListener, broker: Broker, desks: Desks) -> Ended {
        let Self { world, bus, writer, ready, shutdown } = self;
        let stop = shutdown.child_token();
        let mut parts = JoinSet::new();
        // Ends by itself when the other parts, which hold the store, have ended.
        parts.spawn(async move { Ok(writer.await??) });
        parts.spawn(report(listener, Arc::clone(&world), stop.clone()));
        parts.spawn(serve(world, broker, desks, ready, stop.clone()));
        let mut outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(ended) = parts.join_next() => joined(ended),
        };
        stop.cancel();
        let drain = async {
            while let Some(ended) = parts.join_next().await {
                outcome = first_cause(std::mem::replace(&mut outcome, Ok(())), joined(ended));
            }
        };
        if tokio::time::timeout(DRAIN, drain).await.is_err() {
            warn!("not everything that was decided was answered: the broker delivers those requests again");
            parts.shutdown().await;
        }
        bus.close().await;
        outcome
    }
}

fn joined(ended: Result<Ended, tokio::task::JoinError>) -> Ended {
    ended?
}

/// That the store is closed is never why; the writer's own error is.
fn first_cause(first: Ended, next: Ended) -> Ended {
    match first {
        Ok(()) | Err(SandboxError::Store(StoreError::Closed)) if next.is_err() => next,
        _ => first,
    }
}

/// Serves the report.
async fn report(listener: TcpListener, world: Arc<World>, stop: CancellationToken) -> Ended {
    let address = listener.local_addr();
    let serving = axum::serve(listener, http::router(world)).with_graceful_shutdown(stop.cancelled_owned());
    match (serving.await, address) {
        (Err(error), Ok(address)) => Err(SandboxError::Listen { address, error }),
        _ => Ok(()),
    }
}

/// Declares the queues, then serves them.
async fn serve(
    world: Arc<World>,
    broker: Broker,
    desks: Desks,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
) -> Ended {
    let opening = async {
        broker.declare().await?;
        desks.bound().await;
        Ok::<(), SandboxError>(())
    };
    match stop.run_until_cancelled(opening).await {
        Some(opened) => opened?,
        None => return Ok(()),
    }
    ready.send_replace(true);
    Ok(desks.serve(world, stop).await?)
}
