//! What is due, looked at without a lock, in the order that tenant fairness and priority give.

use chrono::{DateTime, Utc};
use dat_plan::{PlanKey, UnitKey};

use crate::error::StoreError;
use crate::pool::Store;

/// A unit that is due.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The unit.
    pub unit: UnitKey,
    /// The step's key.
    pub step_key: String,
    /// Who pays.
    pub tenant: String,
    /// Its connector.
    pub connector: String,
    /// Its action.
    pub action: String,
    /// The attempt that a claim would make.
    pub attempt: i32,
    /// The slot that the rate limit gave it.
    pub rate_slot: Option<DateTime<Utc>>,
    /// The plan's own account, for the live copy.
    pub plan_account: Option<i64>,
}

impl Store {
    /// What is due, fair between tenants: the first of each tenant, then the second of each, and so on; within a
    /// tenant by priority, then by who waits longest. Reads only; at most `limit` rows a tenant are looked at.
    pub async fn candidates(&self, limit: i64, now: DateTime<Utc>) -> Result<Vec<Candidate>, StoreError> {
        // The recursive part is a loose index scan: one probe a (tenant, priority) that has something ready, however
        // many rows wait behind it.
        let rows = sqlx::query!(
            r#"WITH RECURSIVE lane AS (
                 (SELECT tenant, priority FROM execution_step WHERE state = 'ready'
                  ORDER BY tenant, priority DESC LIMIT 1)
                 UNION ALL
                 SELECT next.tenant, next.priority FROM lane CROSS JOIN LATERAL (
                     SELECT tenant, priority FROM (
                         (SELECT s.tenant, s.priority FROM execution_step s
                          WHERE s.state = 'ready' AND s.tenant = lane.tenant AND s.priority < lane.priority
                          ORDER BY s.priority DESC LIMIT 1)
                         UNION ALL
                         (SELECT s.tenant, s.priority FROM execution_step s
                          WHERE s.state = 'ready' AND s.tenant > lane.tenant
                          ORDER BY s.tenant, s.priority DESC LIMIT 1)) AS either
                     ORDER BY tenant, priority DESC LIMIT 1) AS next),
             due AS (
                 SELECT d.*, row_number() OVER (PARTITION BY d.tenant ORDER BY d.priority DESC, d.not_before,
                                                d.plan_id, d.plan_version, d.step_index) AS turn
                 FROM lane CROSS JOIN LATERAL (
                     SELECT s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.tenant, s.connector,
                            s.action, s.priority, s.not_before, s.attempts, s.rate_slot
                     FROM execution_step s
                     JOIN execution_plan p USING (plan_id, plan_version)
                     WHERE s.state = 'ready' AND s.tenant = lane.tenant AND s.priority = lane.priority
                       AND s.not_before <= $1
                       AND ((s.kind = 'action' AND p.state = 'executing')
                            OR (s.kind = 'undo' AND p.state IN ('rolling_back', 'stuck')))
                     ORDER BY s.not_before, s.plan_id, s.plan_version, s.kind, s.step_index LIMIT $2) AS d)
             SELECT due.plan_id AS "plan_id!", due.plan_version AS "plan_version!", due.kind AS "kind!",
                    due.step_index AS "step_index!", due.step_key AS "step_key!", due.tenant AS "tenant!",
                    due.connector AS "connector!", due.action AS "action!", due.attempts AS "attempts!", due.rate_slot,
                    a.account_id AS "account_id?"
             FROM due LEFT JOIN budget_account a
               ON a.plan_id = due.plan_id AND a.plan_version = due.plan_version
             ORDER BY due.turn, due.priority DESC, due.not_before LIMIT $2"#,
            now,
            limit,
        )
        .fetch_all(self.pool())
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Candidate {
                    unit: UnitKey {
                        plan: PlanKey::new(row.plan_id, row.plan_version),
                        kind: row.kind.parse()?,
                        index: row.step_index,
                    },
                    step_key: row.step_key,
                    tenant: row.tenant,
                    connector: row.connector,
                    action: row.action,
                    attempt: row.attempts + 1,
                    rate_slot: row.rate_slot,
                    plan_account: row.account_id,
                })
            })
            .collect()
    }
}
