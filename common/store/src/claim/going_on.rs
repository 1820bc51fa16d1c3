//! Going on: the transaction that completes a step claims its successor, through the full claim path: the same locks, the
//! same decision, the same rows and events. No message, one commit a step.
//!
//! **Owns** what a claim is within a settlement. **May be called** by `settle`, which has locked plans, steps and accounts,
//! those of the claim among them, and writes them, the plans and the log once for both. **Must never** take a unit that
//! this settlement did not make ready: who is next among all that is due is [`Store::due`](crate::Store::due)'s to say.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dat_plan::event::NewEvent;
use dat_plan::{PlanState, UnitKey};

use super::reading::{Held, Payers};
use super::{Claim, ClaimReport, ClaimRequest, Row, Term};
use crate::account::Ledger;
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::plan_row::LockedPlan;

/// What a settlement goes on with.
#[derive(Clone, Copy)]
pub struct GoingOn<'a> {
    /// What is asked for the units that may become ready; what does not is left alone.
    pub requests: &'a [ClaimRequest<'a>],
    /// The era of Redis in which token windows were reserved; where it is over, nothing is claimed.
    pub era: Option<i64>,
    /// The worker.
    pub worker: &'a str,
    /// Until when the leases hold.
    pub until: DateTime<Utc>,
}

/// What a settlement lends to a claim and takes back.
#[derive(Default)]
pub(crate) struct Lent {
    pub(crate) plans: BTreeMap<dat_plan::PlanKey, LockedPlan>,
    pub(crate) ledger: Ledger,
    pub(crate) events: Vec<NewEvent>,
}

impl GoingOn<'_> {
    /// Claims those of `ready` that are asked for. Writes steps and attempts; gives back what it was lent, with its own
    /// changes, to be written.
    pub(crate) async fn claim(
        &self,
        conn: &mut PgConnection,
        mut ready: BTreeMap<UnitKey, Row>,
        payers: Payers,
        lent: Lent,
        now: DateTime<Utc>,
    ) -> Result<(ClaimReport, Lent), StoreError> {
        let Lent { plans, ledger, mut events } = lent;
        // What waits while its plan is paused, or is being unwound, is nobody's to claim.
        let runs =
            |unit: &UnitKey| plans.get(&unit.plan).is_some_and(|plan| plan.state == PlanState::Executing);
        ready.retain(|unit, _| runs(unit));
        if ready.is_empty() {
            return Ok((ClaimReport::default(), Lent { plans, ledger, events }));
        }
        let held = Held { plans, rows: ready, payers, ledger };
        let term = Term { worker: self.worker, until: self.until, now };
        let mut claim = Claim::of(conn, self.requests, held, term).await?;
        for request in self.requests {
            claim.decide(request)?;
        }
        claim.settle_refusals(conn).await?;
        claim.write_units(conn).await?;
        events.append(&mut claim.events);
        events.append(&mut claim.ledger.events);
        Ok((claim.report, Lent { plans: claim.plans, ledger: claim.ledger, events }))
    }
}
