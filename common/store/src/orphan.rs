//! Open reservations that nobody owns: no attempt will settle them, no undo and no plan's end will release them. There
//! should be none; whatever left one, it cannot stay.

use chrono::{DateTime, Utc};
use dat_plan::PlanKey;

use crate::account::Ledger;
use crate::error::StoreError;
use crate::event_log;
use crate::plan_row::{self, Contended};
use crate::pool::Store;

/// What a page of plans with open reservations holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrphanPage {
    /// Plans with a reservation that nobody owns.
    pub orphaned: Vec<PlanKey>,
    /// The page's last plan, to go on after; none at the end.
    pub next: Option<PlanKey>,
}

impl Store {
    /// Looks at the next `plans` plans, in id order, that hold open reservations. Reads only.
    pub async fn orphans(&self, after: PlanKey, plans: i64) -> Result<OrphanPage, StoreError> {
        let page = sqlx::query!(
            r#"WITH page AS MATERIALIZED (
                 SELECT DISTINCT plan_id, plan_version FROM budget_reservation
                 WHERE (action_open OR undo_open) AND (plan_id, plan_version) > ($1, $2)
                 ORDER BY plan_id, plan_version LIMIT $3)
             SELECT page.plan_id, page.plan_version,
                    bool_or((r.action_open AND NOT (s.state IN ('running', 'unknown') AND s.attempts = r.attempt))
                            OR (r.undo_open AND (p.ended_at IS NOT NULL OR s.state IN ('rolled_back', 'skipped'))))
                        AS "orphaned!"
             FROM page
             JOIN execution_plan p USING (plan_id, plan_version)
             CROSS JOIN LATERAL (
                 SELECT * FROM budget_reservation r
                 WHERE r.plan_id = page.plan_id AND r.plan_version = page.plan_version
                   AND (r.action_open OR r.undo_open)
                 -- Keeps the order: first the few that are open, then the step of each.
                 OFFSET 0) AS r
             JOIN execution_step s
               ON s.plan_id = r.plan_id AND s.plan_version = r.plan_version AND s.kind = 'action'
              AND s.step_index = r.step_index
             GROUP BY page.plan_id, page.plan_version
             ORDER BY page.plan_id, page.plan_version"#,
            after.plan_id,
            after.plan_version,
            plans,
        )
        .fetch_all(self.pool())
        .await?;
        let key = |id, version| PlanKey::new(id, version);
        let whole = i64::try_from(page.len()).is_ok_and(|found| found == plans);
        Ok(OrphanPage {
            next: page.last().filter(|_| whole).map(|row| key(row.plan_id, row.plan_version)),
            orphaned: page
                .iter()
                .filter(|row| row.orphaned)
                .map(|row| key(row.plan_id, row.plan_version))
                .collect(),
        })
    }

    /// Closes a plan's reservations that nobody owns, by the ledger, each with its event. Gives how many. One
    /// transaction, which looks again under the plan's lock; a plan that is locked is left for the next time.
    pub async fn close_orphans(&self, plan: PlanKey, now: DateTime<Utc>) -> Result<usize, StoreError> {
        let mut tx = self.begin().await?;
        let plans = plan_row::lock(&mut tx, [plan], Contended::Skip).await?;
        let Some(plan) = plans.get(&plan) else { return Ok(0) };
        let rows = sqlx::query!(
            r#"SELECT r.step_index, r.attempt, s.step_key,
                    (r.action_open AND NOT (s.state IN ('running', 'unknown') AND s.attempts = r.attempt)) AS "action!",
                    (r.undo_open AND ($3 OR s.state IN ('rolled_back', 'skipped'))) AS "undo!"
             FROM budget_reservation r
             JOIN execution_step s USING (plan_id, plan_version, step_index)
             WHERE r.plan_id = $1 AND r.plan_version = $2 AND s.kind = 'action' AND (r.action_open OR r.undo_open)
             ORDER BY r.step_index, r.attempt"#,
            plan.key.plan_id,
            plan.key.plan_version,
            plan.ended_at.is_some(),
        )
        .fetch_all(&mut *tx)
        .await?;
        let steps: Vec<(PlanKey, i32)> = rows.iter().map(|row| (plan.key, row.step_index)).collect();
        let mut ledger = Ledger::open(&mut tx, [plan.key], &steps, &[], now).await?;
        let mut closed = 0;
        for row in &rows {
            let step = (row.step_index, row.step_key.as_str());
            if row.action {
                ledger.settle_action(plan, step, row.attempt, 0)?;
            }
            if row.undo {
                ledger.release_undo_of(plan, step, row.attempt)?;
            }
            closed += usize::from(row.action || row.undo);
        }
        let events: Vec<_> = std::mem::take(&mut ledger.events)
            .into_iter()
            .map(|event| event.because("nothing owned the reservation: closed by the reconciler"))
            .collect();
        ledger.write(&mut tx).await?;
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("orphan", tx.commit()).await?;
        Ok(closed)
    }
}
