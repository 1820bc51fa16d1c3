//! The desk of FLO, and that of PTE: the queues `flo.events` and `pte.events`.

use std::sync::Arc;

use dat_bus::Consumer;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::BATCH;
use crate::envelope::{self, Envelope};
use crate::store::events::{self, Inbox};
use crate::store::{StoreError, Writing};
use crate::world::World;

/// Takes in what comes until `stop`, in the order in which it comes.
pub(super) async fn run(
    world: Arc<World>,
    inbox: &'static Inbox,
    mut consumer: Consumer,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    while let Some(Some(batch)) = stop.run_until_cancelled(consumer.next_batch(BATCH)).await {
        let events: Vec<_> =
            batch.iter().flat_map(|delivery| envelope::read(&delivery.message.body)).collect();
        world.store.write(move |books| file(books, inbox, events)).await?;
        consumer.ack(&batch.iter().map(|delivery| delivery.token).collect::<Vec<_>>());
    }
    Ok(())
}

/// Takes events in, one after the other.
fn file(
    books: &mut Writing<'_>,
    inbox: &'static Inbox,
    events: Vec<Result<Envelope, serde_json::Error>>,
) -> Result<(), StoreError> {
    for event in events {
        match event {
            Ok(event) => events::receive(books, inbox, event)?,
            Err(fault) => {
                warn!(%fault, "what came is no event");
                events::unreadable(books, inbox);
            }
        }
    }
    Ok(())
}
