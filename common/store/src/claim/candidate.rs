//! What is due, looked at without a lock, in the order that tenant fairness and priority give ([`Turns`]).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dat_plan::{PlanKey, UnitKey};

use super::turns::Turns;
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

/// What is due now, as far as there is room for it.
#[derive(Debug)]
pub struct Due {
    /// In the order in which it is to be claimed.
    pub candidates: Vec<Candidate>,
    /// There may be more: whoever has room left looks again.
    pub more: bool,
}

/// A candidate, with what its turn depends on.
#[derive(Debug)]
pub(super) struct DueUnit {
    pub(super) candidate: Candidate,
    pub(super) priority: i16,
    pub(super) not_before: DateTime<Utc>,
    /// Its tenant's.
    pub(super) weight: i16,
    /// The rate schedule gave it a slot, and the time of that has come.
    pub(super) slot_has_come: bool,
}

impl Store {
    /// What is due, for a process that has served nobody yet. Reads only.
    pub async fn candidates(&self, limit: i64, now: DateTime<Utc>) -> Result<Vec<Candidate>, StoreError> {
        Ok(self.due(&mut Turns::default(), limit, now).await?.candidates)
    }

    /// What is due, at most `limit` units, fair between tenants by their weights and the turns that they have had;
    /// within a tenant by priority and then by who waits longest, but for one in eight, which goes by waiting alone.
    /// Reads only: at most about `2 * limit` rows of each priority, however many tenants there are and however much
    /// waits of each. A pick counts as served, whatever the claim says: it used up the same work.
    pub async fn due(&self, turns: &mut Turns, limit: i64, now: DateTime<Utc>) -> Result<Due, StoreError> {
        let (ahead, by) = turns.columns();
        // The recursive part is a loose index scan: one probe a (tenant, priority) that has something ready, however
        // many rows wait behind it. Only the tenants whose turn is next are read further, each by its share.
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
             open AS MATERIALIZED (
                 SELECT lane.tenant, lane.priority FROM lane CROSS JOIN LATERAL (
                     SELECT FROM execution_step s
                     JOIN execution_plan p USING (plan_id, plan_version)
                     WHERE s.state = 'ready' AND s.tenant = lane.tenant AND s.priority = lane.priority
                       AND s.not_before <= $1
                       AND ((s.kind = 'action' AND p.state = 'executing')
                            OR (s.kind = 'undo' AND p.state IN ('rolling_back', 'stuck')))
                     ORDER BY s.not_before LIMIT 1) AS first),
             chosen AS (
                 SELECT t.tenant, coalesce(w.weight, 1) AS weight, count(*) OVER () AS tenants,
                        row_number() OVER (ORDER BY coalesce(a.by, 0), t.tenant) AS place
                 FROM (SELECT DISTINCT tenant FROM open) AS t
                 LEFT JOIN tenant_weight w USING (tenant)
                 LEFT JOIN UNNEST($3::text[], $4::bigint[]) AS a (tenant, by) USING (tenant)),
             share AS MATERIALIZED (
                 SELECT tenant, weight, tenants,
                        least($2::bigint, 1 + 2 * $2::bigint * weight / sum(weight) OVER ())::bigint AS most
                 FROM chosen WHERE place <= $2::bigint),
             due AS (
                 SELECT d.*, share.weight, share.most, share.tenants
                 FROM share JOIN open USING (tenant) CROSS JOIN LATERAL (
                     SELECT s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.tenant, s.connector,
                            s.action, s.priority, s.not_before, s.attempts, s.rate_slot
                     FROM execution_step s
                     JOIN execution_plan p USING (plan_id, plan_version)
                     WHERE s.state = 'ready' AND s.tenant = open.tenant AND s.priority = open.priority
                       AND s.not_before <= $1
                       AND ((s.kind = 'action' AND p.state = 'executing')
                            OR (s.kind = 'undo' AND p.state IN ('rolling_back', 'stuck')))
                     ORDER BY s.not_before, s.plan_id, s.plan_version, s.kind, s.step_index
                     LIMIT share.most) AS d
                 UNION
                 SELECT d.*, share.weight, share.most, share.tenants
                 FROM share CROSS JOIN LATERAL (
                     SELECT s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.tenant, s.connector,
                            s.action, s.priority, s.not_before, s.attempts, s.rate_slot
                     FROM execution_step s
                     JOIN execution_plan p USING (plan_id, plan_version)
                     WHERE s.state = 'ready' AND s.tenant = share.tenant AND s.rate_slot <= $1
                       AND s.not_before <= $1 AND s.kind = 'action' AND p.state = 'executing'
                     ORDER BY s.rate_slot LIMIT share.most) AS d)
             SELECT due.plan_id AS "plan_id!", due.plan_version AS "plan_version!", due.kind AS "kind!",
                    due.step_index AS "step_index!", due.step_key AS "step_key!", due.tenant AS "tenant!",
                    due.connector AS "connector!", due.action AS "action!", due.attempts AS "attempts!", due.rate_slot,
                    due.priority AS "priority!", due.not_before AS "not_before!", due.weight::smallint AS "weight!",
                    due.most AS "most!", due.tenants AS "tenants!", a.account_id AS "account_id?"
             FROM due LEFT JOIN budget_account a
               ON a.plan_id = due.plan_id AND a.plan_version = due.plan_version"#,
            now,
            limit,
            &ahead,
            &by,
        )
        .fetch_all(self.pool())
        .await?;
        let mut read: BTreeMap<String, i64> = BTreeMap::new();
        let (mut cut, found) = (false, rows.len());
        let due = rows
            .into_iter()
            .map(|row| {
                let of_tenant = read.entry(row.tenant.clone()).or_default();
                *of_tenant += 1;
                cut |= *of_tenant >= row.most || row.tenants > limit;
                Ok(DueUnit {
                    priority: row.priority,
                    not_before: row.not_before,
                    weight: row.weight,
                    slot_has_come: row.rate_slot.is_some_and(|slot| slot <= now),
                    candidate: Candidate {
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
                    },
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        let candidates = turns.pick(due, usize::try_from(limit).unwrap_or_default());
        Ok(Due { more: cut || candidates.len() < found, candidates })
    }
}
