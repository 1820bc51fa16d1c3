//! The sealer: every few seconds one worker of the fleet seals what grew in the log under a checkpoint, which the relay
//! publishes, so that someone else holds it.
//!
//! **May be called** by the worker. **Must never** seal on its way out: what is left is sealed by whoever works next.

use std::time::Duration;

use chrono::TimeDelta;
use dat_plan::signing::SigningKey;
use dat_store::StoreError;

use crate::fleet::Fleet;
use crate::settings::{BadSetting, Settings};

/// How the log is sealed.
#[derive(Debug)]
pub(crate) struct Sealer {
    every: Duration,
    origin: String,
    key: Option<SigningKey>,
}

impl Sealer {
    /// Reads the key, where one is configured.
    pub(crate) fn new(settings: &Settings) -> Result<Self, BadSetting> {
        Ok(Self {
            every: Duration::from_millis(settings.checkpoint.every_ms),
            origin: settings.redis_namespace().to_owned(),
            key: settings.checkpoint.key()?,
        })
    }

    /// Seals whenever it is this worker's turn, until it drains.
    pub(crate) async fn run(&self, fleet: &Fleet) {
        if self.key.is_none() {
            tracing::info!("checkpoints of the log are not signed: checkpoint.signing is not set");
        }
        loop {
            // Workers drift apart: whoever comes first to what is due has the turn.
            let most = u64::try_from(self.every.as_millis() / 4).unwrap_or(0) + 1;
            let jitter = Duration::from_millis(fleet.entropy.below(most));
            tokio::select! {
                () = fleet.draining.cancelled() => return,
                () = tokio::time::sleep(self.every + jitter) => {}
            }
            if !fleet.looks.mine("seal", self.every / 2).await {
                continue;
            }
            if let Err(error) = self.turn(fleet).await {
                tracing::warn!(%error, "the log is sealed at the next turn");
            }
        }
    }

    /// Seals all that grew, in as many checkpoints as it takes. Where nothing did, one look at an index.
    async fn turn(&self, fleet: &Fleet) -> Result<(), StoreError> {
        if !fleet.store.has_grown().await? {
            return Ok(());
        }
        // Due a little before the next look, so that a fleet's workers do not each skip a turn in turn.
        let every = TimeDelta::from_std(self.every / 2).unwrap_or(TimeDelta::seconds(1));
        while !fleet.draining.is_cancelled() {
            let now = fleet.now();
            let Some(sealed) = fleet.store.seal(&self.origin, self.key.as_ref(), now + every, now).await?
            else {
                break;
            };
            let (number, leaves) = (sealed.checkpoint.number, sealed.checkpoint.leaves);
            tracing::debug!(number, leaves, "the log is sealed");
            if !sealed.more {
                break;
            }
        }
        Ok(())
    }
}
