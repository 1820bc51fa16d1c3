//! `step.dispatch`: the Execution Orchestrator is told that something may run. A doorbell's ids are a hint; what is claimed
//! is whatever may run next.

use dat_bus::Received;
use dat_store::StoreError;
use dat_topology::Stage as StageName;

use crate::dispatcher::Dispatcher;
use crate::stage::{Disposition, Parked, Stage};

/// The stage of `step.dispatch`.
pub(crate) struct StepDispatch<'a>(pub(crate) &'a Dispatcher);

impl Stage for StepDispatch<'_> {
    type Work = ();

    fn name(&self) -> StageName {
        StageName::StepDispatch
    }

    fn prefetch(&self) -> u16 {
        u16::try_from(self.0.fleet.settings.slots).unwrap_or(u16::MAX)
    }

    /// Whatever a doorbell says, it rings.
    fn read(&self, _: &Received) -> Result<(), Parked> {
        Ok(())
    }

    async fn commit(&self, batch: &[()]) -> Result<Vec<Disposition>, StoreError> {
        // While every slot is used the doorbells stay unacknowledged, and the next go to workers that have room.
        let alone = tokio::select! {
            () = self.0.fleet.draining.cancelled() => None,
            alone = self.0.slot_is_free() => Some(alone),
        };
        // Not within the choice above: a claim that has begun is not given up.
        if let Some(mut turns) = alone {
            self.0.claim_alone(&mut turns).await?;
        }
        Ok(vec![Disposition::Done; batch.len()])
    }
}
