//! What a claim writes, once everything is decided.

use chrono::{DateTime, Utc};
use dat_plan::UnitKey;
use serde_json::{Value, json};

use super::{Change, Claim};
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::event_log;
use crate::plan_row;
use crate::unit_columns::unit_columns;

type Waiting = (UnitKey, DateTime<Utc>, String, Option<DateTime<Utc>>);

impl Claim {
    pub(super) async fn write(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        self.write_units(conn).await?;
        self.ledger.write(conn).await?;
        self.events.append(&mut self.ledger.events);
        event_log::append(conn, &self.events).await
    }

    /// Writes steps and attempts alone.
    pub(super) async fn write_units(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let mut taken = Vec::new();
        let mut counted = Vec::new();
        let mut waiting = Vec::new();
        let mut refused = Vec::new();
        for (unit, change) in &self.changes {
            match change {
                Change::Run { attempt, epoch, key, counted_as } => {
                    taken.push((*unit, *attempt, *epoch, key.clone()));
                    if !counted_as.is_empty() {
                        counted.push((*unit, counted_as.clone()));
                    }
                }
                Change::Wait { until, reason, rate_slot } => {
                    waiting.push((*unit, *until, reason.clone(), *rate_slot));
                }
                Change::Refuse { reason } => refused.push((*unit, reason.clone())),
            }
        }
        write_taken(conn, &taken, &self.worker, self.until, self.now).await?;
        write_counted(conn, &counted).await?;
        write_waiting(conn, &waiting).await?;
        write_refused(conn, &refused, self.now).await
    }
}

async fn write_taken(
    conn: &mut PgConnection,
    taken: &[(UnitKey, i32, i64, String)],
    worker: &str,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if taken.is_empty() {
        return Ok(());
    }
    let (ids, versions, kinds, indexes) = unit_columns(taken.iter().map(|t| &t.0));
    let attempts: Vec<i32> = taken.iter().map(|t| t.1).collect();
    let epochs: Vec<i64> = taken.iter().map(|t| t.2).collect();
    let keys: Vec<String> = taken.iter().map(|t| t.3.clone()).collect();
    let written = sqlx::query_scalar!(
        r#"WITH n AS (
             SELECT * FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::integer[], $6::bigint[],
                                  $7::text[])
                  AS n (plan_id, plan_version, kind, step_index, attempt, epoch, idempotency_key)),
         begun AS (
             INSERT INTO step_attempt (plan_id, plan_version, kind, step_index, attempt, lease_epoch,
                 idempotency_key, worker, started_at, send_before)
             SELECT plan_id, plan_version, kind, step_index, attempt, epoch, idempotency_key, $8, $9, $10 FROM n),
         taken AS (
             UPDATE execution_step AS s
             SET state = 'running', attempts = n.attempt, lease_epoch = n.epoch, lease_until = $10, worker = $8,
                 started_at = $9, wait_reason = NULL, rate_slot = NULL, counted_as = NULL
             FROM n
             WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version AND s.kind = n.kind
               AND s.step_index = n.step_index AND s.state || '' = 'ready'
             RETURNING 1)
         SELECT count(*) AS "taken!" FROM taken"#,
        &ids,
        &versions,
        &kinds,
        &indexes,
        &attempts,
        &epochs,
        &keys,
        worker,
        now,
        until,
    )
    .fetch_one(conn)
    .await?;
    plan_row::assert_rows(written.unsigned_abs(), taken.len(), "step")
}

/// Notes what counts the units that were taken.
async fn write_counted(
    conn: &mut PgConnection,
    counted: &[(UnitKey, Vec<String>)],
) -> Result<(), StoreError> {
    if counted.is_empty() {
        return Ok(());
    }
    let (ids, versions, kinds, indexes) = unit_columns(counted.iter().map(|c| &c.0));
    // Arrays of arrays have one length in PostgreSQL, and these differ: each travels as JSON.
    let keys: Vec<Value> = counted.iter().map(|c| json!(c.1)).collect();
    let written = sqlx::query!(
        "UPDATE execution_step AS s
         SET counted_as = ARRAY(SELECT jsonb_array_elements_text(n.keys))
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::jsonb[])
              AS n (plan_id, plan_version, kind, step_index, keys)
         WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version AND s.kind = n.kind
           AND s.step_index = n.step_index AND s.state || '' = 'running'",
        &ids,
        &versions,
        &kinds,
        &indexes,
        &keys,
    )
    .execute(conn)
    .await?;
    plan_row::assert_rows(written.rows_affected(), counted.len(), "counted step")
}

async fn write_waiting(conn: &mut PgConnection, waiting: &[Waiting]) -> Result<(), StoreError> {
    if waiting.is_empty() {
        return Ok(());
    }
    let (ids, versions, kinds, indexes) = unit_columns(waiting.iter().map(|w| &w.0));
    sqlx::query!(
        "UPDATE execution_step AS s
         SET not_before = n.not_before, wait_reason = n.reason, rate_slot = n.rate_slot
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::timestamptz[], $6::text[],
                     $7::timestamptz[])
              AS n (plan_id, plan_version, kind, step_index, not_before, reason, rate_slot)
         WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version AND s.kind = n.kind
           AND s.step_index = n.step_index AND s.state || '' = 'ready'",
        &ids,
        &versions,
        &kinds,
        &indexes,
        &waiting.iter().map(|w| w.1).collect::<Vec<_>>(),
        &waiting.iter().map(|w| w.2.clone()).collect::<Vec<_>>(),
        &waiting.iter().map(|w| w.3).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn write_refused(
    conn: &mut PgConnection,
    refused: &[(UnitKey, String)],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if refused.is_empty() {
        return Ok(());
    }
    let (ids, versions, kinds, indexes) = unit_columns(refused.iter().map(|r| &r.0));
    sqlx::query!(
        "UPDATE execution_step AS s
         SET state = 'failed', needs_decision = true, last_outcome = 'refused', not_before = $6, ended_at = $6,
             detail = n.reason, wait_reason = NULL, rate_slot = NULL
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::text[])
              AS n (plan_id, plan_version, kind, step_index, reason)
         WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version AND s.kind = n.kind
           AND s.step_index = n.step_index AND s.state || '' = 'ready'",
        &ids,
        &versions,
        &kinds,
        &indexes,
        &refused.iter().map(|r| r.1.clone()).collect::<Vec<_>>(),
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}
