//! How a plan ends: completed, or unwound and aborted; either way with every reservation closed.

use chrono::{DateTime, Utc};
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::{PlanDocument, PlanState, StepState};
use serde_json::json;

use crate::account::Ledger;
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::plan_row::LockedPlan;

/// Who approves plans: governance alone.
const APPROVER: &str = "ggp";

/// Stops a plan that has started: nothing forward is claimed any more, and what never ran is skipped. The undos are
/// registered by the Rollback Coordinator, once nothing is in flight; it is due at once.
pub(crate) async fn start_rollback(
    conn: &mut PgConnection,
    plan: &mut LockedPlan,
    reason: &str,
    events: &mut Vec<NewEvent>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    events.push(plan.enter(PlanState::RollingBack, reason, now)?);
    plan.wake(Some(now));
    sqlx::query!(
        "UPDATE rollback_policy SET begun_at = coalesce(begun_at, $3) WHERE plan_id = $1 AND plan_version = $2",
        plan.key.plan_id,
        plan.key.plan_version,
        now,
    )
    .execute(&mut *conn)
    .await?;
    skip_unstarted(conn, plan, reason, events, now).await
}

/// Ends a plan that never started: nothing to undo.
pub(crate) async fn abort_unstarted(
    conn: &mut PgConnection,
    plan: &mut LockedPlan,
    reason: &str,
    events: &mut Vec<NewEvent>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    skip_unstarted(conn, plan, reason, events, now).await?;
    let aborted = plan.enter(PlanState::Aborted, reason, now)?;
    let aborted = with_forecast(conn, plan, aborted).await?;
    events.push(with_summary(plan, aborted, 0, now));
    Ok(())
}

async fn skip_unstarted(
    conn: &mut PgConnection,
    plan: &LockedPlan,
    reason: &str,
    events: &mut Vec<NewEvent>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        r#"UPDATE execution_step
         SET state = CASE WHEN sent THEN 'failed' ELSE 'skipped' END, ended_at = $3, wait_reason = NULL
         WHERE plan_id = $1 AND plan_version = $2 AND kind = 'action' AND state IN ('pending', 'ready')
         RETURNING step_index, step_key, connector, action, attempts, state,
                   coalesce(last_outcome, 'refused') AS "outcome!""#,
        plan.key.plan_id,
        plan.key.plan_version,
        now,
    )
    .fetch_all(&mut *conn)
    .await?;
    // What failed and was not decided needs no decision any more: the plan's end is decided.
    sqlx::query!(
        "UPDATE execution_step SET needs_decision = false
         WHERE plan_id = $1 AND plan_version = $2 AND kind = 'action' AND state = 'failed' AND needs_decision",
        plan.key.plan_id,
        plan.key.plan_version,
    )
    .execute(&mut *conn)
    .await?;
    let mut skipped: Vec<_> = rows.into_iter().collect();
    skipped.sort_by_key(|row| row.step_index);
    for row in skipped {
        let state: StepState = row.state.parse()?;
        let mut event = plan.event(EventKind::Step(state), now).step(&row.step_key, row.attempts);
        if state == StepState::Failed {
            // It was to be tried again, and will not be.
            event = event
                .with("connector", row.connector)
                .with("action", row.action)
                .with("outcome", row.outcome)
                .with("duration_ms", 0)
                .with("queued_ms", 0)
                .with("attempts", row.attempts)
                .with("cost", 0);
        }
        events.push(event.because(reason));
    }
    Ok(())
}

/// The plan's last event but for its archiving: closes every reservation and takes the last budget snapshot.
pub(crate) async fn end(
    conn: &mut PgConnection,
    ledger: &mut Ledger,
    plan: &mut LockedPlan,
    state: PlanState,
    now: DateTime<Utc>,
) -> Result<NewEvent, StoreError> {
    ledger.close(conn, plan).await?;
    let (_, account) = ledger.plan_account(plan.key)?;
    let reason = plan.end_reason.clone().unwrap_or_default();
    let ended = plan.enter(state, &reason, now)?;
    snapshot(conn, &[(plan, account)], "ended", now).await?;
    if state == PlanState::Aborted {
        sqlx::query!(
            "UPDATE rollback_policy SET ended_at = $3
             WHERE plan_id = $1 AND plan_version = $2 AND begun_at IS NOT NULL",
            plan.key.plan_id,
            plan.key.plan_version,
            now,
        )
        .execute(&mut *conn)
        .await?;
    }
    let ended = with_forecast(conn, plan, ended).await?;
    Ok(with_summary(plan, ended, account.settled, now))
}

/// What the end of a dry run tells besides: what the plan may cost when it is live, which steps of it cannot be undone,
/// and who must approve it. A live plan is another document with another hash, so that an approval of this one is none.
async fn with_forecast(
    conn: &mut PgConnection,
    plan: &LockedPlan,
    event: NewEvent,
) -> Result<NewEvent, StoreError> {
    if !plan.dry {
        return Ok(event);
    }
    let row = sqlx::query!(
        "SELECT document FROM execution_plan WHERE plan_id = $1 AND plan_version = $2",
        plan.key.plan_id,
        plan.key.plan_version,
    )
    .fetch_one(conn)
    .await?;
    // An altered document runs nothing, and its plan must end all the same.
    let Ok(document) = serde_json::from_slice::<PlanDocument>(&row.document) else { return Ok(event) };
    Ok(event
        .with("cost", json!(document.cost_range()))
        .with("irreversible", json!(document.irreversible()))
        .with("approvals_needed", json!([APPROVER])))
}

/// Plans' accounts at a moment.
pub(crate) async fn snapshot(
    conn: &mut PgConnection,
    accounts: &[(&LockedPlan, dat_plan::budget::Account)],
    moment: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO budget_snapshot
             (plan_id, plan_version, moment, limit_amount, settled, reserved, currency, taken_at)
         SELECT plan_id, plan_version, $7, limit_amount, settled, reserved, currency, $8
         FROM UNNEST($1::uuid[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[])
              AS n (plan_id, plan_version, limit_amount, settled, reserved, currency)",
        &accounts.iter().map(|(plan, _)| plan.key.plan_id).collect::<Vec<_>>(),
        &accounts.iter().map(|(plan, _)| plan.key.plan_version).collect::<Vec<_>>(),
        &accounts.iter().map(|(_, account)| account.limit).collect::<Vec<_>>(),
        &accounts.iter().map(|(_, account)| account.settled).collect::<Vec<_>>(),
        &accounts.iter().map(|(_, account)| account.reserved).collect::<Vec<_>>(),
        &accounts.iter().map(|(plan, _)| plan.currency.clone()).collect::<Vec<_>>(),
        moment,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

fn with_summary(plan: &LockedPlan, event: NewEvent, spent: i64, now: DateTime<Utc>) -> NewEvent {
    let since = plan.started_at.unwrap_or(plan.registered_at);
    event
        .with("steps", plan.steps_total)
        .with("steps_done", plan.steps_done)
        .with("duration_ms", (now - since).num_milliseconds())
        .with("spent", spent)
        .with("currency", plan.currency.as_str())
}
