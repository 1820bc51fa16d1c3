//! States: what a plan's log replays to is what its rows say.

use dat_plan::{PlanKey, UnitKind};

use super::Chain;
use crate::connection::PgConnection;
use crate::error::StoreError;

/// Compares the replayed states of a plan and its units with their rows, and with each other.
pub(super) async fn compare(
    conn: &mut PgConnection,
    plan: PlanKey,
    chain: &mut Chain,
) -> Result<(), StoreError> {
    let row = sqlx::query!(
        "SELECT state FROM execution_plan WHERE plan_id = $1 AND plan_version = $2",
        plan.plan_id,
        plan.plan_version
    )
    .fetch_optional(&mut *conn)
    .await?;
    // A plan that was never registered has no row, and its stream is named by what is missing of it.
    let Some(row) = row else { return Ok(()) };
    let replayed = chain.replay.plan().map_or("in no state", |state| state.as_str());
    if replayed != row.state {
        chain.faults.push(format!("the plan is {}, its events say {replayed}", row.state));
    }
    let units = sqlx::query!(
        "SELECT kind, step_key, state FROM execution_step WHERE plan_id = $1 AND plan_version = $2
         ORDER BY kind, step_index",
        plan.plan_id,
        plan.plan_version
    )
    .fetch_all(conn)
    .await?;
    for unit in units {
        let (name, replayed) = match unit.kind.parse()? {
            UnitKind::Action => ("step", chain.replay.step(&unit.step_key)),
            UnitKind::Undo => ("the undo of", chain.replay.undo(&unit.step_key)),
        };
        if replayed.as_str() != unit.state {
            let key = unit.step_key;
            chain.faults.push(format!("{name} {key} is {}, its events say {replayed}", unit.state));
        }
    }
    chain.faults.extend(chain.replay.contradiction());
    Ok(())
}
