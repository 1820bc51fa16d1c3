//! Leases: the proof that a worker may write what came of a unit.
//!
//! A lease is a value (the habit is janus's, `aggregator_core/src/datastore.rs`): it is made by a claim, carries the
//! epoch that fences every write, and is consumed by the write. A claim, an expiry and a settlement each raise or end
//! the epoch, so that a worker which lost its lease matches no row.

use chrono::{DateTime, Utc};
use dat_plan::event::EventKind;
use dat_plan::{PlanKey, StepState, UnitKey, UnitKind};

use crate::error::StoreError;
use crate::event_log;
use crate::plan_row::{self, Contended};
use crate::pool::Store;

/// The right to act for a unit until `until`, and to write what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The unit.
    pub unit: UnitKey,
    /// Fences every write.
    pub epoch: i64,
    /// The holder may act until then.
    pub until: DateTime<Utc>,
}

impl Lease {
    /// Whether the holder may still act.
    #[must_use]
    pub fn holds(&self, now: DateTime<Utc>) -> bool {
        now < self.until
    }
}

/// An attempt whose worker did not come back in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredLease {
    /// The unit; its outcome is unknown now.
    pub unit: UnitKey,
    /// Who held it.
    pub worker: String,
}

/// A unit whose outcome is unknown, claimed for a probe.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The right to settle it.
    pub lease: Lease,
    /// The step's key.
    pub step_key: String,
    /// The attempt that is asked about.
    pub attempt: i32,
    /// The key that is asked about.
    pub idempotency_key: String,
    /// Who pays.
    pub tenant: String,
    /// W3C trace context.
    pub traceparent: String,
    /// Probes that could not tell, so far.
    pub probes: i32,
    /// The request left before this, or never: the end of the lease as it was claimed.
    pub send_before: DateTime<Utc>,
}

impl Store {
    /// Renews leases, in a column that no index sees. Gives those that were lost meanwhile.
    pub async fn renew(&self, leases: &[Lease], until: DateTime<Utc>) -> Result<Vec<UnitKey>, StoreError> {
        let rows = dat_fault::around(
            "lease.renew",
            sqlx::query!(
                "WITH held AS MATERIALIZED (
                 SELECT s.plan_id, s.plan_version, s.kind, s.step_index
                 FROM execution_step s
                 JOIN UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::bigint[])
                      AS k (plan_id, plan_version, kind, step_index, epoch)
                   USING (plan_id, plan_version, kind, step_index)
                 WHERE s.lease_epoch = k.epoch AND s.state || '' = 'running'
                 -- In key order, as settlements and expiries lock: no plan's lock keeps this apart from them.
                 ORDER BY s.plan_id, s.plan_version, s.kind, s.step_index
                 FOR NO KEY UPDATE OF s)
             UPDATE execution_step AS s SET lease_until = $6
             FROM held
             WHERE s.plan_id = held.plan_id AND s.plan_version = held.plan_version AND s.kind = held.kind
               AND s.step_index = held.step_index
             RETURNING s.plan_id, s.plan_version, s.kind, s.step_index",
                &leases.iter().map(|l| l.unit.plan.plan_id).collect::<Vec<_>>(),
                &leases.iter().map(|l| l.unit.plan.plan_version).collect::<Vec<_>>(),
                &leases.iter().map(|l| l.unit.kind.as_str().to_owned()).collect::<Vec<_>>(),
                &leases.iter().map(|l| l.unit.index).collect::<Vec<_>>(),
                &leases.iter().map(|l| l.epoch).collect::<Vec<_>>(),
                until,
            )
            .fetch_all(self.pool()),
        )
        .await?;
        let mut kept = std::collections::BTreeSet::new();
        for row in rows {
            kept.insert(UnitKey {
                plan: PlanKey::new(row.plan_id, row.plan_version),
                kind: row.kind.parse()?,
                index: row.step_index,
            });
        }
        Ok(leases.iter().map(|l| l.unit).filter(|unit| !kept.contains(unit)).collect())
    }

    /// Ends leases that ran out: the request may have left, so the outcome is unknown and a probe must tell.
    pub async fn expire_leases(
        &self,
        limit: i64,
        now: DateTime<Utc>,
    ) -> Result<Vec<ExpiredLease>, StoreError> {
        let late = sqlx::query!(
            "SELECT plan_id, plan_version FROM execution_step
             WHERE state = 'running' AND lease_until <= $1 ORDER BY plan_id, plan_version LIMIT $2",
            now,
            limit,
        )
        .fetch_all(self.pool())
        .await?;
        if late.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin().await?;
        let keys = late.iter().map(|row| PlanKey::new(row.plan_id, row.plan_version));
        let plans = plan_row::lock(&mut tx, keys, Contended::Skip).await?;
        let rows = sqlx::query!(
            "WITH late AS MATERIALIZED (
                 SELECT s.plan_id, s.plan_version, s.kind, s.step_index
                 FROM execution_step s
                 JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version)
                   USING (plan_id, plan_version)
                 WHERE s.state = 'running' AND s.lease_until <= $3
                 -- In key order, as renewals lock.
                 ORDER BY s.plan_id, s.plan_version, s.kind, s.step_index
                 FOR NO KEY UPDATE OF s)
             UPDATE execution_step AS s
             SET state = 'unknown', sent = true, needs_decision = true, last_outcome = 'lost', not_before = $3,
                 lease_epoch = lease_epoch + 1, lease_until = NULL, probes = 0,
                 wait_reason = 'the lease of ' || worker || ' ran out; the outcome is probed'
             FROM late
             WHERE s.plan_id = late.plan_id AND s.plan_version = late.plan_version AND s.kind = late.kind
               AND s.step_index = late.step_index
             RETURNING s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.attempts, s.worker",
            &plans.keys().map(|k| k.plan_id).collect::<Vec<_>>(),
            &plans.keys().map(|k| k.plan_version).collect::<Vec<_>>(),
            now,
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut expired = Vec::with_capacity(rows.len());
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let kind: UnitKind = row.kind.parse()?;
            let plan = PlanKey::new(row.plan_id, row.plan_version);
            let worker = row.worker.unwrap_or_default();
            if let Some(plan) = plans.get(&plan) {
                let event = match kind {
                    UnitKind::Action => EventKind::Step(StepState::Unknown),
                    UnitKind::Undo => EventKind::Undo(StepState::Unknown),
                };
                let reason = format!("the lease of {worker} ran out");
                events.push(plan.event(event, now).step(&row.step_key, row.attempts).because(&reason));
            }
            expired.push(ExpiredLease { unit: UnitKey { plan, kind, index: row.step_index }, worker });
        }
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("lease.expire", tx.commit()).await?;
        Ok(expired)
    }

    /// Claims up to `limit` units whose outcome is unknown and whose probe is due, but for those of a connector whose
    /// breaker is forced open. A pause, or a connector that is disabled, holds no probe back: it begins nothing, and what
    /// was begun waits for it.
    pub async fn claim_probes(
        &self,
        worker: &str,
        limit: i64,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Probe>, StoreError> {
        let due = sqlx::query!(
            "SELECT plan_id, plan_version FROM execution_step
             WHERE needs_decision AND state = 'unknown' AND not_before <= $1
               AND (lease_until IS NULL OR lease_until <= $1)
               AND NOT EXISTS (SELECT 1 FROM breaker_force b
                               WHERE b.connector = execution_step.connector AND b.forced = 'open')
             ORDER BY not_before LIMIT $2",
            now,
            limit,
        )
        .fetch_all(self.pool())
        .await?;
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin().await?;
        let keys = due.iter().map(|row| PlanKey::new(row.plan_id, row.plan_version));
        let plans = plan_row::lock(&mut tx, keys, Contended::Skip).await?;
        let rows = sqlx::query!(
            r#"WITH due AS MATERIALIZED (
                 SELECT s.plan_id, s.plan_version, s.kind, s.step_index
                 FROM execution_step s
                 JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version)
                   USING (plan_id, plan_version)
                 WHERE s.needs_decision AND s.state = 'unknown' AND s.not_before <= $3
                   AND (s.lease_until IS NULL OR s.lease_until <= $3)
                   -- What an operator has forced open is left alone, as by every claim.
                   AND NOT EXISTS (SELECT 1 FROM breaker_force b
                                   WHERE b.connector = s.connector AND b.forced = 'open')
                 LIMIT $4)
             UPDATE execution_step AS s
             SET lease_epoch = s.lease_epoch + 1, lease_until = $5, worker = $6
             FROM due, step_attempt a
             WHERE s.plan_id = due.plan_id AND s.plan_version = due.plan_version AND s.kind = due.kind
               AND s.step_index = due.step_index
               AND a.plan_id = s.plan_id AND a.plan_version = s.plan_version AND a.kind = s.kind
               AND a.step_index = s.step_index AND a.attempt = s.attempts
             RETURNING s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.attempts, s.lease_epoch,
                       s.tenant, s.probes, a.idempotency_key,
                       coalesce(a.send_before, a.started_at) AS "send_before!""#,
            &plans.keys().map(|k| k.plan_id).collect::<Vec<_>>(),
            &plans.keys().map(|k| k.plan_version).collect::<Vec<_>>(),
            now,
            limit,
            until,
            worker,
        )
        .fetch_all(&mut *tx)
        .await?;
        dat_fault::around("probe.claim", tx.commit()).await?;
        rows.into_iter()
            .map(|row| {
                let plan = PlanKey::new(row.plan_id, row.plan_version);
                let unit = UnitKey { plan, kind: row.kind.parse()?, index: row.step_index };
                Ok(Probe {
                    lease: Lease { unit, epoch: row.lease_epoch, until },
                    step_key: row.step_key,
                    attempt: row.attempts,
                    idempotency_key: row.idempotency_key,
                    tenant: row.tenant,
                    traceparent: plans.get(&plan).map(|p| p.traceparent.clone()).unwrap_or_default(),
                    probes: row.probes,
                    send_before: row.send_before,
                })
            })
            .collect()
    }
}
