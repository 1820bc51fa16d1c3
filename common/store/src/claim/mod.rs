//! The claim: what may run next, in the order that priority and tenant fairness give, and the transaction that has
//! the last word on it.
//!
//! Two calls. [`Store::due`] looks, without a lock, at what is due. The caller asks what is outside the
//! database (Redis), and then calls [`Store::claim`], which locks the plans, reads approval, control and steps again,
//! runs the guards, reserves the budget and hands out leases, or writes why not.

mod candidate;
mod counting;
mod decision;
mod going_on;
mod postpone;
mod reading;
mod request;
mod turns;
mod writing;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use dat_plan::event::NewEvent;
use dat_plan::{PlanKey, UnitKey, UnitKind};
use serde_json::Value;

pub use candidate::{Candidate, Due};
pub use going_on::GoingOn;
pub use postpone::{Postponed, Untaken};
pub use request::{
    ClaimReport, ClaimRequest, Claimed, CountLock, Counting, Guard, GuardFacts, GuardVerdict, Needed,
    SpendCap, SpendFacts,
};
pub use turns::Turns;

pub(crate) use going_on::Lent;
pub(crate) use reading::Payers;

use crate::account::Ledger;
use crate::constraint_set::SetHeads;
use crate::control::Stops;
use crate::error::StoreError;
use crate::plan_row::{self, Contended, LockedPlan};
use crate::pool::Store;
use crate::runtime;

/// How the reason of every wait for a budget begins: what waits for one is told of once, not at every look.
pub const BUDGET_WAIT: &str = "budget: ";

impl Store {
    /// Claims, in the order asked. One transaction: leases, reservations and events are all written, or none.
    pub async fn claim(
        &self,
        requests: &[ClaimRequest<'_>],
        worker: &str,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<ClaimReport, StoreError> {
        let claimed = self.claim_in_era(requests, None, worker, until, now).await?;
        Ok(claimed.unwrap_or_default())
    }

    /// As [`Store::claim`], for what counts on token windows of this era of Redis; nothing is done, and `None` given,
    /// where the era is over.
    pub async fn claim_in_era(
        &self,
        requests: &[ClaimRequest<'_>],
        era: Option<i64>,
        worker: &str,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Option<ClaimReport>, StoreError> {
        let mut tx = self.begin().await?;
        let looked_at = looked_at(requests);
        let wanted = requests.iter().map(|request| request.unit().plan);
        let plans = plan_row::lock_and_look(&mut tx, wanted, Contended::Skip, &looked_at).await?;
        if let Some(era) = era
            && !runtime::holds(&mut tx, era).await?
        {
            return Ok(None);
        }
        let mut claim = Claim::read(&mut tx, requests, plans, Term { worker, until, now }).await?;
        for request in requests {
            claim.decide(request)?;
        }
        claim.settle_refusals(&mut tx).await?;
        claim.write(&mut tx).await?;
        dat_fault::around("claim", tx.commit()).await?;
        claim.report.accounts = claim.ledger.views();
        Ok(Some(claim.report))
    }
}

/// Of which plans a claim looks whether their stored document and verdict are what the worker read.
pub(crate) fn looked_at(requests: &[ClaimRequest<'_>]) -> BTreeSet<PlanKey> {
    let looks = requests.iter().filter_map(|request| match request {
        ClaimRequest::Run { unit, seal, .. } if unit.kind == UnitKind::Action && seal.digest.is_some() => {
            Some(unit.plan)
        }
        _ => None,
    });
    looks.collect()
}

/// For whom a claim is made, until when, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term<'a> {
    pub(crate) worker: &'a str,
    pub(crate) until: DateTime<Utc>,
    pub(crate) now: DateTime<Utc>,
}

/// A unit's row as it is under the lock.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) step_key: String,
    pub(crate) connector: String,
    pub(crate) action: String,
    pub(crate) attempts: i32,
    pub(crate) key_number: i32,
    pub(crate) epoch: i64,
    pub(crate) ready_at: DateTime<Utc>,
    pub(crate) wait_reason: Option<String>,
}

enum Change {
    Run { attempt: i32, epoch: i64, key: String, counted_as: Vec<String> },
    Wait { until: DateTime<Utc>, reason: String, rate_slot: Option<DateTime<Utc>> },
    Refuse { reason: String },
}

/// A refusal that is final only if what undos hold does not leave room either.
struct Short {
    unit: UnitKey,
    need: i64,
    reason: String,
}

struct Claim {
    plans: BTreeMap<PlanKey, LockedPlan>,
    stops: Stops,
    rows: BTreeMap<UnitKey, Row>,
    results: BTreeMap<PlanKey, BTreeMap<i32, (String, Value)>>,
    forward_keys: BTreeMap<UnitKey, String>,
    levels: BTreeMap<(String, String), Vec<i64>>,
    /// The accounts of `spend` rules, and what of them undos hold.
    caps: counting::Caps,
    undos_held: BTreeMap<i64, i64>,
    /// What runs, by counter; what this claim takes is added.
    running: BTreeMap<String, i64>,
    operators: SetHeads,
    ledger: Ledger,
    changes: BTreeMap<UnitKey, Change>,
    short: Vec<Short>,
    events: Vec<NewEvent>,
    report: ClaimReport,
    worker: String,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
}
