//! The contract of DAT, pure: what a plan is, the states it goes through, the messages and events it causes.
//!
//! **Owns** the plan document and its checks, ids, states and their transition functions, the plan hash, events and
//! their destinations, the verdict, the messages to MUX, backoff, and the traits for time and randomness.
//! **May be called** by every crate of the workspace.
//! **Must never** do input or output, read a clock, draw a random number, or know SQL, AMQP, Redis or tokio:
//! every decision here can be made again offline from recorded inputs, with the same result (invariant 10).

pub mod amount;
pub mod approval;
pub mod budget;
pub mod check;
pub mod checkpoint;
pub mod clock;
pub mod constraint;
pub mod cost;
pub mod coverage;
pub mod document;
pub mod event;
pub mod export;
pub mod fault;
pub mod graph;
pub mod hash;
pub mod ids;
pub mod json;
pub mod limits_document;
pub mod mux;
mod progress;
pub mod quorum;
pub mod references;
pub mod replay;
pub mod retry;
pub mod revision;
pub mod rollback;
pub mod schema;
pub mod seal;
pub mod signing;
pub mod state;

pub use amount::{Amount, Currency};
pub use clock::{Clock, Entropy};
pub use cost::CostRange;
pub use document::PlanDocument;
pub use fault::{Fault, FaultCode};
pub use hash::PlanHash;
pub use ids::{PlanKey, StepKey, UnitKey, UnitKind};
pub use progress::Progress;
pub use state::{PlanState, StepState};
