//! Looking through a queue of parked messages, to a bound, and saying how far it is.

use dat_bus::{Browser, DeliveryToken};
use dat_topology::{Queue, Stage};

use super::letter::Letter;
use crate::cli::broker::Broker;
use crate::cli::failure::Failure;
use crate::cli::output;

/// So many messages between two words about how far it is.
const WORD_EVERY: u32 = 1_000;

/// One queue that is looked through. Messages that are parked meanwhile come after its end.
pub(super) struct Look {
    stage: Stage,
    browser: Browser,
    seen: u32,
    most: u32,
}

impl Look {
    pub(super) async fn open(broker: &Broker, stage: Stage, limit: u32) -> Result<Self, Failure> {
        let browser = broker.browse(Queue::Dead(stage)).await?;
        let most = browser.messages().min(limit);
        Ok(Self { stage, browser, seen: 0, most })
    }

    /// The next message; none when those that were there, or `limit`, have been seen.
    pub(super) async fn next(&mut self) -> Result<Option<Letter>, Failure> {
        if self.seen == self.most {
            return Ok(None);
        }
        let next = self.browser.next().await.map_err(|error| self.failed(&error))?;
        let Some(delivery) = next else { return Ok(None) };
        self.seen += 1;
        if self.seen.is_multiple_of(WORD_EVERY) {
            output::note(format_args!(
                "{}: {} of {} looked at",
                self.stage,
                self.seen,
                self.browser.messages()
            ));
        }
        Ok(Some(Letter::of(self.stage, delivery)))
    }

    /// Where the messages came from.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Takes a message out of the queue for good.
    pub(super) async fn take(&self, token: DeliveryToken) -> Result<(), Failure> {
        self.browser.ack(token).await.map_err(|error| self.failed(&error))
    }

    /// Puts back what was not taken; gives how many messages were not looked at.
    pub(super) async fn close(self) -> Result<u32, Failure> {
        let (stage, unseen) = (self.stage, self.browser.messages().saturating_sub(self.most));
        match self.browser.close().await {
            Ok(()) => Ok(unseen),
            Err(error) => Err(Failure::Failed(format!("what was parked of {stage} cannot be read: {error}"))),
        }
    }

    fn failed(&self, error: &dat_bus::BrowseError) -> Failure {
        Failure::Failed(format!("what was parked of {} cannot be read: {error}", self.stage))
    }
}
