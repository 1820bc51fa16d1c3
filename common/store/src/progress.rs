//! How far long attempts are, by their connectors' word, on the attempts' rows.
//!
//! **Owns** the writing of it, which renews the lease in the same statement: a report is a sign of life. **Called** by the
//! worker that holds the leases, at most once a second an attempt. **Must never** write for a lease that was lost.
//!
//! It is no event: the log holds what was decided and what came of it, and is kept for good. How far something is decides
//! nothing, is true for a second, and is worth nothing once the attempt has ended; a report that is lost is made good by
//! the next. In the log it would be the most of it, and would be sent to everybody who listens.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use dat_plan::{PlanKey, Progress, UnitKey};

use crate::error::StoreError;
use crate::lease::Lease;
use crate::pool::Store;
use crate::unit_columns::unit_columns;

impl Store {
    /// Notes how far attempts are, and renews their leases. Gives those whose lease was lost: of these nothing is written.
    pub async fn progress(
        &self,
        told: &[(Lease, Progress)],
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Vec<UnitKey>, StoreError> {
        if told.is_empty() {
            return Ok(Vec::new());
        }
        let (ids, versions, kinds, indexes) = unit_columns(told.iter().map(|(lease, _)| &lease.unit));
        let rows = dat_fault::around(
            "lease.progress",
            sqlx::query!(
                "WITH held AS MATERIALIZED (
                     SELECT s.plan_id, s.plan_version, s.kind, s.step_index, s.attempts, k.done, k.total, k.message
                     FROM execution_step s
                     JOIN UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::bigint[], $6::bigint[],
                                 $7::bigint[], $8::text[])
                          AS k (plan_id, plan_version, kind, step_index, epoch, done, total, message)
                       USING (plan_id, plan_version, kind, step_index)
                     WHERE s.lease_epoch = k.epoch AND s.state || '' = 'running'
                     -- In key order, as every statement over running rows locks.
                     ORDER BY s.plan_id, s.plan_version, s.kind, s.step_index
                     FOR NO KEY UPDATE OF s),
                 told AS (
                     UPDATE step_attempt AS a
                     SET progress_done = held.done, progress_total = held.total, progress_message = held.message,
                         progress_at = $10
                     FROM held
                     WHERE a.plan_id = held.plan_id AND a.plan_version = held.plan_version AND a.kind = held.kind
                       AND a.step_index = held.step_index AND a.attempt = held.attempts)
                 UPDATE execution_step AS s SET lease_until = $9
                 FROM held
                 WHERE s.plan_id = held.plan_id AND s.plan_version = held.plan_version AND s.kind = held.kind
                   AND s.step_index = held.step_index
                 RETURNING s.plan_id, s.plan_version, s.kind, s.step_index",
                &ids,
                &versions,
                &kinds,
                &indexes,
                &told.iter().map(|(lease, _)| lease.epoch).collect::<Vec<_>>(),
                &told.iter().map(|(_, progress)| progress.done).collect::<Vec<_>>() as &[Option<i64>],
                &told.iter().map(|(_, progress)| progress.total).collect::<Vec<_>>() as &[Option<i64>],
                &told.iter().map(|(_, progress)| progress.message.clone()).collect::<Vec<_>>()
                    as &[Option<String>],
                until,
                now,
            )
            .fetch_all(self.pool()),
        )
        .await?;
        let kept = rows
            .into_iter()
            .map(|row| {
                let plan = PlanKey::new(row.plan_id, row.plan_version);
                Ok(UnitKey { plan, kind: row.kind.parse()?, index: row.step_index })
            })
            .collect::<Result<BTreeSet<_>, StoreError>>()?;
        Ok(told.iter().map(|(lease, _)| lease.unit).filter(|unit| !kept.contains(unit)).collect())
    }
}
