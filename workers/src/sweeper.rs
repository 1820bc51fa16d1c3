//! The sweeper: what recovery depends on. It looks, by time and rows alone, for leases that ran out, plans that are due,
//! units that nobody was told of, and rings for them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::{PlanKey, PlanState};
use dat_store::StoreError;

use crate::doorbell::{self, Doorbell};
use crate::fleet::Fleet;
use crate::orchestrator;

/// Rows of a kind in one sweep.
const PASS: i64 = 500;
/// How often partitions are made ahead, turned periods rolled up and limiters tidied.
const CHORES: TimeDelta = TimeDelta::minutes(10);

/// How often it is seen whether tables have grown so much that statements are planned for what they were.
const STATISTICS: Duration = Duration::from_secs(2);

/// Sweeps until the worker drains.
pub(crate) async fn run(fleet: &Fleet) {
    let every = Duration::from_millis(fleet.settings.sweep_ms);
    let mut chores_due = fleet.now();
    loop {
        // Sweepers of several workers drift apart: whoever comes first sweeps for all.
        let jitter = Duration::from_millis(fleet.entropy.below(fleet.settings.sweep_ms / 4 + 1));
        tokio::select! {
            () = fleet.draining.cancelled() => return,
            () = tokio::time::sleep(every + jitter) => {}
        }
        if !fleet.looks.mine("sweep", every).await {
            continue;
        }
        if let Err(error) = sweep(fleet, &mut chores_due).await {
            tracing::warn!(%error, "a sweep failed; the next comes soon");
        }
    }
}

async fn sweep(fleet: &Fleet, chores_due: &mut DateTime<Utc>) -> Result<(), StoreError> {
    let now = fleet.now();
    let grace = TimeDelta::milliseconds(i64::try_from(fleet.settings.sweep_ms / 2).unwrap_or(0));
    let found = fleet.store.look(now - grace, now).await?;
    let expired = if found.expired { fleet.store.expire_leases(PASS, now).await? } else { Vec::new() };
    for lease in &expired {
        tracing::warn!(plan = %lease.unit.plan, step = lease.unit.index, worker = lease.worker, "its lease ran out");
        fleet.live.touch(lease.unit.plan);
    }
    fleet.metrics.leases_expired(expired.len());
    fleet.metrics.sweeper_found("expired_lease", expired.len());
    if found.plans {
        plans(fleet, now).await?;
    }
    if *chores_due <= now {
        *chores_due = now + CHORES;
        fleet.store.ensure_partitions(now).await?;
        fleet.store.roll_up_turned(PASS, now).await?;
        fleet.limits.tidy();
    }
    if fleet.looks.mine("statistics", STATISTICS).await {
        let refreshed = fleet.store.refresh_statistics().await?;
        tracing::debug!(refreshed, "statistics");
    }
    if found.stranded {
        let stranded = fleet.store.release_stranded(now).await?;
        fleet.metrics.sweeper_found("stranded_step", stranded);
    }
    if found.ready {
        doorbell::ring_any(fleet, Doorbell::Dispatch).await;
    }
    if found.undecided || !expired.is_empty() {
        doorbell::ring_any(fleet, Doorbell::Failed).await;
    }
    Ok(())
}

async fn plans(fleet: &Fleet, now: DateTime<Utc>) -> Result<(), StoreError> {
    let due = fleet.store.due_plans(PASS, now).await?;
    if due.is_empty() {
        return Ok(());
    }
    let of = |wanted: fn(PlanState) -> bool| -> Vec<PlanKey> {
        due.iter().filter(|d| wanted(d.state)).map(|d| d.plan).collect()
    };
    let unadmitted = of(|s| matches!(s, PlanState::Approved | PlanState::Staged));
    let others = of(|s| !matches!(s, PlanState::Approved | PlanState::Staged));
    fleet.metrics.sweeper_found("unadmitted_plan", unadmitted.len());
    orchestrator::admit(fleet, &unadmitted).await?;
    if !others.is_empty() {
        let stopped = fleet.store.stop_overdue(&others, now).await?;
        fleet.metrics.sweeper_found("overdue_plan", stopped);
        for plan in others {
            fleet.live.touch(plan);
        }
    }
    Ok(())
}
