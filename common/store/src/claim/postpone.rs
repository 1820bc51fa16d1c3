//! Letting steps wait for what is outside the database. No plan is locked, so that thousands that wait for a rate hold
//! nobody up, and no transaction is open for longer than one statement.

use chrono::{DateTime, Utc};
use dat_plan::{PlanKey, UnitKey};

use super::BUDGET_WAIT;
use crate::error::StoreError;
use crate::pool::Store;
use crate::unit_columns::unit_columns;

/// A step that is to wait.
#[derive(Debug, Clone)]
pub struct Postponed {
    /// Which.
    pub unit: UnitKey,
    /// Until when.
    pub until: DateTime<Utc>,
    /// Why, for people.
    pub reason: String,
    /// The slot that the rate limit gave.
    pub rate_slot: Option<DateTime<Utc>>,
}

impl Store {
    /// Lets what is ready and due wait; gives which of them do. One that another transaction holds, or has taken
    /// meanwhile, is left as it is. One that waits for a budget keeps that reason, which has the figures.
    pub async fn postpone(
        &self,
        postponed: &[Postponed],
        now: DateTime<Utc>,
    ) -> Result<Vec<UnitKey>, StoreError> {
        if postponed.is_empty() {
            return Ok(Vec::new());
        }
        let (ids, versions, kinds, indexes) = unit_columns(postponed.iter().map(|p| &p.unit));
        dat_fault::around("postpone", sqlx::query!(
            "WITH waiting AS MATERIALIZED (
                 SELECT s.plan_id, s.plan_version, s.kind, s.step_index, n.not_before, n.reason, n.rate_slot
                 FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::timestamptz[], $6::text[],
                             $7::timestamptz[])
                      AS n (plan_id, plan_version, kind, step_index, not_before, reason, rate_slot)
                 JOIN execution_step s USING (plan_id, plan_version, kind, step_index)
                 WHERE s.state || '' = 'ready' AND s.not_before <= $8
                 FOR NO KEY UPDATE OF s SKIP LOCKED)
             UPDATE execution_step AS s
             SET not_before = w.not_before, rate_slot = w.rate_slot,
                 wait_reason = CASE WHEN starts_with(w.reason, $9) AND starts_with(s.wait_reason, $9)
                                    THEN s.wait_reason ELSE w.reason END
             FROM waiting w
             WHERE s.plan_id = w.plan_id AND s.plan_version = w.plan_version AND s.kind = w.kind
               AND s.step_index = w.step_index
             RETURNING s.plan_id, s.plan_version, s.kind, s.step_index",
            &ids,
            &versions,
            &kinds,
            &indexes,
            &postponed.iter().map(|p| p.until).collect::<Vec<_>>(),
            &postponed.iter().map(|p| p.reason.clone()).collect::<Vec<_>>(),
            &postponed.iter().map(|p| p.rate_slot).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
            now,
            BUDGET_WAIT,
        )
        .fetch_all(self.pool()))
        .await?
        .into_iter()
        .map(|row| {
            let plan = PlanKey::new(row.plan_id, row.plan_version);
            Ok(UnitKey { plan, kind: row.kind.parse()?, index: row.step_index })
        })
        .collect()
    }
}

/// What became of a unit whose attempt a caller had prepared, and did not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untaken {
    /// It is ready still: whoever asks next asks for the same attempt.
    Ready(UnitKey),
    /// It will not be attempted, or not before it is decided on: its plan was stopped.
    Never(UnitKey),
}

impl Store {
    /// Of these units and attempts, those that nobody has made.
    pub async fn untaken(&self, attempts: &[(UnitKey, i32)]) -> Result<Vec<Untaken>, StoreError> {
        if attempts.is_empty() {
            return Ok(Vec::new());
        }
        let (ids, versions, kinds, indexes) = unit_columns(attempts.iter().map(|(unit, _)| unit));
        let rows = sqlx::query!(
            r#"SELECT s.plan_id, s.plan_version, s.kind, s.step_index, s.state = 'ready' AS "ready!"
             FROM execution_step s
             JOIN UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::integer[])
                  AS k (plan_id, plan_version, kind, step_index, attempt)
               USING (plan_id, plan_version, kind, step_index)
             WHERE s.attempts < k.attempt"#,
            &ids,
            &versions,
            &kinds,
            &indexes,
            &attempts.iter().map(|(_, attempt)| *attempt).collect::<Vec<_>>(),
        )
        .fetch_all(self.pool())
        .await?;
        rows.into_iter()
            .map(|row| {
                let plan = PlanKey::new(row.plan_id, row.plan_version);
                let unit = UnitKey { plan, kind: row.kind.parse()?, index: row.step_index };
                Ok(if row.ready { Untaken::Ready(unit) } else { Untaken::Never(unit) })
            })
            .collect()
    }
}
