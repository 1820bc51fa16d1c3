//! Taking deliveries.

use std::num::NonZeroU16;

use tokio::sync::{mpsc, watch};

use crate::acker::Acker;
use crate::delivery::{Delivery, DeliveryToken};
use crate::subscription::Bound;

/// What to consume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumeSpec {
    /// The queue. While it is missing, the consumer waits for it.
    pub queue: String,
    /// How many deliveries may be unsettled at a time. Not zero, which in AMQP is no bound at all.
    pub prefetch: NonZeroU16,
    /// The name that the broker shows for the consumer.
    pub consumer_tag: String,
}

/// Takes deliveries from one queue, over as many connections as it needs.
///
/// A stage that cannot work now simply does not call [`Consumer::next`]: at most `prefetch` deliveries wait unsettled,
/// heartbeats go on, and nothing is asked for again until those were taken.
pub struct Consumer {
    pub(crate) deliveries: mpsc::Receiver<Delivery>,
    pub(crate) acker: Acker,
    pub(crate) bound: watch::Receiver<Option<Bound>>,
    /// An exclusive queue and its messages go with the connection, so deliveries are settled as they are taken, and
    /// what came before the connection was lost is handed out still.
    pub(crate) exclusive: bool,
}

impl Consumer {
    /// The next delivery. `None`: the bus has shut down. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Delivery> {
        loop {
            let delivery = self.deliveries.recv().await?;
            if self.take(&delivery) {
                return Some(delivery);
            }
        }
    }

    /// Waits for a delivery and takes with it those that are there already, up to `max`. Never waits to fill. `None`:
    /// the bus has shut down. May be dropped while it waits.
    pub async fn next_batch(&mut self, max: usize) -> Option<Vec<Delivery>> {
        let first = self.next().await?;
        let mut batch = vec![first];
        while batch.len() < max
            && let Ok(delivery) = self.deliveries.try_recv()
        {
            if self.take(&delivery) {
                batch.push(delivery);
            }
        }
        Some(batch)
    }

    /// Settles deliveries: see [`Acker::ack`].
    pub fn ack(&self, tokens: &[DeliveryToken]) {
        self.acker.ack(tokens);
    }

    /// Puts deliveries back: see [`Acker::nack_requeue`].
    pub fn nack_requeue(&self, tokens: &[DeliveryToken]) {
        self.acker.nack_requeue(tokens);
    }

    /// A handle that settles this consumer's deliveries from another task.
    #[must_use]
    pub fn acker(&self) -> Acker {
        self.acker.clone()
    }

    /// Waits until the queue is consumed and, if it is an exclusive one, bound: what is published from then on arrives.
    /// Returns as well when the bus has shut down.
    pub async fn bound(&self) {
        let _ = self.bound.clone().wait_for(Option::is_some).await;
    }

    /// Whether to hand this delivery out. One whose channel is gone comes again, so it is passed over.
    fn take(&self, delivery: &Delivery) -> bool {
        if self.exclusive {
            self.acker.ack(&[delivery.token]);
            return true;
        }
        self.acker.is_open(delivery.token.generation)
    }
}
