//! Brings messages to the broker, and does not give up before it has them.

use std::fmt;
use std::time::Duration;

use dat_bus::{Message, PublishError, Publisher, Receipt};
use dat_plan::approval::Outcome;
use dat_topology::key;
use tracing::warn;

use crate::store::StoreError;
use crate::store::packages::Pronounced;

/// How long to wait before a message that the broker did not take is sent again.
const PAUSE: Duration = Duration::from_millis(200);

/// Publishes for the sandbox.
#[derive(Clone)]
pub(crate) struct Herald {
    publisher: Publisher,
    verdicts: String,
}

impl fmt::Debug for Herald {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Herald").field("verdicts", &self.verdicts).finish_non_exhaustive()
    }
}

/// Why a verdict is not with the broker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeraldError {
    /// It cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker did not take it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The broker has no queue for it.
    #[error("no queue takes the verdict: {0}; apply DAT's topology")]
    Returned(String),
    /// The broker refused it.
    #[error("the broker refused the verdict")]
    Nacked,
}

impl Herald {
    /// Publishes verdicts to that exchange.
    pub(crate) fn new(publisher: Publisher, verdicts: String) -> Self {
        Self { publisher, verdicts }
    }

    /// Publishes a verdict, once.
    pub(crate) async fn pronounce(&self, pronounced: &Pronounced) -> Result<(), HeraldError> {
        match self.publisher.publish(self.message(pronounced)?).await? {
            Receipt::Confirmed => Ok(()),
            Receipt::Returned { reply_text } => Err(HeraldError::Returned(reply_text)),
            Receipt::Nacked => Err(HeraldError::Nacked),
        }
    }

    /// A verdict as a message.
    pub(crate) fn message(&self, pronounced: &Pronounced) -> Result<Message, StoreError> {
        let Pronounced { verdict, traceparent } = pronounced;
        let routing_key = match verdict.outcome {
            Outcome::Approved => key::PLAN_APPROVED,
            Outcome::Rejected => key::PLAN_REJECTED,
            Outcome::Revoked => key::PLAN_REVOKED,
        };
        let body = serde_json::to_vec(verdict).map_err(StoreError::Codec)?;
        let message = Message::json(&self.verdicts, routing_key, body)
            .message_id(&verdict.decision_id)
            .kind(routing_key);
        Ok(match traceparent {
            Some(context) => message.traceparent(context),
            None => message,
        })
    }

    /// Publishes until the broker has all of it. Ends early only when whoever waits gives up.
    pub(crate) async fn deliver(&self, mut messages: Vec<Message>) {
        while !messages.is_empty() {
            match self.publisher.publish_all(messages.clone()).await {
                Ok(receipts) => {
                    let mut receipts = receipts.into_iter();
                    messages.retain(|_| receipts.next().is_some_and(|receipt| !receipt.is_confirmed()));
                }
                Err(error) => warn!(%error, "what the sandbox says did not reach the broker: trying again"),
            }
            if !messages.is_empty() {
                tokio::time::sleep(PAUSE).await;
                self.publisher.ready().await;
            }
        }
    }
}
