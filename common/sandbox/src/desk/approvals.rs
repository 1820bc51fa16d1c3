//! The desk of people's approvals: the queue `ggp.approvals`.

use std::sync::Arc;
use std::time::Duration;

use dat_bus::{Consumer, Received};
use dat_plan::PlanKey;
use dat_plan::quorum::Vote;
use serde::Deserialize as _;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::BATCH;
use crate::store::packages::{self, Pronounced};
use crate::store::{StoreError, Writing};
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
            let messages =
                heard?.iter().map(|verdict| world.herald.message(verdict)).collect::<Result<Vec<_>, _>>()?;
            if stop.run_until_cancelled(world.herald.deliver(messages)).await.is_none() {
                return Ok(());
            }
            consumer.ack(&[delivery.token]);
        }
    }
    Ok(())
}

/// Hears one approval, and says what is to be answered.
async fn hear(world: &World, message: &Received) -> Result<Vec<Pronounced>, StoreError> {
    let read = serde_json::from_slice::<Value>(&message.body)
        .and_then(|value| Ok((Vote::deserialize(&value)?, value)));
    let (vote, as_sent) = match read {
        Ok(read) => read,
        Err(fault) => {
            warn!(%fault, "GGP cannot read an approval");
            let unreadable = |books: &mut Writing<'_>| {
                packages::unreadable(books);
                Ok(())
            };
            world.store.note(unreadable).await?;
            return Ok(Vec::new());
        }
    };
    let plan = vote.plan();
    if !asked(world, plan).await? {
        warn!(%plan, "an approval of a plan that GGP was never asked about");
        return Ok(Vec::new());
    }
    let (governance, now) = (Arc::clone(&world.governance), world.clock.now());
    let heard =
        world.store.write(move |books| packages::hear(books, vote, &as_sent, &governance, now)).await?;
    Ok(heard.unwrap_or_default())
}

/// Whether GGP was asked about a plan, or is soon.
async fn asked(world: &World, plan: PlanKey) -> Result<bool, StoreError> {
    let until = Instant::now() + WAIT;
    let mut commits = world.store.commits();
    loop {
        commits.borrow_and_update();
        if world.store.read(move |books| packages::is_known(books, plan)).await? {
            return Ok(true);
        }
        if tokio::time::timeout_at(until, commits.changed()).await.is_err() {
            return Ok(false);
        }
    }
}
