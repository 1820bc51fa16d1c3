//! What people and the live copies are shown. Reads only.

use chrono::{DateTime, Utc};
use dat_plan::{PlanKey, PlanState, Progress, StepState};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::error::StoreError;
use crate::pool::Store;

/// A plan version in one line.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PlanSummary {
    /// Which.
    pub plan: PlanKey,
    /// Who pays.
    pub tenant: String,
    /// For people.
    pub name: String,
    /// Where it stands.
    pub state: PlanState,
    /// Steps completed.
    pub steps_done: i32,
    /// Steps of the document.
    pub steps_total: i32,
    /// Spent, net of refunds, smallest unit.
    pub spent: i64,
    /// Held by open reservations.
    pub reserved: i64,
    /// The most it may spend.
    pub limit: i64,
    /// Of what.
    pub currency: String,
    /// What it waits for, or why it ended.
    pub reason: Option<String>,
    /// How far one of its long actions is.
    pub progress: Option<String>,
    /// The last event it reflects.
    pub sequence: i64,
    /// When it came to its state.
    pub state_since: DateTime<Utc>,
}

/// One step or undo.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct StepView {
    /// `action` or `undo`.
    pub kind: String,
    /// Its index.
    pub index: i32,
    /// Its key.
    pub key: String,
    /// Its connector.
    pub connector: String,
    /// Its action.
    pub action: String,
    /// Where it stands.
    pub state: StepState,
    /// How many of its needs have not completed.
    pub waits_for: i32,
    /// Attempts started.
    pub attempts: i32,
    /// What all of them cost.
    pub cost: i64,
    /// What came back.
    pub refund: i64,
    /// Not before.
    pub not_before: DateTime<Utc>,
    /// Why it waits.
    pub wait_reason: Option<String>,
    /// The last message for people.
    pub detail: Option<String>,
    /// Who holds or last held the lease.
    pub worker: Option<String>,
    /// Until when the lease holds.
    pub lease_until: Option<DateTime<Utc>>,
    /// What the connector answered.
    pub result: Option<Value>,
}

/// One attempt.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct AttemptView {
    /// `action` or `undo`.
    pub kind: String,
    /// The unit's index.
    pub index: i32,
    /// From 1.
    pub attempt: i32,
    /// Who tried.
    pub worker: String,
    /// Under which key.
    pub idempotency_key: String,
    /// When.
    pub started_at: DateTime<Utc>,
    /// Its request left before this, or never; none where that was not noted.
    pub send_before: Option<DateTime<Utc>>,
    /// Until when.
    pub ended_at: Option<DateTime<Utc>>,
    /// How it ended.
    pub outcome: Option<String>,
    /// For people.
    pub detail: Option<String>,
    /// How far it is, or was when it ended, by its connector's word; none where that says nothing.
    pub progress: Option<Progress>,
    /// When that was stored.
    pub progress_at: Option<DateTime<Utc>>,
}

/// A plan version, whole.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PlanView {
    /// In one line.
    pub summary: PlanSummary,
    /// The hash that an approval must name.
    pub plan_hash: String,
    /// Governance's decision.
    pub approval_decision: Option<String>,
    /// Until when it holds.
    pub approval_expires_at: Option<DateTime<Utc>>,
    /// Who submitted it, as the broker validated it; none where the broker was told none.
    pub submitter: Option<String>,
    /// The version that it supersedes.
    pub supersedes: Option<i32>,
    /// Versions that supersede it.
    pub superseded_by: Vec<i32>,
    /// When it was registered.
    pub registered_at: DateTime<Utc>,
    /// Its steps, then its undos.
    pub steps: Vec<StepView>,
    /// Every attempt.
    pub attempts: Vec<AttemptView>,
}

impl Store {
    /// Plan versions in one line each, in the order asked; unknown ones are left out.
    pub async fn summaries(&self, plans: &[PlanKey]) -> Result<Vec<PlanSummary>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT p.plan_id, p.plan_version, p.tenant, p.name, p.state, p.steps_done, p.steps_total,
                    coalesce(a.settled, 0) AS "spent!", coalesce(a.reserved, 0) AS "reserved!",
                    coalesce(a.limit_amount, p.approved_amount, p.budget_amount) AS "limit!", p.currency,
                    coalesce(p.wait_reason, p.end_reason, w.reason) AS reason, r.progress, e.last_sequence,
                    p.state_since
             FROM UNNEST($1::uuid[], $2::integer[]) WITH ORDINALITY AS k (plan_id, plan_version, place)
             JOIN execution_plan p USING (plan_id, plan_version)
             JOIN event_stream e USING (plan_id, plan_version)
             LEFT JOIN budget_account a USING (plan_id, plan_version)
             -- What the plan waits for is what one of its steps waits for: the first that is found, of thousands perhaps.
             LEFT JOIN LATERAL (
                 SELECT s.step_key || ': ' || s.wait_reason AS reason FROM execution_step s
                 WHERE s.plan_id = p.plan_id AND s.plan_version = p.plan_version AND p.ended_at IS NULL
                   AND s.state IN ('ready', 'unknown', 'stuck') AND s.wait_reason IS NOT NULL
                 LIMIT 1) AS w ON true
             -- How far it is, of one that runs and says so. By the index of what runs: few do.
             LEFT JOIN LATERAL (
                 SELECT s.step_key || ': ' || concat_ws(', ',
                            coalesce(t.progress_done || ' of ' || t.progress_total, t.progress_done || ' done',
                                     t.progress_total || ' to do'),
                            t.progress_message) AS progress
                 FROM execution_step s
                 JOIN step_attempt t
                   ON t.plan_id = s.plan_id AND t.plan_version = s.plan_version AND t.kind = s.kind
                  AND t.step_index = s.step_index AND t.attempt = s.attempts
                 WHERE s.plan_id = p.plan_id AND s.plan_version = p.plan_version AND p.ended_at IS NULL
                   AND s.state = 'running' AND t.progress_at IS NOT NULL
                 LIMIT 1) AS r ON true
             ORDER BY k.place"#,
            &plans.iter().map(|p| p.plan_id).collect::<Vec<_>>(),
            &plans.iter().map(|p| p.plan_version).collect::<Vec<_>>(),
        )
        .fetch_all(self.pool())
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(PlanSummary {
                    plan: PlanKey::new(row.plan_id, row.plan_version),
                    tenant: row.tenant,
                    name: row.name,
                    state: row.state.parse()?,
                    steps_done: row.steps_done,
                    steps_total: row.steps_total,
                    spent: row.spent,
                    reserved: row.reserved,
                    limit: row.limit,
                    currency: row.currency,
                    reason: row.reason,
                    progress: row.progress,
                    sequence: row.last_sequence,
                    state_since: row.state_since,
                })
            })
            .collect()
    }

    /// The newest version of a plan, if it is registered.
    pub async fn newest_version(&self, plan_id: Uuid) -> Result<Option<PlanKey>, StoreError> {
        let version = sqlx::query_scalar!(
            "SELECT plan_version FROM execution_plan WHERE plan_id = $1 ORDER BY plan_version DESC LIMIT 1",
            plan_id
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(version.map(|version| PlanKey::new(plan_id, version)))
    }

    /// A plan version, whole.
    pub async fn plan(&self, plan: PlanKey) -> Result<Option<PlanView>, StoreError> {
        let Some(summary) = self.summaries(&[plan]).await?.pop() else { return Ok(None) };
        let row = sqlx::query!(
            r#"SELECT p.plan_hash, p.approval_decision, p.approval_expires_at, p.registered_at, p.supersedes,
                    p.submitter,
                    ARRAY(SELECT n.plan_version FROM execution_plan n
                          WHERE n.plan_id = p.plan_id AND n.supersedes = p.plan_version
                          ORDER BY n.plan_version) AS "superseded_by!"
             FROM execution_plan p WHERE p.plan_id = $1 AND p.plan_version = $2"#,
            plan.plan_id,
            plan.plan_version
        )
        .fetch_one(self.pool())
        .await?;
        let steps = sqlx::query!(
            "SELECT kind, step_index, step_key, connector, action, state, waits_for, attempts, cost, refund, not_before,
                    wait_reason, detail, worker, lease_until, result
             FROM execution_step WHERE plan_id = $1 AND plan_version = $2 ORDER BY kind, step_index",
            plan.plan_id,
            plan.plan_version
        )
        .fetch_all(self.pool())
        .await?
        .into_iter()
        .map(|row| {
            Ok(StepView {
                kind: row.kind,
                index: row.step_index,
                key: row.step_key,
                connector: row.connector,
                action: row.action,
                state: row.state.parse()?,
                waits_for: row.waits_for,
                attempts: row.attempts,
                cost: row.cost,
                refund: row.refund,
                not_before: row.not_before,
                wait_reason: row.wait_reason,
                detail: row.detail,
                worker: row.worker,
                lease_until: row.lease_until,
                result: row.result,
            })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
        let attempts = sqlx::query!(
            "SELECT kind, step_index, attempt, worker, idempotency_key, started_at, send_before, ended_at, outcome,
                    detail, progress_done, progress_total, progress_message, progress_at
             FROM step_attempt WHERE plan_id = $1 AND plan_version = $2 ORDER BY started_at, kind, step_index",
            plan.plan_id,
            plan.plan_version
        )
        .fetch_all(self.pool())
        .await?
        .into_iter()
        .map(|row| AttemptView {
            kind: row.kind,
            index: row.step_index,
            attempt: row.attempt,
            worker: row.worker,
            idempotency_key: row.idempotency_key,
            started_at: row.started_at,
            send_before: row.send_before,
            ended_at: row.ended_at,
            outcome: row.outcome,
            detail: row.detail,
            progress: row.progress_at.map(|_| Progress {
                done: row.progress_done,
                total: row.progress_total,
                message: row.progress_message,
            }),
            progress_at: row.progress_at,
        })
        .collect();
        Ok(Some(PlanView {
            summary,
            plan_hash: row.plan_hash,
            approval_decision: row.approval_decision,
            approval_expires_at: row.approval_expires_at,
            submitter: row.submitter,
            supersedes: row.supersedes,
            superseded_by: row.superseded_by,
            registered_at: row.registered_at,
            steps,
            attempts,
        }))
    }
}
