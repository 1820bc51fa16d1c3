//! Each running plan's live state in Redis, for whoever watches. Written after a commit, from the rows, a plan at most
//! once in a short while; losing it loses nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use dat_guards::{Lifetimes, LivePlan, LivePlans, RuntimeStore};
use dat_plan::{Currency, PlanKey};
use dat_store::{PlanSummary, Store};
use tokio::sync::mpsc;

use crate::fleet::Fleet;

/// Changes within so long are one write.
const GATHER: Duration = Duration::from_millis(500);

/// Takes note of plans that changed.
pub(crate) struct Live {
    touched: mpsc::UnboundedSender<PlanKey>,
}

/// Writes them.
pub(crate) struct LiveWriter {
    touched: mpsc::UnboundedReceiver<PlanKey>,
    plans: LivePlans,
}

impl Live {
    pub(crate) fn new(runtime: &RuntimeStore) -> (Self, LiveWriter) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let plans = LivePlans::new(runtime.clone(), Lifetimes::default());
        (Self { touched: sender }, LiveWriter { touched: receiver, plans })
    }

    /// A plan changed.
    pub(crate) fn touch(&self, plan: PlanKey) {
        // The writer is gone only when the process ends.
        let _ = self.touched.send(plan);
    }
}

impl LiveWriter {
    /// Runs until the worker has drained.
    pub(crate) async fn run(mut self, fleet: &Fleet) {
        while let Some(first) = self.touched.recv().await {
            tokio::time::sleep(GATHER).await;
            let mut plans = BTreeSet::from([first]);
            while let Ok(plan) = self.touched.try_recv() {
                plans.insert(plan);
            }
            let plans: Vec<PlanKey> = plans.into_iter().collect();
            for page in plans.chunks(500) {
                self.write(&fleet.store, page).await;
            }
        }
    }

    async fn write(&self, store: &Store, plans: &[PlanKey]) {
        let summaries = match store.summaries(plans).await {
            Ok(summaries) => summaries,
            Err(error) => {
                tracing::debug!(%error, "live states stay as they are");
                return;
            }
        };
        let live: Vec<LivePlan> = summaries.into_iter().map(live_plan).collect();
        if let Err(away) = dat_fault::around("live", self.plans.put_all(&live)).await {
            tracing::debug!(%away, "no live states of plans");
        }
    }
}

/// A plan's rows as its live state.
pub(crate) fn live_plan(row: PlanSummary) -> LivePlan {
    LivePlan {
        plan_id: row.plan.plan_id,
        plan_version: row.plan.plan_version,
        tenant: row.tenant,
        name: row.name,
        state: row.state,
        steps_done: u32::try_from(row.steps_done).unwrap_or(0),
        steps_total: u32::try_from(row.steps_total).unwrap_or(0),
        spent: row.spent,
        reserved: row.reserved,
        limit: row.limit,
        currency: Currency(row.currency),
        waits_for: row.reason.or(row.progress),
        sequence: row.sequence,
        updated_at: row.state_since,
    }
}
