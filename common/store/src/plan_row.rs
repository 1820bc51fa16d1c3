//! Plan rows under lock: the first statement of every writing transaction, and the re-reading after it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use dat_plan::document::Mode;
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::{PlanHash, PlanKey, PlanState};
use uuid::Uuid;

use crate::connection::PgConnection;
use crate::error::StoreError;

/// The approval as the claim transaction reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Governance's decision.
    pub decision_id: String,
    /// What it approved.
    pub plan_hash: PlanHash,
    /// Until when.
    pub expires_at: Option<DateTime<Utc>>,
    /// Since when no longer.
    pub revoked_at: Option<DateTime<Utc>>,
}

impl Approval {
    /// Whether it lets a plan of this hash act at this moment.
    #[must_use]
    pub fn holds(&self, hash: &PlanHash, now: DateTime<Utc>) -> bool {
        self.plan_hash == *hash && self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// A plan row that this transaction has locked.
#[derive(Debug, Clone)]
pub(crate) struct LockedPlan {
    pub(crate) key: PlanKey,
    pub(crate) tenant: String,
    pub(crate) currency: String,
    /// It goes its way without effects or spend.
    pub(crate) dry: bool,
    pub(crate) state: PlanState,
    pub(crate) plan_hash: PlanHash,
    pub(crate) budget_amount: i64,
    pub(crate) approved_amount: Option<i64>,
    pub(crate) deadline: Option<DateTime<Utc>>,
    pub(crate) approval: Option<Approval>,
    pub(crate) traceparent: String,
    pub(crate) registered_at: DateTime<Utc>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) steps_total: i32,
    pub(crate) steps_done: i32,
    pub(crate) undos_open: i32,
    pub(crate) undo_begun: bool,
    pub(crate) wake_at: Option<DateTime<Utc>>,
    pub(crate) wait_reason: Option<String>,
    pub(crate) end_reason: Option<String>,
    /// What of the row this transaction changed, to be written once at its end.
    pub(crate) dirty: bool,
    pub(crate) state_since: DateTime<Utc>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
    /// What its stored document and verdict hash to, where a claim looked.
    pub(crate) digest: Option<Vec<u8>>,
}

impl LockedPlan {
    pub(crate) fn event(&self, kind: EventKind, at: DateTime<Utc>) -> NewEvent {
        let event = NewEvent::of_plan(self.key, &self.tenant, kind, at);
        if self.dry { event.with("mode", Mode::Dry.as_str()) } else { event }
    }

    /// Takes the plan to a state, if the lifecycle has that arrow, and gives the event that says so.
    pub(crate) fn enter(
        &mut self,
        to: PlanState,
        reason: &str,
        at: DateTime<Utc>,
    ) -> Result<NewEvent, StoreError> {
        self.state = self.state.to(to)?;
        self.state_since = at;
        self.dirty = true;
        self.wait_reason = None;
        if to.is_end() {
            // Archiving is not when it ended.
            self.ended_at = self.ended_at.or(Some(at));
            self.wake_at = None;
        }
        if to == PlanState::Executing && self.started_at.is_none() {
            self.started_at = Some(at);
        }
        if !reason.is_empty()
            && matches!(to, PlanState::Rejected | PlanState::RollingBack | PlanState::Aborted)
        {
            self.end_reason.get_or_insert_with(|| reason.to_owned());
        }
        Ok(self.event(EventKind::Plan(to), at).because(reason))
    }

    /// When the sweeper must look at it again if nothing else happens: its deadline, or its approval's end.
    pub(crate) fn next_bound(&self) -> Option<DateTime<Utc>> {
        let expiry = self.approval.as_ref().and_then(|a| a.expires_at);
        [self.deadline, expiry].into_iter().flatten().min()
    }

    pub(crate) fn wake(&mut self, at: Option<DateTime<Utc>>) {
        self.wake_at = at;
        self.dirty = true;
    }

    /// Why nothing forward may start, if so.
    pub(crate) fn stopped(&self, now: DateTime<Utc>) -> Option<String> {
        if self.revoked_at.is_some() {
            return Some("its approval was revoked".to_owned());
        }
        match &self.approval {
            None => return Some("it has no approval".to_owned()),
            Some(approval) if !approval.holds(&self.plan_hash, now) => {
                return Some("its approval expired or is of another hash".to_owned());
            }
            Some(_) => {}
        }
        match self.deadline {
            Some(deadline) if deadline <= now => Some("its deadline passed".to_owned()),
            _ => None,
        }
    }
}

/// Whether to wait for plans that another transaction holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contended {
    Wait,
    Skip,
}

/// Locks plan rows in id order, then reads them: rows that another transaction changed meanwhile are seen as they are
/// now, because the reading is a statement of its own.
pub(crate) async fn lock(
    conn: &mut PgConnection,
    keys: impl IntoIterator<Item = PlanKey>,
    contended: Contended,
) -> Result<BTreeMap<PlanKey, LockedPlan>, StoreError> {
    lock_and_look(conn, keys, contended, &BTreeSet::new()).await
}

/// As [`lock`]; of these plans it reads besides what the stored bytes of document and approving verdict hash to: whether
/// they are what a worker read.
pub(crate) async fn lock_and_look(
    conn: &mut PgConnection,
    keys: impl IntoIterator<Item = PlanKey>,
    contended: Contended,
    looked_at: &BTreeSet<PlanKey>,
) -> Result<BTreeMap<PlanKey, LockedPlan>, StoreError> {
    let keys: BTreeSet<PlanKey> = keys.into_iter().filter(|key| !key.is_control()).collect();
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (ids, versions): (Vec<Uuid>, Vec<i32>) = keys.iter().map(|k| (k.plan_id, k.plan_version)).unzip();
    let locked: Vec<(Uuid, i32)> = match contended {
        Contended::Wait => sqlx::query!(
            "SELECT p.plan_id, p.plan_version
             FROM execution_plan p
             JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version) USING (plan_id, plan_version)
             ORDER BY p.plan_id, p.plan_version
             FOR NO KEY UPDATE OF p",
            &ids,
            &versions
        )
        .fetch_all(&mut *conn)
        .await?
        .into_iter()
        .map(|row| (row.plan_id, row.plan_version))
        .collect(),
        Contended::Skip => sqlx::query!(
            "SELECT p.plan_id, p.plan_version
             FROM execution_plan p
             JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version) USING (plan_id, plan_version)
             ORDER BY p.plan_id, p.plan_version
             FOR NO KEY UPDATE OF p SKIP LOCKED",
            &ids,
            &versions
        )
        .fetch_all(&mut *conn)
        .await?
        .into_iter()
        .map(|row| (row.plan_id, row.plan_version))
        .collect(),
    };
    let looks: Vec<bool> =
        locked.iter().map(|(id, version)| looked_at.contains(&PlanKey::new(*id, *version))).collect();
    let (ids, versions): (Vec<Uuid>, Vec<i32>) = locked.into_iter().unzip();
    let rows = sqlx::query!(
        "SELECT p.plan_id, p.plan_version, p.tenant, p.currency, p.state, p.plan_hash, p.budget_amount,
                p.approved_amount, p.deadline, p.approval_decision, p.approval_hash, p.approval_expires_at,
                p.revoked_at, p.traceparent, p.registered_at, p.started_at, p.steps_total, p.steps_done,
                p.undos_open, p.undo_begun, p.wake_at, p.wait_reason, p.end_reason, p.state_since, p.ended_at,
                p.mode,
                CASE WHEN k.look THEN
                    (SELECT sha256(p.document || convert_to(v.verdict::text, 'UTF8')) FROM plan_verdict v
                     WHERE v.plan_id = p.plan_id AND v.plan_version = p.plan_version AND v.outcome = 'approved')
                END AS digest
         FROM execution_plan p
         JOIN UNNEST($1::uuid[], $2::integer[], $3::boolean[]) AS k (plan_id, plan_version, look)
           USING (plan_id, plan_version)",
        &ids,
        &versions,
        &looks
    )
    .fetch_all(&mut *conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let key = PlanKey::new(row.plan_id, row.plan_version);
            let approval = row.approval_decision.zip(row.approval_hash).map(|(decision_id, hash)| Approval {
                decision_id,
                plan_hash: PlanHash(hash),
                expires_at: row.approval_expires_at,
                revoked_at: row.revoked_at,
            });
            let plan = LockedPlan {
                key,
                tenant: row.tenant,
                currency: row.currency,
                dry: row.mode == Mode::Dry.as_str(),
                state: row.state.parse()?,
                plan_hash: PlanHash(row.plan_hash),
                budget_amount: row.budget_amount,
                approved_amount: row.approved_amount,
                deadline: row.deadline,
                approval,
                traceparent: row.traceparent,
                registered_at: row.registered_at,
                started_at: row.started_at,
                steps_total: row.steps_total,
                steps_done: row.steps_done,
                undos_open: row.undos_open,
                undo_begun: row.undo_begun,
                wake_at: row.wake_at,
                wait_reason: row.wait_reason,
                end_reason: row.end_reason,
                dirty: false,
                state_since: row.state_since,
                ended_at: row.ended_at,
                revoked_at: row.revoked_at,
                digest: row.digest,
            };
            Ok((key, plan))
        })
        .collect()
}

/// Writes the plans that changed, in one statement.
pub(crate) async fn write(
    conn: &mut PgConnection,
    plans: &BTreeMap<PlanKey, LockedPlan>,
) -> Result<(), StoreError> {
    let changed: Vec<&LockedPlan> = plans.values().filter(|plan| plan.dirty).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let written = sqlx::query!(
        "UPDATE execution_plan AS p
         SET state = n.state, state_since = n.state_since, started_at = n.started_at, ended_at = n.ended_at,
             steps_done = n.steps_done, undos_open = n.undos_open, undo_begun = n.undo_begun,
             wake_at = n.wake_at, wait_reason = n.wait_reason, end_reason = n.end_reason,
             revoked_at = n.revoked_at
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::timestamptz[], $5::timestamptz[],
                     $6::timestamptz[], $7::integer[], $8::integer[], $9::boolean[], $10::timestamptz[],
                     $11::text[], $12::text[], $13::timestamptz[])
              AS n (plan_id, plan_version, state, state_since, started_at, ended_at, steps_done, undos_open,
                    undo_begun, wake_at, wait_reason, end_reason, revoked_at)
         WHERE p.plan_id = n.plan_id AND p.plan_version = n.plan_version",
        &changed.iter().map(|p| p.key.plan_id).collect::<Vec<_>>(),
        &changed.iter().map(|p| p.key.plan_version).collect::<Vec<_>>(),
        &changed.iter().map(|p| p.state.as_str().to_owned()).collect::<Vec<_>>(),
        &changed.iter().map(|p| p.state_since).collect::<Vec<_>>(),
        &changed.iter().map(|p| p.started_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &changed.iter().map(|p| p.ended_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &changed.iter().map(|p| p.steps_done).collect::<Vec<_>>(),
        &changed.iter().map(|p| p.undos_open).collect::<Vec<_>>(),
        &changed.iter().map(|p| p.undo_begun).collect::<Vec<_>>(),
        &changed.iter().map(|p| p.wake_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &changed.iter().map(|p| p.wait_reason.clone()).collect::<Vec<_>>() as &[Option<String>],
        &changed.iter().map(|p| p.end_reason.clone()).collect::<Vec<_>>() as &[Option<String>],
        &changed.iter().map(|p| p.revoked_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
    )
    .execute(&mut *conn)
    .await?;
    assert_rows(written.rows_affected(), changed.len(), "plan")?;
    let over: Vec<Uuid> = changed.iter().filter(|p| p.state.is_end()).map(|p| p.key.plan_id).collect();
    if !over.is_empty() {
        // A pause ends with the last open version of its plan: a later version does not start paused.
        sqlx::query!(
            "DELETE FROM control_state c USING UNNEST($1::uuid[]) AS over (plan_id)
             WHERE c.scope = 'plan' AND c.subject = over.plan_id::text
               AND NOT EXISTS (SELECT FROM execution_plan p
                               WHERE p.plan_id = over.plan_id AND p.ended_at IS NULL)",
            &over,
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// Every guarded write says how many rows it must change.
pub(crate) fn assert_rows(changed: u64, expected: usize, what: &str) -> Result<(), StoreError> {
    if changed == expected as u64 {
        Ok(())
    } else {
        Err(StoreError::Corrupt(format!("{changed} {what} rows changed where {expected} were locked")))
    }
}
