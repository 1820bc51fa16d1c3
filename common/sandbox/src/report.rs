//! What the sandbox reports over HTTP, as types: the demo and the tests read them back.

mod governance;
mod ledger;
mod mux;

use serde::{Deserialize, Serialize};

pub use governance::{Decision, GgpMode, ModeSetting, Package, RefusedVote};
pub use ledger::{Event, EventSummary, LedgerLine, Misplaced};
pub use mux::{AppliedEffect, Effect, Held, Hold, MuxSummary, Request, RequestStatus};

/// What every refused HTTP request is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub error: String,
}
