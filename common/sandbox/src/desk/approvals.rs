//! The desk of people's approvals: the queue `ggp.approvals`.

use std::sync::Arc;
use std::time::Duration;

use dat_bus::{Consumer, Received};
use dat_plan::quorum::Vote;
use serde::Deserialize as _;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::BATCH;
use crate::store::StoreError;
use crate::store::packages::{self, Heard};
use crate::world::World;

/// How long an approval waits for the request that it answers: the two come on different queues.
const WAIT: Duration = Duration::from_secs(10);

/// Serves until `stop`.
pub(super) async fn run(
    world: Arc<World>,
    mut consumer: Consumer,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    while let Some(Some(batch)) = stop.run_until_cancelled(consumer.next_batch(BATCH)).await {
        for delivery in &batch {
            let hearing = hear(&world, &delivery.message);
            let Some(heard) = stop.run_until_cancelled(hearing).await else { return Ok(()) };
            if let Some(pronounced) = heard? {
                let message = world.herald.message(&pronounced)?;
                if stop.run_until_cancelled(world.herald.deliver(vec![message])).await.is_none() {
                    return Ok(());
                }
            }
            consumer.ack(&[delivery.token]);
        }
    }
    Ok(())
}

/// Hears one approval, and says what is to be answered.
async fn hear(world: &World, message: &Received) -> Result<Option<packages::Pronounced>, StoreError> {
    let read = serde_json::from_slice::<Value>(&message.body)
        .and_then(|value| Ok((Vote::deserialize(&value)?, value)));
    let (vote, as_sent) = match read {
        Ok(read) => read,
        Err(fault) => {
            warn!(%fault, "GGP cannot read an approval");
            world.store.write(|books| Ok(packages::unreadable(books))).await?;
            return Ok(None);
        }
    };
    let plan = vote.plan();
    let until = Instant::now() + WAIT;
    let mut commits = world.store.commits();
    loop {
        commits.borrow_and_update();
        let (vote, as_sent) = (vote.clone(), as_sent.clone());
        let (governance, now) = (Arc::clone(&world.governance), world.clock.now());
        let heard =
            world.store.write(move |books| packages::hear(books, vote, &as_sent, &governance, now)).await?;
        match heard {
            Heard::Counted(pronounced) => return Ok(pronounced),
            Heard::Unknown => {
                if tokio::time::timeout_at(until, commits.changed()).await.is_err() {
                    warn!(%plan, "an approval of a plan that GGP was never asked about");
                    return Ok(None);
                }
            }
        }
    }
}
