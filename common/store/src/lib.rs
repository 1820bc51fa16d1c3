//! PostgreSQL, the authority: the only crate with SQL, one file an aggregate.
//!
//! **Owns** the rows and every transaction over them, the order of locks, leases and their fence, the log and its
//! chain. **May be called** by the workers and the operator's commands. **Must never** do other input or output, hold a
//! connection while something outside is asked, or decide what the pure crate can decide: it re-reads under lock,
//! calls the pure function, and writes what that said, with its events, in the same transaction.
//!
//! **The one order of locks.** Every writing transaction first locks the plan rows it touches, in id order, in a
//! statement of its own, then re-reads; tenants' limits come after plans, in key order, then budget accounts, in id order,
//! then counters of what runs, in key order; streams of events come last, in id order. Claims skip plans that are locked; everything else waits.
//! Whoever seals the log holds the turn for it first, which nobody waits for, and then the control stream alone.

mod account;
mod admission;
mod audit;
mod breaker;
mod browse;
mod checkpoint;
mod claim;
mod connection;
mod constraint_set;
mod control;
mod coordinate;
mod decisions;
mod diagnosis;
mod error;
mod event_log;
mod export;
mod finish;
mod gauges;
mod grants;
mod handover;
mod lease;
mod operator;
mod orphan;
mod package;
mod plan_row;
mod pool;
mod progress;
mod registry;
mod relay;
mod resolve;
mod retention;
mod runtime;
mod seal;
mod settle;
mod sweep;
mod two_person;
mod unit_columns;
mod verdict;
mod view;
mod wake;
mod weight;

pub use account::{AccountView, TenantLimit, TokenUsage};
pub use admission::{Admission, Admitted, Blocked, StagedStep};
pub use audit::{AuditFault, AuditReport, Replayed, ReplayedUnit};
pub use breaker::{BreakerForce, ForcedBreaker};
pub use browse::{PlanCursor, PlanFilter};
pub use checkpoint::NewCheckpoint;
pub use claim::{
    BUDGET_WAIT, Candidate, ClaimReport, ClaimRequest, Claimed, CountLock, Counting, Due, GoingOn, Guard,
    GuardFacts, GuardVerdict, Needed, Postponed, SpendCap, SpendFacts, Turns, Untaken,
};
pub use constraint_set::{ConstraintSetRow, SetConstraints, SetHead, SetScope};
pub use control::{ControlChange, ControlScope, Stop};
pub use coordinate::{CoordinateReport, FailedRow, NewUndo, RanStep, RollbackStart, Ruling};
pub use decisions::RecordedDecision;
pub use diagnosis::{Diagnosis, Migrations, Rights};
pub use error::StoreError;
pub use export::Exporter;
pub use gauges::Gauges;
pub use grants::{GrantError, Role};
pub use handover::{RelayPort, Written};
pub use lease::{ExpiredLease, Lease, Probe};
pub use orphan::OrphanPage;
pub use plan_row::Approval;
pub use pool::Store;
pub use registry::{Registered, Registration, StoredDocument};
pub use relay::{ClaimedStream, Progress, Recorded};
pub use resolve::{NotResolved, Resolution, Resolve, Resolved};
pub use retention::LogMonth;
pub use runtime::RuntimeState;
pub use seal::{SEAL_BROKEN, Seal, Sealed, SealedStep, StoredVerdict};
pub use settle::{Finding, LateAnswer, SettleReport, Settled, Settlement};
pub use sweep::{DuePlan, SweepFindings};
pub use two_person::{Confirmation, ControlRequest, Requested, TwoPersonAct};
pub use verdict::{Bound, Conflict};
pub use view::{AttemptView, PlanSummary, PlanView, StepView};
pub use wake::breaker_wait;
pub use weight::TenantWeight;
