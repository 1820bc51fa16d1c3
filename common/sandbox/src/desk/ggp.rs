//! GGP's desk: the queue `ggp.requests`.

use std::sync::Arc;

use dat_bus::{Consumer, Received};
use dat_plan::approval::ApprovalPackage;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::BATCH;
use crate::envelope;
use crate::governance::Governance;
use crate::report::GgpMode;
use crate::store::packages::{self, Asked, Pronounced};
use crate::store::{StoreError, Writing};
use crate::world::World;

/// Serves until `stop`.
pub(super) async fn run(
    world: Arc<World>,
    mut consumer: Consumer,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    while let Some(Some(batch)) = stop.run_until_cancelled(consumer.next_batch(BATCH)).await {
        let asked: Vec<_> = batch.iter().flat_map(|delivery| read(&delivery.message)).collect();
        let mode = world.mode();
        let governance = Arc::clone(&world.governance);
        let verdicts = world.store.write(move |books| judge(books, asked, &governance, mode)).await?;
        let messages =
            verdicts.iter().map(|verdict| world.herald.message(verdict)).collect::<Result<Vec<_>, _>>()?;
        if stop.run_until_cancelled(world.herald.deliver(messages)).await.is_none() {
            return Ok(());
        }
        consumer.ack(&batch.iter().map(|delivery| delivery.token).collect::<Vec<_>>());
    }
    Ok(())
}

/// Takes requests in, and says what is to be answered.
fn judge(
    books: &mut Writing<'_>,
    asked: Vec<Result<Asked, serde_json::Error>>,
    governance: &Governance,
    mode: GgpMode,
) -> Result<Vec<Pronounced>, StoreError> {
    let mut verdicts = Vec::new();
    for asked in asked {
        match asked {
            Ok(asked) => verdicts.extend(packages::ask(books, asked, governance, mode)?),
            Err(fault) => {
                warn!(%fault, "GGP cannot read a request for approval");
                packages::unreadable(books);
            }
        }
    }
    Ok(verdicts)
}

/// The requests of a message.
fn read(message: &Received) -> Vec<Result<Asked, serde_json::Error>> {
    let asked = |event: envelope::Envelope| {
        let package = ApprovalPackage::deserialize(event.data)?;
        Ok(Asked { event_id: event.id, traceparent: message.traceparent().map(ToOwned::to_owned), package })
    };
    envelope::read(&message.body).into_iter().map(|event| event.and_then(asked)).collect()
}
