//! Recorded decisions, as the log has them: what an audit makes again.

use dat_plan::PlanKey;
use serde_json::Value;
use uuid::Uuid;

use crate::error::StoreError;
use crate::pool::Store;

/// A decision in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedDecision {
    /// The plan.
    pub plan: PlanKey,
    /// The event's place in its log.
    pub sequence: i64,
    /// The event's routing key.
    pub kind: String,
    /// The step that it is about; none of an admission.
    pub step: Option<String>,
    /// The decision with its inputs, as it was logged.
    pub decision: Value,
}

impl Store {
    /// The decisions of the next plans after one, in the order of the log, and the last plan looked at; none when there
    /// is no further plan. Memory is bounded by what `plans` plans decided.
    pub async fn recorded_decisions(
        &self,
        after: Option<PlanKey>,
        only: Option<PlanKey>,
        plans: i64,
    ) -> Result<Option<(PlanKey, Vec<RecordedDecision>)>, StoreError> {
        let (id, version) = after.map_or((Uuid::nil(), 0), |plan| (plan.plan_id, plan.plan_version));
        let heads = sqlx::query!(
            "SELECT plan_id, plan_version, partition_date FROM event_stream
             WHERE (plan_id, plan_version) > ($1, $2)
               AND ($3::uuid IS NULL OR (plan_id = $3 AND plan_version = $4))
             ORDER BY plan_id, plan_version LIMIT $5",
            id,
            version,
            only.map(|plan| plan.plan_id),
            only.map(|plan| plan.plan_version),
            plans,
        )
        .fetch_all(self.pool())
        .await?;
        let Some(last) = heads.last() else { return Ok(None) };
        let last = PlanKey::new(last.plan_id, last.plan_version);
        let rows = sqlx::query!(
            r#"SELECT e.plan_id, e.plan_version, e.sequence, e.kind, e.data->>'step' AS step,
                    e.data->'decision' AS "decision!"
             FROM UNNEST($1::uuid[], $2::integer[], $3::date[]) AS h (plan_id, plan_version, partition_date)
             JOIN execution_event e USING (plan_id, plan_version, partition_date)
             WHERE jsonb_typeof(e.data->'decision') = 'object'
             ORDER BY e.plan_id, e.plan_version, e.sequence"#,
            &heads.iter().map(|h| h.plan_id).collect::<Vec<_>>(),
            &heads.iter().map(|h| h.plan_version).collect::<Vec<_>>(),
            &heads.iter().map(|h| h.partition_date).collect::<Vec<_>>(),
        )
        .fetch_all(self.pool())
        .await?;
        let decisions = rows.into_iter().map(|row| RecordedDecision {
            plan: PlanKey::new(row.plan_id, row.plan_version),
            sequence: row.sequence,
            kind: row.kind,
            step: row.step,
            decision: row.decision,
        });
        Ok(Some((last, decisions.collect())))
    }
}
