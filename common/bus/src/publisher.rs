//! Publishing with confirms, a window at a time.

use std::sync::Arc;

use futures_util::{future::maybe_done, poll};
use lapin::options::BasicPublishOptions;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::channels::{Channels, Lease, NoChannel};
use crate::message::Message;
use crate::outgoing::{Malformed, Outgoing};
use crate::receipt::{Mark, Receipt, attribute};

/// Publishes. Cheap to clone; clones may publish at once.
#[derive(Clone)]
pub struct Publisher {
    channels: Arc<Channels>,
}

/// Why there are no receipts. What became of the messages is not known, unless the variant says so: send them again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// There is no connection, or it was lost on the way.
    #[error("there is no connection to the broker: wait for it, then publish again")]
    Unavailable,
    /// The confirms did not come in time.
    #[error("the broker did not confirm in time: publish again")]
    TimedOut,
    /// The broker has run out of memory or disk, and reads from no publisher.
    #[error("the broker is blocked by a memory or disk alarm: free resources there, then publish again")]
    Blocked,
    /// The broker closed the channel over one of the messages.
    #[error("the broker refused a message of the window: {0}; apply the topology, or correct the message")]
    Refused(String),
    /// A message cannot be sent at all. None of its window was sent.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl From<NoChannel> for PublishError {
    fn from(reason: NoChannel) -> Self {
        match reason {
            NoChannel::Down => Self::Unavailable,
            NoChannel::Blocked => Self::Blocked,
        }
    }
}

impl From<lapin::Error> for PublishError {
    fn from(error: lapin::Error) -> Self {
        if error.is_amqp_soft_error() { Self::Refused(error.to_string()) } else { Self::Unavailable }
    }
}

impl Publisher {
    pub(crate) fn new(channels: Arc<Channels>) -> Self {
        Self { channels }
    }

    /// Publishes in the order given and waits for the confirms; the receipts are in the same order. More messages
    /// than a window holds go out window by window. On an error, earlier windows may have been confirmed.
    pub async fn publish_all(&self, messages: Vec<Message>) -> Result<Vec<Receipt>, PublishError> {
        let mut outgoing =
            messages.into_iter().map(Outgoing::try_from).collect::<Result<Vec<_>, _>>()?.into_iter();
        let mut receipts = Vec::with_capacity(outgoing.len());
        while outgoing.len() > 0 {
            let deadline = Instant::now() + self.channels.config().publish_timeout;
            let lease = self.lease(deadline).await?;
            let window = outgoing.by_ref().take(self.channels.config().window.max(1)).collect();
            receipts.extend(self.send(lease, window, deadline).await?);
        }
        Ok(receipts)
    }

    /// Publishes one message and waits for its confirm.
    pub async fn publish(&self, message: Message) -> Result<Receipt, PublishError> {
        let receipts = self.publish_all(vec![message]).await?;
        receipts.into_iter().next().ok_or(PublishError::Unavailable)
    }

    /// Waits until there is a connection that the broker reads from. Returns as well when the bus has shut down.
    pub async fn ready(&self) {
        self.channels.link().writable().await;
    }

    /// A channel for one window. Until [`Publisher::send`] gets it, nothing is sent.
    pub(crate) async fn lease(&self, deadline: Instant) -> Result<Lease, PublishError> {
        match timeout_at(deadline, self.channels.lease()).await {
            Ok(lease) => Ok(lease?),
            Err(_) => Err(PublishError::TimedOut),
        }
    }

    /// Hands a window to the connection. The window is a task of its own: when nobody waits for it any longer, its
    /// channel still must not be lent again before its last confirm is in.
    pub(crate) async fn send(
        &self,
        lease: Lease,
        window: Vec<Outgoing>,
        deadline: Instant,
    ) -> Result<Vec<Receipt>, PublishError> {
        let generation = lease.generation;
        match timeout_at(deadline, tokio::spawn(transmit(lease, window))).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(PublishError::Unavailable),
            Err(_) if self.channels.link().blocked() => Err(PublishError::Blocked),
            Err(_) => {
                let channels = Arc::clone(&self.channels);
                tokio::spawn(async move { channels.link().probe(generation).await });
                Err(PublishError::TimedOut)
            }
        }
    }
}

async fn transmit(lease: Lease, window: Vec<Outgoing>) -> Result<Vec<Receipt>, PublishError> {
    match confirmations(&lease, &window).await {
        Ok(confirmations) => {
            lease.give_back();
            let marks: Vec<Mark> = window.iter().map(Mark::from).collect();
            Ok(attribute(&marks, confirmations))
        }
        Err(error) => {
            debug!(%error, "window failed");
            lease.discard().await;
            Err(error.into())
        }
    }
}

async fn confirmations(lease: &Lease, window: &[Outgoing]) -> lapin::Result<Vec<lapin::Confirmation>> {
    let mut sends = Vec::with_capacity(window.len());
    for message in window {
        let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
        let mut send = Box::pin(maybe_done(lease.channel.basic_publish(
            message.exchange.clone(),
            message.routing_key.clone(),
            options,
            &message.body,
            message.properties.clone(),
        )));
        // The first poll puts the message into the connection's queue, and so fixes its place; the rest of the future
        // waits for the socket. All are queued before any is waited for.
        let _ = poll!(send.as_mut());
        sends.push(send);
    }
    let mut confirms = Vec::with_capacity(sends.len());
    for mut send in sends {
        send.as_mut().await;
        if let Some(sent) = send.as_mut().take_output() {
            confirms.push(sent?);
        }
    }
    let mut confirmations = Vec::with_capacity(confirms.len());
    for confirm in confirms {
        confirmations.push(confirm.await?);
    }
    Ok(confirmations)
}
