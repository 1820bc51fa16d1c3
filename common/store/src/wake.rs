//! Waking what was put off because of a connector, when what put it off is over.
//!
//! **Called** by operators' acts, within their transactions. **Must never** change anything but the moment at which a unit
//! is looked at again: whatever held it is asked anew. Like [`crate::Store::postpone`] it locks no plan.

use chrono::{DateTime, Utc};

use crate::connection::PgConnection;
use crate::error::StoreError;

/// How the reason begins of whatever waits for a connector's breaker, be it open or forced open.
#[must_use]
pub fn breaker_wait(connector: &str) -> String {
    format!("the breaker of connector {connector} is ")
}

/// How the reason begins of whatever waits for a connector that is disabled.
pub(crate) fn disabled_wait(connector: &str) -> String {
    format!("connector {connector} is disabled")
}

/// Has units of a connector that wait for a reason that begins so be looked at now: steps, undos, and outcomes that are to
/// be probed. One that a transaction holds just now is being looked at, and is left to that.
pub(crate) async fn wake(
    conn: &mut PgConnection,
    connector: &str,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let woken = sqlx::query!(
        "WITH asleep AS MATERIALIZED (
             SELECT s.plan_id, s.plan_version, s.kind, s.step_index FROM execution_step s
             WHERE s.connector = $1 AND (s.state = 'ready' OR s.needs_decision AND s.state = 'unknown')
               AND s.not_before > $3 AND starts_with(s.wait_reason, $2)
             ORDER BY s.plan_id, s.plan_version, s.kind, s.step_index
             FOR NO KEY UPDATE OF s SKIP LOCKED)
         UPDATE execution_step AS s SET not_before = $3
         FROM asleep
         WHERE s.plan_id = asleep.plan_id AND s.plan_version = asleep.plan_version AND s.kind = asleep.kind
           AND s.step_index = asleep.step_index",
        connector,
        reason,
        now,
    )
    .execute(conn)
    .await?;
    Ok(woken.rows_affected())
}
