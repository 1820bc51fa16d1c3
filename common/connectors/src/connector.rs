//! The contract: what a connector is asked, what it may answer, and what it declares.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dat_plan::mux::ActionRequest;
use serde_json::Value;

use crate::listener::Listener;

/// What a connector says of itself. Readiness refuses a plan that needs more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each answers a question of its own")]
pub struct Declaration {
    /// The name that plan documents use.
    pub name: &'static str,
    /// It applies each idempotency key at most once.
    pub idempotent: bool,
    /// A probe tells what came of a key, and seals it.
    pub can_probe: bool,
    /// Actions can be undone through it.
    pub can_compensate: bool,
    /// It may tell how far a long action is ([`Listener::progress`]). Nothing depends on it.
    pub reports_progress: bool,
}

/// What a connector says of one of its actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionDeclaration {
    /// Each idempotency key is applied at most once.
    pub idempotent: bool,
    /// A probe tells what came of a key, and seals it.
    pub can_probe: bool,
    /// It may undo another action.
    pub can_compensate: bool,
    /// The parameters without which it cannot be asked for.
    pub parameters: BTreeSet<String>,
}

/// One request, ready to be sent.
#[derive(Debug, Clone)]
pub struct Call {
    /// What is asked, parameters resolved.
    pub request: ActionRequest,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// W3C trace context.
    pub traceparent: String,
    /// Who hears what comes of it beside the answer.
    pub listener: Arc<dyn Listener>,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The effect happened.
    Done {
        /// The result, `{}` where the answer had none.
        result: Value,
        /// What it cost, smallest unit.
        cost: i64,
        /// What came back.
        refund: i64,
    },
    /// A definite answer: no effect, or none that the same key would not be spared a second time; may be tried again.
    Error {
        /// What it cost all the same.
        cost: i64,
        /// For people.
        detail: String,
        /// Not sooner than this, milliseconds.
        retry_after_ms: u64,
        /// The outside system itself is ill, by its own account: its breaker counts it.
        ill: bool,
    },
    /// A definite answer: no effect, for good.
    Refused {
        /// What it cost all the same.
        cost: i64,
        /// For people.
        detail: String,
    },
    /// Certainly nothing left this process.
    NotSent {
        /// For people.
        detail: String,
    },
    /// The request may have left and no answer came, or none that can be read.
    Unanswered {
        /// For people.
        detail: String,
    },
}

/// What comes of a request that is checked and not sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Rehearsal {
    /// It would be sent.
    Fine {
        /// What would be done, for people.
        detail: String,
        /// What would be answered, where that is known without asking: postconditions are held against it.
        result: Option<Value>,
    },
    /// It would never be sent, or never be taken.
    Refused {
        /// Why, for people.
        detail: String,
    },
}

/// Whether an outside system was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// It answered.
    Yes,
    /// It did not, or said itself that it is ill.
    No,
    /// It was not asked.
    Unasked,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq)]
pub enum ProbeAnswer {
    /// The effect happened.
    Done {
        /// The result.
        result: Value,
        /// What it cost.
        cost: i64,
        /// What came back.
        refund: i64,
    },
    /// The key has had no effect and never will.
    Sealed,
    /// It cannot be told: the outside system said so, or did not answer.
    Unknown {
        /// For people.
        detail: String,
        /// The outside system answered, and cannot tell; else it could not be asked, or it is too early to believe it.
        answered: bool,
        /// What asking says of the outside system, whatever its answer is worth: its breaker goes by that.
        reached: Reached,
    },
    /// It cannot be asked; but no request is on its way any more, and the same key can be sent again.
    Repeatable {
        /// For people.
        detail: String,
    },
    /// It cannot be asked, now or ever, nor sent again: the plan's `on_unknown` decides. No request is on its way any more.
    NoProbe {
        /// For people.
        detail: String,
    },
}

/// One outside system.
#[async_trait]
pub trait Connector: Send + Sync {
    /// What it is and can do.
    fn declaration(&self) -> Declaration;

    /// What it says of one of its actions; none where it has no such action. By default it has every action, and says
    /// of each what it says of itself.
    fn action(&self, name: &str) -> Option<ActionDeclaration> {
        let _ = name;
        let Declaration { idempotent, can_probe, can_compensate, .. } = self.declaration();
        Some(ActionDeclaration { idempotent, can_probe, can_compensate, parameters: BTreeSet::new() })
    }

    /// Sends one request and waits for its answer, at most `call.timeout`.
    async fn act(&self, call: Call) -> Answer;

    /// Checks a request as far as that goes without sending anything, and says what it would do: a step of a dry run.
    /// Must not ask anybody outside the process; it may be called any number of times.
    fn rehearse(&self, call: &Call) -> Rehearsal {
        let name = self.declaration().name;
        Rehearsal::Fine { detail: format!("it would ask {name} for {}", call.request.action), result: None }
    }

    /// Asks what came of an action's key, and seals it if nothing did. `not_after` is the latest moment at which the
    /// request could still have been accepted; a connector that cannot seal may answer "not done" only after it.
    async fn probe(
        &self,
        action: &str,
        idempotency_key: &str,
        not_after: DateTime<Utc>,
        timeout: Duration,
    ) -> ProbeAnswer;
}
