//! What keeps a consumer consuming: a task that declares, consumes and hands on, over one channel after another.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt as _;
use lapin::Channel;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::acker::Acker;
use crate::backoff::Backoff;
use crate::delivery::Delivery;
use crate::link::{self, Link, Live};

/// Numbers channels across all consumers of the process, so that a token cannot be taken for another consumer's.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

/// Where deliveries come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A queue that the topology declares.
    Named { queue: ShortString, consumer_tag: ShortString },
    /// A queue of this consumer's own, that the broker names and that goes with the connection.
    Exclusive { bindings: Vec<(ShortString, ShortString)> },
}

/// The queue that is consumed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) generation: u64,
    pub(crate) queue: String,
}

pub(crate) struct Subscription {
    pub(crate) link: Link,
    pub(crate) source: Source,
    pub(crate) prefetch: u16,
    pub(crate) patience: Duration,
    pub(crate) acker: Acker,
    pub(crate) bound: watch::Sender<Option<Bound>>,
    pub(crate) deliveries: mpsc::Sender<Delivery>,
    pub(crate) shutdown: CancellationToken,
}

impl Subscription {
    /// Consumes until the consumer is dropped or the bus shuts down.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::default();
        while let Some(Some(live)) = self.shutdown.run_until_cancelled(self.wanted()).await {
            if let Some(channel) = self.link.open_channel(&live).await {
                match self.shutdown.run_until_cancelled(timeout(self.patience, self.attach(&channel))).await {
                    Some(Ok(Ok((bound, consumer)))) => {
                        backoff.reset();
                        self.pump(bound, &channel, consumer, live.generation).await;
                    }
                    Some(Ok(Err(error))) => self.explain(&error),
                    Some(Err(_)) => self.link.probe(live.generation).await,
                    None => {}
                }
                link::close(channel, self.patience).await;
            }
            self.shutdown.run_until_cancelled(sleep(backoff.wait())).await;
        }
    }

    /// Waits until there is a connection and the deliveries of the last channel were taken. A stage that is held up takes
    /// none, and to ask for them again would only count towards their delivery limit. `None`: nobody takes any more.
    async fn wanted(&self) -> Option<Live> {
        let room = self.deliveries.reserve_many(self.deliveries.max_capacity()).await.ok()?;
        drop(room);
        self.link.up().await
    }

    async fn attach(&self, channel: &Channel) -> lapin::Result<(Bound, lapin::Consumer)> {
        channel.basic_qos(self.prefetch, BasicQosOptions { global: false }).await?;
        let (queue, consumer_tag) = match &self.source {
            Source::Named { queue, consumer_tag } => (queue.clone(), consumer_tag.clone()),
            Source::Exclusive { bindings } => (declare_exclusive(channel, bindings).await?, "".into()),
        };
        let consumer = channel
            .basic_consume(queue.clone(), consumer_tag, BasicConsumeOptions::default(), FieldTable::default())
            .await?;
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        Ok((Bound { generation, queue: queue.into() }, consumer))
    }

    /// Hands deliveries on until the channel ends, the consumer is dropped or the bus shuts down.
    async fn pump(&self, bound: Bound, channel: &Channel, mut consumer: lapin::Consumer, connection: u64) {
        let generation = bound.generation;
        debug!(queue = bound.queue, generation, "consuming");
        self.acker.open(generation, channel.clone());
        self.bound.send_replace(Some(bound));
        loop {
            let next = tokio::select! {
                next = consumer.next() => next,
                () = self.link.lost(connection) => None,
                () = self.deliveries.closed() => None,
                () = self.shutdown.cancelled() => None,
            };
            let delivery = match next {
                Some(Ok(delivery)) => Delivery::new(generation, delivery),
                Some(Err(error)) => {
                    self.explain(&error);
                    break;
                }
                None => break,
            };
            self.acker.note(delivery.token);
            if self.deliveries.send(delivery).await.is_err() {
                break;
            }
        }
        self.acker.close();
        self.bound.send_replace(None);
        // RabbitMQ passes acks on to a quorum queue in portions, and forgets a portion that waits when the channel closes.
        // Cancelling first asks the queue, and so lets the acks before it through.
        if channel.status().connected() {
            let cancelling = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
            let _ = timeout(self.patience, cancelling).await;
        }
        // Before the consumer is dropped: dropping it first would close the channel behind our back.
        link::close(channel.clone(), self.patience).await;
    }

    fn explain(&self, error: &lapin::Error) {
        match &self.source {
            Source::Named { queue, .. } if error.is_amqp_soft_error() => {
                warn!(%queue, %error, "cannot consume: is the topology applied? Trying again");
            }
            source => info!(?source, %error, "consuming was interrupted: trying again"),
        }
    }
}

async fn declare_exclusive(
    channel: &Channel,
    bindings: &[(ShortString, ShortString)],
) -> lapin::Result<ShortString> {
    let mut arguments = FieldTable::default();
    // A virtual host may have another type as its default, and only a classic queue can be exclusive.
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let options = QueueDeclareOptions::exclusive().auto_delete();
    let queue = channel.queue_declare("".into(), options, arguments).await?.name().clone();
    for (exchange, routing_key) in bindings {
        let (exchange, routing_key) = (exchange.clone(), routing_key.clone());
        let options = QueueBindOptions::default();
        channel.queue_bind(queue.clone(), exchange, routing_key, options, FieldTable::default()).await?;
    }
    Ok(queue)
}
