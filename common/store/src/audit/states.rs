//! States: what a plan's log replays to is what its rows say.

use std::collections::BTreeMap;

use dat_plan::replay::Replay;
use dat_plan::{PlanKey, UnitKind};
use uuid::Uuid;

use crate::connection::PgConnection;
use crate::error::StoreError;

/// Where a plan's rows say that it and its units stand.
#[derive(Debug, Default)]
pub(super) struct Standing {
    plan: String,
    units: Vec<(UnitKind, String, String)>,
}

impl Standing {
    /// Where the plan stands.
    pub(super) fn plan(&self) -> &str {
        &self.plan
    }

    /// Where its units stand, steps before undos, each in the plan's order.
    pub(super) fn units(&self) -> impl Iterator<Item = (UnitKind, &str, &str)> {
        self.units.iter().map(|(kind, step, state)| (*kind, step.as_str(), state.as_str()))
    }
}

/// Where plans stand. A plan that was never registered has no row, and is left out.
pub(super) async fn standing(
    conn: &mut PgConnection,
    ids: &[Uuid],
    versions: &[i32],
) -> Result<BTreeMap<PlanKey, Standing>, StoreError> {
    let mut plans: BTreeMap<PlanKey, Standing> = sqlx::query!(
        "SELECT p.plan_id, p.plan_version, p.state
         FROM UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version)
         JOIN execution_plan p USING (plan_id, plan_version)",
        ids,
        versions,
    )
    .fetch_all(&mut *conn)
    .await?
    .into_iter()
    .map(|row| {
        let standing = Standing { plan: row.state, units: Vec::new() };
        (PlanKey::new(row.plan_id, row.plan_version), standing)
    })
    .collect();
    let units = sqlx::query!(
        "SELECT s.plan_id, s.plan_version, s.kind, s.step_key, s.state
         FROM UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version)
         JOIN execution_step s USING (plan_id, plan_version)
         ORDER BY s.plan_id, s.plan_version, s.kind, s.step_index",
        ids,
        versions,
    )
    .fetch_all(conn)
    .await?;
    for unit in units {
        if let Some(plan) = plans.get_mut(&PlanKey::new(unit.plan_id, unit.plan_version)) {
            plan.units.push((unit.kind.parse()?, unit.step_key, unit.state));
        }
    }
    Ok(plans)
}

/// Compares the replayed states of a plan and its units with their rows, and with each other.
pub(super) fn compare(standing: &Standing, replay: &Replay, faults: &mut Vec<String>) {
    let replayed = replay.plan().map_or("in no state", |state| state.as_str());
    if replayed != standing.plan {
        faults.push(format!("the plan is {}, its events say {replayed}", standing.plan));
    }
    for (kind, key, state) in &standing.units {
        let (name, replayed) = match kind {
            UnitKind::Action => ("step", replay.step(key)),
            UnitKind::Undo => ("the undo of", replay.undo(key)),
        };
        if replayed.as_str() != state {
            faults.push(format!("{name} {key} is {state}, its events say {replayed}"));
        }
    }
    faults.extend(replay.contradiction());
}
