//! What a claim is asked, what its guards see and say, and what it did.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use dat_plan::UnitKey;
use dat_plan::budget::Account;
use dat_plan::constraint::SpendPeriod;
use serde_json::{Map, Value};

use crate::account::AccountView;
use crate::constraint_set::SetHead;
use crate::lease::Lease;
use crate::seal::Seal;

/// Which results of other steps a claim needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needed {
    /// Those of these steps, by index.
    Steps(Vec<i32>),
    /// Those of every completed step: a predicate names `results`.
    All,
}

/// What rules that count must have counted for a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counting {
    /// The accounts of `spend` rules that its cost counts against.
    pub caps: Vec<SpendCap>,
    /// Whose rules count what runs.
    pub running: Vec<CountLock>,
}

/// An amount that a step's cost counts against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendCap {
    /// What is counted together.
    pub key: String,
    /// In how long.
    pub period: SpendPeriod,
    /// The most, in the smallest unit of the plan's currency.
    pub max: i64,
    /// Whether it is the plan's own rule: then what undos hold is told apart.
    pub own: bool,
}

/// Whose rules count what runs, and so which lock keeps two claims from counting the same room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CountLock {
    /// The fleet's.
    Fleet,
    /// The tenant's.
    Tenant,
    /// The plan's own: its row is locked.
    Plan,
}

/// What is on the account of a `spend` rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpendFacts {
    /// The account.
    pub account: i64,
    /// Settled, net of refunds.
    pub settled: i64,
    /// Held by open reservations.
    pub reserved: i64,
    /// The part of it held for undos; counted for a plan's own rules in all.
    pub undos: i64,
}

/// What the runtime guards look at, read under lock.
#[derive(Debug)]
pub struct GuardFacts<'a> {
    /// Now.
    pub now: DateTime<Utc>,
    /// The attempt that is about to be made.
    pub attempt: i32,
    /// The plan's account.
    pub account: Account,
    /// Of a dry run, which reserves nothing: its tenant's accounts, by the period's word.
    pub tenants: &'a [(String, Account)],
    /// The plan's currency.
    pub currency: &'a str,
    /// The results asked for, by step key.
    pub results: &'a Map<String, Value>,
    /// What the attempt would reserve: its action's part, and its undo's where none is held yet.
    pub need: i64,
    /// The newest operator sets that bind the plan: the fleet's, then the tenant's.
    pub operators: &'a [SetHead],
    /// How many attempts run or are unknown, by counter.
    pub running: &'a BTreeMap<String, i64>,
    /// What is on the accounts of the `spend` rules asked for, by key.
    pub spent: &'a BTreeMap<String, SpendFacts>,
}

/// What the runtime guards say.
#[derive(Debug, Clone, PartialEq)]
pub enum GuardVerdict {
    /// Go; the decision is logged, and each violation of a soft rule is flagged.
    Go {
        /// The decision with its inputs.
        decision: Value,
        /// Violated soft rules.
        violations: Vec<Value>,
        /// The counters that count it while it runs.
        counted_as: Vec<String>,
    },
    /// The caller has not the newest operator set: nothing is decided, to be asked again with it.
    Stale,
    /// Not now.
    Wait {
        /// When it can have changed.
        until: DateTime<Utc>,
        /// For people.
        reason: String,
        /// The decision with its inputs.
        decision: Value,
    },
    /// Never.
    Deny {
        /// For people.
        reason: String,
        /// The decision with its inputs.
        decision: Value,
        /// Violated rules.
        violations: Vec<Value>,
    },
}

/// The runtime guards of one step, pure: asked under lock, so that they see what is true when the claim commits.
pub trait Guard: Send + Sync {
    /// Decides.
    fn decide(&self, facts: &GuardFacts<'_>) -> GuardVerdict;
}

/// What is asked for a candidate.
pub enum ClaimRequest<'a> {
    /// To run it.
    Run {
        /// The unit.
        unit: UnitKey,
        /// What was approved, as the worker found it that will execute it.
        seal: Arc<Seal>,
        /// The most the action may cost (an undo: not asked).
        max_cost: i64,
        /// The most its undo may cost.
        undo_max_cost: i64,
        /// The results it needs.
        needs: Needed,
        /// What the rules that count must have counted.
        counting: Counting,
        /// The runtime guards; none for an undo.
        guard: Option<&'a dyn Guard>,
    },
    /// To let it wait.
    Defer {
        /// The unit.
        unit: UnitKey,
        /// Until when.
        until: DateTime<Utc>,
        /// Why.
        reason: String,
        /// The slot that the rate limit gave.
        rate_slot: Option<DateTime<Utc>>,
    },
    /// To refuse it for good: no limit will ever let it pass.
    Refuse {
        /// The unit.
        unit: UnitKey,
        /// Why.
        reason: String,
    },
}

impl ClaimRequest<'_> {
    /// The unit.
    #[must_use]
    pub const fn unit(&self) -> UnitKey {
        match self {
            Self::Run { unit, .. } | Self::Defer { unit, .. } | Self::Refuse { unit, .. } => *unit,
        }
    }
}

/// A unit that was claimed.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The right to act.
    pub lease: Lease,
    /// The step's key.
    pub step_key: String,
    /// Who pays.
    pub tenant: String,
    /// The plan's currency.
    pub currency: String,
    /// The attempt, from 1.
    pub attempt: i32,
    /// The key of the request.
    pub idempotency_key: String,
    /// An undo: the last forward key of its step.
    pub undo_of: Option<String>,
    /// The plan's account, with this attempt's reservation.
    pub account: Account,
    /// The results asked for, by step key.
    pub results: Map<String, Value>,
    /// W3C trace context.
    pub traceparent: String,
    /// When it became ready.
    pub ready_at: DateTime<Utc>,
}

/// What a claim did.
#[derive(Debug, Default)]
pub struct ClaimReport {
    /// Claimed: to be run now.
    pub claimed: Vec<Claimed>,
    /// Left to wait, with a reason.
    pub deferred: usize,
    /// Which these are: found ready under the lock and not taken, by this claim's own word.
    pub waiting: Vec<UnitKey>,
    /// When the first of these is due.
    pub next_due: Option<DateTime<Utc>>,
    /// Refused for good; the Rollback Coordinator decides.
    pub refused: Vec<UnitKey>,
    /// Rules that did not hold, hard and soft.
    pub violations: usize,
    /// Units of plans whose rows are not what was approved: none of them is claimed.
    pub broken: usize,
    /// Units that did not fit a budget, for now or for good.
    pub unaffordable: usize,
    /// Not decided, since the caller has not the newest operator sets.
    pub stale: usize,
    /// Left out because another transaction held the plan: worth another look soon.
    pub contended: usize,
    /// The accounts as they are now, for the live copies.
    pub accounts: Vec<AccountView>,
}
