//! Replaying: where a plan and its units stand by its events alone, beside where their rows say.

use dat_plan::event::LoggedEvent;
use dat_plan::{PlanKey, PlanState, StepState, UnitKind};
use serde::Serialize;

use super::{Chain, money, states};
use crate::error::StoreError;
use crate::pool::Store;

/// What a plan's events come to.
#[derive(Debug, Clone, Serialize)]
pub struct Replayed {
    /// The plan version.
    pub plan: PlanKey,
    /// How many events it has.
    pub events: u64,
    /// Where it stands by them; nothing before the first.
    pub state: Option<PlanState>,
    /// Where its row says.
    pub row: String,
    /// What it spent by them, net of refunds.
    pub spent: i64,
    /// Its steps and undos that have rows, in order.
    pub units: Vec<ReplayedUnit>,
    /// Where events and rows differ, and what is impossible in either.
    pub faults: Vec<String>,
}

/// A step or an undo.
#[derive(Debug, Clone, Serialize)]
pub struct ReplayedUnit {
    /// Which of the two.
    pub kind: UnitKind,
    /// The step's key.
    pub step: String,
    /// Where it stands by its events.
    pub state: StepState,
    /// Where its row says.
    pub row: String,
}

impl Store {
    /// Rebuilds a plan's state from its events alone, and compares it with its rows; none where it was never
    /// registered.
    pub async fn replay(&self, plan: PlanKey) -> Result<Option<Replayed>, StoreError> {
        let mut tx = self.begin_snapshot().await?;
        let (ids, versions) = ([plan.plan_id], [plan.plan_version]);
        let Some(standing) = states::standing(&mut tx, &ids, &versions).await?.remove(&plan) else {
            return Ok(None);
        };
        let books = money::books(&mut tx, &ids, &versions).await?.remove(&plan).unwrap_or_default();
        let rows = sqlx::query!(
            "SELECT e.sequence, e.kind, e.at, e.data, e.hash
             FROM event_stream s JOIN execution_event e USING (partition_date, plan_id, plan_version)
             WHERE s.plan_id = $1 AND s.plan_version = $2 ORDER BY e.sequence",
            plan.plan_id,
            plan.plan_version,
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut chain = Chain::default();
        let events = rows.len() as u64;
        for row in rows {
            let event =
                LoggedEvent { plan, sequence: row.sequence, kind: row.kind, at: row.at, data: row.data };
            chain.follow(&event, &row.hash)?;
        }
        states::compare(&standing, &chain.replay, &mut chain.faults);
        money::compare(&books, &chain.amounts, &mut chain.faults);
        let of = |wanted: &str| -> i64 {
            chain.amounts.iter().filter(|((kind, ..), _)| kind == wanted).map(|(_, amount)| *amount).sum()
        };
        let units = standing.units().map(|(kind, step, row)| ReplayedUnit {
            kind,
            step: step.to_owned(),
            state: if kind == UnitKind::Undo { chain.replay.undo(step) } else { chain.replay.step(step) },
            row: row.to_owned(),
        });
        Ok(Some(Replayed {
            plan,
            events,
            state: chain.replay.plan(),
            row: standing.plan().to_owned(),
            spent: of("spend.incurred") - of("refund.issued"),
            units: units.collect(),
            faults: chain.faults,
        }))
    }
}
