//! Running plans as Redis has them, and as the rows say where Redis has none.

use dat_guards::{LivePlan, LivePlans};
use dat_plan::PlanKey;
use dat_store::{Store, StoreError};

use crate::live::live_plan;

/// Both places where a plan's state can be read.
#[derive(Debug)]
pub(super) struct Live {
    copies: LivePlans,
    store: Store,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The plans that there are, in no order.
    pub(super) plans: Vec<LivePlan>,
    /// Redis did not answer, so all of it is from the rows.
    pub(super) redis_away: bool,
}

impl Live {
    /// Reads through Redis to the rows.
    pub(super) fn new(copies: LivePlans, store: Store) -> Self {
        Self { copies, store }
    }

    /// The rows' side.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Reads plans; those that Redis does not have are read from their rows, and put back.
    pub(super) async fn read(&self, plans: &[PlanKey]) -> Result<Reading, StoreError> {
        let Ok(copies) = self.copies.get_all(plans).await else {
            return Ok(Reading { plans: self.rows(plans).await?, redis_away: true });
        };
        let missing: Vec<PlanKey> =
            plans.iter().zip(&copies).filter(|(_, copy)| copy.is_none()).map(|(plan, _)| *plan).collect();
        let mut found: Vec<LivePlan> = copies.into_iter().flatten().collect();
        if !missing.is_empty() {
            found.extend(self.refill(&missing).await?);
        }
        Ok(Reading { plans: found, redis_away: false })
    }

    /// Reads plans from their rows and puts them into Redis, where a later state stays. A worker that died between its
    /// commit and its copy is made good so.
    pub(super) async fn refill(&self, plans: &[PlanKey]) -> Result<Vec<LivePlan>, StoreError> {
        let rows = self.rows(plans).await?;
        // Redis may be away: then the rows are read again, and nothing is lost.
        let _ = self.copies.put_all(&rows).await;
        Ok(rows)
    }

    async fn rows(&self, plans: &[PlanKey]) -> Result<Vec<LivePlan>, StoreError> {
        Ok(self.store.summaries(plans).await?.into_iter().map(live_plan).collect())
    }
}

/// The plan version that it is.
pub(super) fn key(plan: &LivePlan) -> PlanKey {
    PlanKey::new(plan.plan_id, plan.plan_version)
}
