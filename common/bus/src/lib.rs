//! AMQP: the connections to the broker, and publishing, consuming and calling over them.
//!
//! This crate owns every byte that DAT exchanges with RabbitMQ. Two supervised connections, one that publishes and one
//! that consumes: a broker under a memory or disk alarm stops reading from connections that publish, and acks must
//! still get through. A connection that is lost, silent or given up is replaced, with a new generation number, for as
//! long as the bus runs; nothing here fails because the broker is away, and nothing waits without a deadline for what
//! it was asked to do.
//!
//! The workers, the sandbox and the load tests call it. It knows no exchange, queue or routing key of DAT's
//! (`dat-topology` does), no plan and no database. It never decides what a message means, never retries a publish on
//! its own, and never acks what it was not told to.
//!
//! What is *absent*: lapin's automatic recovery (it hides that delivery tags and confirms belong to a connection that
//! is gone), queues without a bound (a window bounds publishing, the prefetch bounds consuming), and exactly-once. A
//! message is published at least once and delivered at least once.

mod acker;
mod backoff;
mod browser;
mod calls;
mod channels;
mod config;
mod consumer;
mod delivery;
mod link;
mod message;
mod outgoing;
mod publisher;
mod receipt;
mod rpc;
mod subscription;
mod supervisor;

use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};

use lapin::types::ShortString;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use acker::Acker;
pub use browser::{BrowseError, Browser};
pub use calls::Aside;
pub use config::{BusConfig, ConfigError};
pub use consumer::{ConsumeSpec, Consumer};
pub use delivery::{Delivery, DeliveryToken, Received};
pub use link::LinkState;
pub use message::{HeaderValue, Message, TRACEPARENT};
pub use outgoing::Malformed;
pub use publisher::{PublishError, Publisher};
pub use receipt::Receipt;
pub use rpc::{MaybeSent, NotSent, RpcClient, RpcError};

use channels::Channels;
use link::Link;
use subscription::{Bound, Source, Subscription};

/// How many deliveries of an exclusive queue may wait to be taken.
const EXCLUSIVE_PREFETCH: NonZeroU16 = NonZeroU16::MIN.saturating_add(511);

/// The connections to the broker. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    config: Arc<BusConfig>,
    publishing: Link,
    consuming: Link,
    channels: Arc<Channels>,
    consumers: TaskTracker,
    /// What each consumer consumes at the moment.
    bound: Arc<Mutex<Vec<watch::Receiver<Option<Bound>>>>>,
    connections: TaskTracker,
    shutdown: CancellationToken,
}

/// What the bus says of itself, for `/readyz` and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusHealth {
    /// The connection that publishes.
    pub publishing: LinkState,
    /// The connection that consumes.
    pub consuming: LinkState,
    /// Whether the broker has stopped reading what is published.
    pub blocked: bool,
    /// How many consumers consume nothing at the moment: their queue is missing or has no leader, or what came last was
    /// not taken yet.
    pub unbound: usize,
    /// How often a connection had to be replaced.
    pub reconnects: u64,
}

impl BusHealth {
    /// Whether messages flow both ways, on every queue that is to be consumed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.publishing == LinkState::Up
            && self.consuming == LinkState::Up
            && !self.blocked
            && self.unbound == 0
    }
}

impl Bus {
    /// Starts connecting and returns at once. Must be called within a Tokio runtime. Cancel `shutdown` last, after the
    /// stages have drained: it ends the connections, and with them what was not acked yet.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a token is given to what it stops, as to a task")]
    pub fn start(config: BusConfig, shutdown: CancellationToken) -> Self {
        let config = Arc::new(config);
        // [`Bus::close`] ends this bus, and not whatever else the caller stops with the same token.
        let shutdown = shutdown.child_token();
        let (consumers, connections, ending) =
            (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
        let (publishing, supervisor) = Link::new("publisher", Arc::clone(&config), ending.clone());
        connections.spawn(supervisor);
        let (consuming, supervisor) = Link::new("consumer", Arc::clone(&config), ending.clone());
        connections.spawn(supervisor);
        // Consumers end first, each closing its channel in order, and then the connections.
        connections.spawn({
            let (shutdown, consumers) = (shutdown.clone(), consumers.clone());
            async move {
                shutdown.cancelled().await;
                consumers.close();
                consumers.wait().await;
                ending.cancel();
            }
        });
        connections.close();
        let channels = Arc::new(Channels::new(publishing.clone(), Arc::clone(&config)));
        let bound = Arc::default();
        Self { config, publishing, consuming, channels, consumers, bound, connections, shutdown }
    }

    /// How the connections are, without asking the broker.
    #[must_use]
    pub fn health(&self) -> BusHealth {
        BusHealth {
            publishing: self.publishing.state(),
            consuming: self.consuming.state(),
            blocked: self.publishing.blocked(),
            unbound: self.unbound(),
            reconnects: self.publishing.reconnects() + self.consuming.reconnects(),
        }
    }

    /// How many consumers that are still wanted consume nothing.
    fn unbound(&self) -> usize {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        // Of one that was dropped there is no sender any more.
        bound.retain(|bound| bound.has_changed().is_ok());
        bound.iter().filter(|bound| bound.borrow().is_none()).count()
    }

    /// Waits until both connections are up. Returns as well when the bus has shut down.
    pub async fn ready(&self) {
        self.publishing.up().await;
        self.consuming.up().await;
    }

    /// Ends the connections, after what is queued on them has been written, and waits until they are gone.
    pub async fn close(&self) {
        self.shutdown.cancel();
        self.connections.wait().await;
    }

    /// A publisher.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::new(Arc::clone(&self.channels))
    }

    /// Consumes a queue that the topology declares. Fails only over a name that AMQP cannot carry.
    pub fn consume(&self, spec: ConsumeSpec) -> Result<Consumer, Malformed> {
        let source = Source::Named {
            queue: outgoing::short("queue", spec.queue)?,
            consumer_tag: outgoing::short("consumer_tag", spec.consumer_tag)?,
        };
        Ok(self.subscribe(source, spec.prefetch))
    }

    /// Opens a queue to look through it. Does not wait for a connection: see [`Bus::ready`].
    pub async fn browse(&self, queue: &str) -> Result<Browser, BrowseError> {
        let queue = outgoing::short("queue", queue.to_owned())?;
        Browser::open(&self.consuming, queue, self.config.connect_timeout).await
    }

    /// Consumes a queue of its own, bound to exchanges by routing keys: what is published while there is no connection
    /// is missed. Deliveries are acked as they are taken.
    pub fn exclusive(&self, bindings: Vec<(String, String)>) -> Result<Consumer, Malformed> {
        let checked = |(exchange, routing_key)| -> Result<(ShortString, ShortString), Malformed> {
            Ok((outgoing::short("exchange", exchange)?, outgoing::short("routing_key", routing_key)?))
        };
        let bindings = bindings.into_iter().map(checked).collect::<Result<_, _>>()?;
        Ok(self.subscribe(Source::Exclusive { bindings }, EXCLUSIVE_PREFETCH))
    }

    /// A client for requests that are answered on an exclusive queue of its own. Answers that come after their call has
    /// ended are counted, and told to whoever listens besides ([`RpcClient::call_with`]).
    #[must_use]
    pub fn rpc_client(&self) -> RpcClient {
        let replies = self.subscribe(Source::Exclusive { bindings: Vec::new() }, EXCLUSIVE_PREFETCH);
        RpcClient::start(self.publisher(), replies)
    }

    fn subscribe(&self, source: Source, prefetch: NonZeroU16) -> Consumer {
        let exclusive = matches!(source, Source::Exclusive { .. });
        let acker = Acker::default();
        let (bound, seen) = watch::channel(None);
        let (deliveries, taken) = mpsc::channel(usize::from(prefetch.get()));
        let subscription = Subscription {
            link: self.consuming.clone(),
            source,
            prefetch: prefetch.get(),
            patience: self.config.connect_timeout,
            acker: acker.clone(),
            bound,
            deliveries,
            shutdown: self.shutdown.clone(),
        };
        self.consumers.spawn(subscription.run());
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
        Consumer { deliveries: taken, acker, bound: seen, exclusive }
    }
}
