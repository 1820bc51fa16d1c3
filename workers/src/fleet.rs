//! What every role of a worker shares.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use dat_bus::{Bus, Publisher};
use dat_connectors::Connectors;
use dat_guards::{Looks, RuntimeStore};
use dat_plan::event::Destination;
use dat_plan::signing::Trust;
use dat_plan::{Clock, Entropy};
use dat_store::Store;
use dat_topology::Topology;
use tokio_util::sync::CancellationToken;

use crate::alarm::Alarm;
use crate::backlog::Backlog;
use crate::breakers::Breakers;
use crate::documents::Documents;
use crate::lanes::Lanes;
use crate::late::Late;
use crate::limits::Limits;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::operators::Operators;
use crate::settings::WorkerSettings;
use crate::submitters::Submitters;
use crate::windows::Windows;

/// One worker process.
pub(crate) struct Fleet {
    /// Unique among running workers; for people and for the attempts' rows. Nothing is recovered by it.
    pub(crate) name: String,
    pub(crate) settings: WorkerSettings,
    /// Who may submit for whom.
    pub(crate) submitters: Submitters,
    /// Whose signatures are believed.
    pub(crate) trust: Trust,
    pub(crate) store: Store,
    pub(crate) bus: Bus,
    pub(crate) publisher: Publisher,
    pub(crate) topology: Topology,
    /// Whose consumers read events in batches.
    pub(crate) batched: BTreeSet<Destination>,
    pub(crate) connectors: Connectors,
    pub(crate) documents: Documents,
    pub(crate) operators: Operators,
    pub(crate) limits: Limits,
    pub(crate) breakers: Breakers,
    pub(crate) windows: Windows,
    pub(crate) live: Live,
    /// Whose transactions are in the database.
    pub(crate) lanes: Arc<Lanes>,
    /// Whether this worker is behind.
    pub(crate) backlog: Backlog,
    /// Which looks are this worker's.
    pub(crate) looks: Looks,
    /// Redis itself, to ask whether it is there.
    pub(crate) runtime: RuntimeStore,
    pub(crate) late: Late,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// Rings in this process, beside the doorbells on the broker.
    pub(crate) bells: Bells,
    /// Stop taking work; what runs goes on.
    pub(crate) draining: CancellationToken,
    /// What ran has ended: publish the rest of the log and stop.
    pub(crate) closing: CancellationToken,
}

/// Wake-ups within the process.
#[derive(Debug, Default)]
pub(crate) struct Bells {
    /// Something may be claimed.
    pub(crate) dispatch: Alarm,
    /// Something may wait for the Rollback Coordinator.
    pub(crate) failed: Alarm,
}

impl Fleet {
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// When a lease taken now runs out.
    pub(crate) fn lease_end(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now + TimeDelta::milliseconds(i64::try_from(self.settings.lease_ms).unwrap_or(i64::MAX))
    }
}
