//! What the parts of the sandbox share.

use std::sync::Arc;

use dat_plan::Clock;
use tokio::sync::watch;

use crate::gate::Gate;
use crate::governance::Governance;
use crate::herald::Herald;
use crate::report::GgpMode;
use crate::store::Store;

/// The four outside systems, as one process holds them.
#[derive(Debug)]
pub(crate) struct World {
    /// What they keep.
    pub(crate) store: Store,
    /// What stands before MUX.
    pub(crate) gate: Gate,
    /// Who tells DAT of GGP's verdicts.
    pub(crate) herald: Herald,
    /// How GGP comes to its verdicts.
    pub(crate) governance: Arc<Governance>,
    /// MUX cannot say what came of a key.
    pub(crate) cannot_tell: bool,
    /// What time it is.
    pub(crate) clock: Arc<dyn Clock>,
    mode: watch::Sender<GgpMode>,
}

impl World {
    pub(crate) fn new(
        store: Store,
        herald: Herald,
        clock: Arc<dyn Clock>,
        (governance, mode): (Governance, GgpMode),
        cannot_tell: bool,
    ) -> Self {
        let (governance, mode) = (Arc::new(governance), watch::Sender::new(mode));
        Self { store, gate: Gate::new(), herald, governance, cannot_tell, clock, mode }
    }

    /// How GGP judges now.
    pub(crate) fn mode(&self) -> GgpMode {
        *self.mode.borrow()
    }

    /// How GGP judges from now on.
    pub(crate) fn set_mode(&self, mode: GgpMode) {
        self.mode.send_replace(mode);
    }
}
