//! An attempt or a probe that ended, on its way to the database.

use std::sync::Arc;
use std::time::Duration;

use dat_plan::PlanKey;
use dat_store::{Finding, Settlement};
use tokio::sync::OwnedSemaphorePermit;

use crate::documents::Prepared;

/// An attempt or a probe that ended.
pub(crate) struct Ended {
    pub(crate) settlement: Settlement,
    pub(crate) connector: String,
    /// Who pays.
    pub(crate) tenant: String,
    pub(crate) currency: String,
    /// The attempt's number; a probe has none.
    pub(crate) attempt: Option<i32>,
    pub(crate) took: Duration,
    pub(crate) slot: Option<Slot>,
}

/// What an attempt ran in.
pub(crate) struct Slot {
    /// Free again when this is dropped, after the commit: what is in flight stays bounded.
    #[expect(dead_code, reason = "it is held, not read")]
    pub(crate) permit: OwnedSemaphorePermit,
    /// The plan that it executed from.
    pub(crate) plan: Arc<Prepared>,
    /// How many steps of its plan ran in this slot before, one after the other.
    pub(crate) went_on: u32,
}

impl Ended {
    pub(crate) fn probe(settlement: Settlement, connector: String, tenant: String, took: Duration) -> Self {
        let currency = String::new();
        Self { settlement, connector, tenant, currency, attempt: None, took, slot: None }
    }

    pub(crate) fn plan(&self) -> PlanKey {
        self.settlement.lease.unit.plan
    }

    pub(crate) fn holding(mut self, slot: Slot) -> Self {
        self.slot = Some(slot);
        self
    }

    /// What it cost, as far as that is known.
    pub(crate) fn cost(&self) -> i64 {
        match &self.settlement.finding {
            Finding::Done { cost, .. }
            | Finding::Error { cost, .. }
            | Finding::Refused { cost, .. }
            | Finding::Unusable { cost, .. } => *cost,
            _ => 0,
        }
    }

    /// Makes of an answer that the database refuses to keep one that it keeps: failed, as sent, with its cost. `false`:
    /// that was done before.
    pub(crate) fn give_up_answer(&mut self) -> bool {
        let (cost, refund) = match &self.settlement.finding {
            Finding::Unusable { .. } => return false,
            Finding::Done { cost, refund, .. } => (*cost, *refund),
            Finding::Error { cost, .. } | Finding::Refused { cost, .. } => (*cost, 0),
            _ => (0, 0),
        };
        let detail = "the answer cannot be stored by the database".to_owned();
        self.settlement.finding = Finding::Unusable { cost, refund, detail };
        true
    }
}
