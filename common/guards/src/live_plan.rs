//! Live plans: the state of running plans, for fast reads.
//!
//! Written by whoever commits a change, replaced only by what reflects a later event; whoever finds none reads the rows
//! and puts it back. Losing them loses nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use dat_plan::{Currency, PlanKey, PlanState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::redis::{RedisAway, RuntimeStore};
use crate::versioned::{Copied, Versioned};

/// A running plan, as of one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivePlan {
    /// The plan's id.
    pub plan_id: Uuid,
    /// Its version.
    pub plan_version: i32,
    /// Who pays.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: PlanState,
    /// Steps that completed.
    pub steps_done: u32,
    /// All its steps.
    pub steps_total: u32,
    /// Settled, net of refunds, in the smallest unit of the currency.
    pub spent: i64,
    /// Held by reservations.
    pub reserved: i64,
    /// The budget that was approved.
    pub limit: i64,
    /// Of what.
    pub currency: Currency,
    /// What it waits for, where it does: the blocker that `explain` prints.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// The sequence of the last event it reflects, from 1; it never goes back.
    pub sequence: i64,
    /// When that event was written.
    pub updated_at: DateTime<Utc>,
}

/// How long live plans are kept after their last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of a plan that has not ended.
    pub running: Duration,
    /// Of one that has: its last state outlives its running one no longer than this.
    pub ended: Duration,
}

impl Default for Lifetimes {
    /// A day, and an hour.
    fn default() -> Self {
        Self { running: Duration::from_hours(24), ended: Duration::from_hours(1) }
    }
}

/// Live plans of the fleet, in Redis.
#[derive(Debug, Clone)]
pub struct LivePlans {
    plans: Versioned,
    lifetimes: Lifetimes,
}

impl LivePlans {
    /// Live plans in a store.
    #[must_use]
    pub fn new(store: RuntimeStore, lifetimes: Lifetimes) -> Self {
        Self { plans: Versioned::new(store), lifetimes }
    }

    /// Keeps plans in one round trip, each only if it reflects a later event than what is there; how many were kept.
    pub async fn put_all(&self, plans: &[LivePlan]) -> Result<u64, RedisAway> {
        let values = plans.iter().map(|plan| Copied {
            key: key(PlanKey::new(plan.plan_id, plan.plan_version)),
            // A wait begins without an event: it is newer than the same moment without one.
            version: plan.sequence * 2 + i64::from(plan.waits_for.is_some()),
            lifetime: if plan.state.is_end() { self.lifetimes.ended } else { self.lifetimes.running },
            value: plan,
        });
        self.plans.put(values).await
    }

    /// The plan as last put; `None` where there is none: read its rows and put it.
    pub async fn get(&self, plan: PlanKey) -> Result<Option<LivePlan>, RedisAway> {
        Ok(self.get_all(&[plan]).await?.pop().flatten())
    }

    /// Plans as last put, in one round trip and in the order asked for.
    pub async fn get_all(&self, plans: &[PlanKey]) -> Result<Vec<Option<LivePlan>>, RedisAway> {
        let keys: Vec<String> = plans.iter().map(|plan| key(*plan)).collect();
        self.plans.get(&keys).await
    }
}

fn key(plan: PlanKey) -> String {
    format!("plan:{plan}")
}
