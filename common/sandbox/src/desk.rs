//! The desks: each takes in what comes on one queue, has it decided and stored, answers, and acknowledges; in that
//! order, so that what a crash interrupts is delivered again and finds what was decided.

mod answers;
mod approvals;
mod ggp;
mod inbox;
mod mux;

use std::num::NonZeroU16;
use std::sync::Arc;

use dat_bus::{Bus, ConsumeSpec, Consumer, Malformed};
use dat_topology::{Outside, Topology};
use tokio_util::sync::CancellationToken;

use crate::store::StoreError;
use crate::store::events::{FLO, PTE};
use crate::world::World;

/// How many requests MUX has in hand at once; also the most that can be held.
const MUX_PREFETCH: NonZeroU16 = NonZeroU16::new(512).expect("not zero");
/// How many messages each of the others has in hand at once.
const PREFETCH: NonZeroU16 = NonZeroU16::new(256).expect("not zero");
/// How many deliveries are taken together, and how many answers sent together.
const BATCH: usize = 256;

/// The consumers of the five queues.
pub(crate) struct Desks {
    mux: Consumer,
    ggp: Consumer,
    approvals: Consumer,
    flo: Consumer,
    pte: Consumer,
}

impl Desks {
    /// Begins to consume. Queues that are not there yet are waited for.
    pub(crate) fn open(bus: &Bus, topology: &Topology) -> Result<Self, Malformed> {
        let consume = |queue: Outside, prefetch| {
            let queue = topology.queue(queue).name;
            bus.consume(ConsumeSpec { queue, prefetch, consumer_tag: "dat-sandbox".to_owned() })
        };
        Ok(Self {
            mux: consume(Outside::MuxActions, MUX_PREFETCH)?,
            ggp: consume(Outside::GgpRequests, PREFETCH)?,
            approvals: consume(Outside::GgpApprovals, PREFETCH)?,
            flo: consume(Outside::FloEvents, PREFETCH)?,
            pte: consume(Outside::PteEvents, PREFETCH)?,
        })
    }

    /// Waits until all of the queues are consumed.
    pub(crate) async fn bound(&self) {
        self.mux.bound().await;
        self.ggp.bound().await;
        self.approvals.bound().await;
        self.flo.bound().await;
        self.pte.bound().await;
    }

    /// Serves until `stop`, then finishes what is decided.
    pub(crate) async fn serve(self, world: Arc<World>, stop: CancellationToken) -> Result<(), StoreError> {
        tokio::try_join!(
            mux::run(Arc::clone(&world), self.mux, stop.clone()),
            ggp::run(Arc::clone(&world), self.ggp, stop.clone()),
            approvals::run(Arc::clone(&world), self.approvals, stop.clone()),
            inbox::run(Arc::clone(&world), &FLO, self.flo, stop.clone()),
            inbox::run(world, &PTE, self.pte, stop),
        )?;
        Ok(())
    }
}
