//! Looking through a queue: each message is taken without being settled, and goes back unless it is acked.
//!
//! For queues that park messages, and for people: a message that is looked at is not there for others meanwhile. Where
//! the connection is lost, everything that was not acked goes back, and what was being acked may.

use std::time::Duration;

use lapin::Channel;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::time::timeout;

use crate::delivery::{Delivery, DeliveryToken};
use crate::link::{self, Link};
use crate::outgoing::Malformed;

/// Why a queue cannot be looked through further. What was taken and not acked goes back into it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrowseError {
    /// There is no connection, or it was lost on the way.
    #[error("there is no connection to the broker: wait for it, then look again")]
    Unavailable,
    /// The broker did not answer in time.
    #[error("the broker did not answer in time: look again")]
    TimedOut,
    /// The broker closed the channel: the queue may be missing.
    #[error("the broker refused it: {0}; apply the topology")]
    Refused(String),
    /// A name that AMQP cannot carry.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl From<lapin::Error> for BrowseError {
    fn from(error: lapin::Error) -> Self {
        if error.is_amqp_soft_error() { Self::Refused(error.to_string()) } else { Self::Unavailable }
    }
}

/// A queue that is looked through, from its head.
pub struct Browser {
    channel: Channel,
    queue: ShortString,
    patience: Duration,
    messages: u32,
}

impl Browser {
    pub(crate) async fn open(
        link: &Link,
        queue: ShortString,
        patience: Duration,
    ) -> Result<Self, BrowseError> {
        let live = link.live().ok_or(BrowseError::Unavailable)?;
        let channel = link.open_channel(&live).await.ok_or(BrowseError::Unavailable)?;
        let mut browser = Self { channel, queue, patience, messages: 0 };
        browser.messages = browser.count().await?;
        Ok(browser)
    }

    /// How many messages were in the queue when it was opened, but for those that someone else looked at.
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// The next message; none at the end of the queue. It is not handed out again by this browser.
    pub async fn next(&mut self) -> Result<Option<Delivery>, BrowseError> {
        let options = BasicGetOptions { no_ack: false };
        let got = self.in_time(self.channel.basic_get(self.queue.clone(), options)).await?;
        // One browser has one channel, so there is one generation.
        Ok(got.map(|BasicGetMessage { delivery, .. }| Delivery::new(0, delivery)))
    }

    /// Takes a message out of the queue for good.
    pub async fn ack(&self, token: DeliveryToken) -> Result<(), BrowseError> {
        let options = BasicAckOptions { multiple: false };
        self.in_time(self.channel.basic_ack(token.tag, options)).await
    }

    /// Puts back everything that was not acked, and leaves. Comes back when the broker has it.
    pub async fn close(self) -> Result<(), BrowseError> {
        let options = BasicNackOptions { multiple: true, requeue: true };
        // Tag 0 with `multiple`: all that is outstanding.
        self.in_time(self.channel.basic_nack(0, options)).await?;
        // An answer of the queue's: what was said to it before has arrived.
        self.count().await?;
        link::close(self.channel, self.patience).await;
        Ok(())
    }

    async fn count(&self) -> Result<u32, BrowseError> {
        let passive = QueueDeclareOptions::durable().passive();
        let found = self.channel.queue_declare(self.queue.clone(), passive, FieldTable::default());
        Ok(self.in_time(found).await?.message_count())
    }

    async fn in_time<T>(&self, asked: impl Future<Output = lapin::Result<T>>) -> Result<T, BrowseError> {
        match timeout(self.patience, asked).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(BrowseError::TimedOut),
        }
    }
}
