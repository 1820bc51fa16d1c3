//! What the sweeper looks for: plans that are due, and units that nobody was told of.

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::event::EventKind;
use dat_plan::{PlanKey, PlanState, StepState};

use crate::error::StoreError;
use crate::event_log;
use crate::finish::{abort_unstarted, start_rollback};
use crate::plan_row::{self, Contended};
use crate::pool::Store;

/// A plan that must be looked at now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuePlan {
    /// Which.
    pub plan: PlanKey,
    /// Its state when it was found.
    pub state: PlanState,
}

/// What a look of the sweeper found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent findings of one look")]
pub struct SweepFindings {
    /// Leases that ran out.
    pub expired: bool,
    /// Plans that are due.
    pub plans: bool,
    /// Units that wait for nothing and were left pending.
    pub stranded: bool,
    /// Units that are ready and due, unheard.
    pub ready: bool,
    /// What waits for the coordinator, unheard.
    pub undecided: bool,
}

impl Store {
    /// Plans whose time to be looked at has come, longest due first.
    pub async fn due_plans(&self, limit: i64, now: DateTime<Utc>) -> Result<Vec<DuePlan>, StoreError> {
        sqlx::query!(
            "SELECT plan_id, plan_version, state FROM execution_plan
             WHERE wake_at <= $1 ORDER BY wake_at LIMIT $2",
            now,
            limit,
        )
        .fetch_all(self.pool())
        .await?
        .into_iter()
        .map(|row| {
            Ok(DuePlan { plan: PlanKey::new(row.plan_id, row.plan_version), state: row.state.parse()? })
        })
        .collect()
    }

    /// Has the tables analysed that have grown much since they last were; gives how many.
    pub async fn refresh_statistics(&self) -> Result<i32, StoreError> {
        Ok(sqlx::query_scalar!(r#"SELECT refresh_statistics() AS "refreshed!""#)
            .fetch_one(self.pool())
            .await?)
    }

    /// Ends plans whose deadline passed or whose approval expired: before they started, at once; else by rollback.
    /// Gives how many it stopped.
    pub async fn stop_overdue(&self, plans: &[PlanKey], now: DateTime<Utc>) -> Result<usize, StoreError> {
        let mut tx = self.begin().await?;
        let mut plans = plan_row::lock(&mut tx, plans.iter().copied(), Contended::Skip).await?;
        let mut events = Vec::new();
        for plan in plans.values_mut() {
            let overdue = plan.deadline.is_some_and(|deadline| deadline <= now);
            match plan.state {
                PlanState::Executing | PlanState::Paused => match plan.stopped(now) {
                    Some(reason) => start_rollback(&mut tx, plan, &reason, &mut events, now).await?,
                    None => plan.wake(plan.next_bound()),
                },
                PlanState::Draft | PlanState::SubmittedForApproval if overdue => {
                    abort_unstarted(
                        &mut tx,
                        plan,
                        "its deadline passed before governance judged it",
                        &mut events,
                        now,
                    )
                    .await?;
                }
                PlanState::Draft | PlanState::SubmittedForApproval => plan.wake(plan.deadline),
                PlanState::RollingBack if plan.undo_begun => plan.wake(None),
                PlanState::Stuck => plan.wake(None),
                _ => {}
            }
        }
        let stopped = events.iter().filter(|e| matches!(e.kind, EventKind::Plan(_))).count();
        plan_row::write(&mut tx, &plans).await?;
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("sweep.stop", tx.commit()).await?;
        Ok(stopped)
    }

    /// Ends plans that have not started and never can.
    pub async fn abort_unstarted(
        &self,
        plans: &[PlanKey],
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let mut plans = plan_row::lock(&mut tx, plans.iter().copied(), Contended::Wait).await?;
        let mut events = Vec::new();
        for plan in plans.values_mut() {
            if matches!(plan.state, PlanState::Approved | PlanState::Staged) {
                abort_unstarted(&mut tx, plan, reason, &mut events, now).await?;
            }
        }
        plan_row::write(&mut tx, &plans).await?;
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("sweep.abort", tx.commit()).await?;
        Ok(())
    }

    /// Whether there is anything to sweep: one look, of a probe of an index each. Of what doorbells tell, only what is
    /// due since `unheard_since` counts: what is due since a moment ago is about to be heard of.
    pub async fn look(
        &self,
        unheard_since: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<SweepFindings, StoreError> {
        Ok(sqlx::query_as!(
            SweepFindings,
            r#"SELECT EXISTS (SELECT FROM execution_step WHERE state = 'running' AND lease_until <= $2) AS "expired!",
                    EXISTS (SELECT FROM execution_plan WHERE wake_at <= $2) AS "plans!",
                    EXISTS (SELECT FROM execution_step s JOIN execution_plan p USING (plan_id, plan_version)
                            WHERE s.state = 'pending' AND s.waits_for = 0
                              AND p.state IN ('executing', 'rolling_back')) AS "stranded!",
                    EXISTS (SELECT FROM execution_step WHERE state = 'ready' AND not_before <= $1) AS "ready!",
                    EXISTS (SELECT FROM execution_step WHERE needs_decision AND not_before <= $1)
                    OR EXISTS (SELECT FROM execution_plan
                               WHERE wake_at <= $1 AND state = 'rolling_back' AND NOT undo_begun)
                        AS "undecided!""#,
            unheard_since,
            now,
        )
        .fetch_one(self.pool())
        .await?)
    }

    /// Makes ready what waits for nothing and was left pending. Nothing should ever be; gives how many were.
    pub async fn release_stranded(&self, now: DateTime<Utc>) -> Result<usize, StoreError> {
        let found = sqlx::query!(
            "SELECT s.plan_id, s.plan_version FROM execution_step s
             JOIN execution_plan p USING (plan_id, plan_version)
             WHERE s.state = 'pending' AND s.waits_for = 0 AND p.state IN ('executing', 'rolling_back')
             LIMIT 100"
        )
        .fetch_all(self.pool())
        .await?;
        if found.is_empty() {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        let keys = found.iter().map(|row| PlanKey::new(row.plan_id, row.plan_version));
        let plans = plan_row::lock(&mut tx, keys, Contended::Skip).await?;
        let live: Vec<&plan_row::LockedPlan> = plans
            .values()
            .filter(|p| matches!(p.state, PlanState::Executing | PlanState::RollingBack))
            .collect();
        let rows = sqlx::query!(
            "UPDATE execution_step AS s SET state = 'ready', ready_at = $3
             FROM UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version)
             WHERE s.plan_id = k.plan_id AND s.plan_version = k.plan_version
               AND s.state = 'pending' AND s.waits_for = 0
             RETURNING s.plan_id, s.plan_version, s.kind, s.step_key",
            &live.iter().map(|p| p.key.plan_id).collect::<Vec<_>>(),
            &live.iter().map(|p| p.key.plan_version).collect::<Vec<_>>(),
            now,
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut events = Vec::new();
        for row in &rows {
            let Some(plan) = plans.get(&PlanKey::new(row.plan_id, row.plan_version)) else { continue };
            let kind = if row.kind == "undo" {
                EventKind::Undo(StepState::Ready)
            } else {
                EventKind::Step(StepState::Ready)
            };
            events
                .push(plan.event(kind, now).step(&row.step_key, 0).because("found stranded by the sweeper"));
        }
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("sweep.release", tx.commit()).await?;
        Ok(rows.len())
    }

    /// Makes the log's partitions for this month and the next: no month is shorter than 28 days.
    pub async fn ensure_partitions(&self, now: DateTime<Utc>) -> Result<(), StoreError> {
        for ahead in [TimeDelta::zero(), TimeDelta::days(15), TimeDelta::days(28)] {
            sqlx::query!("SELECT ensure_event_partition($1)", (now + ahead).date_naive())
                .fetch_one(self.pool())
                .await?;
        }
        Ok(())
    }
}
