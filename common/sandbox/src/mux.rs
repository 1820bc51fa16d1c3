//! The sandbox MUX, pure: what comes of a request or a probe, given what is held under its key.
//!
//! A key is held by what it did ([`Held::Done`]) or by a promise that it never will do anything ([`Held::Sealed`]).
//! Only an effect costs or refunds anything, and only an effect is replayed: an error is evaluated anew each time.

use chrono::{DateTime, Utc};
use dat_plan::mux::{ActionReply, ActionRequest, ActionStatus, ProbeReply, ProbeStatus};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::behaviour::{Behaviour, Ending};
use crate::report::{Effect, RequestStatus};

/// What MUX holds under an idempotency key. Nothing held: the key may still act.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum Held {
    /// Its effect happened, once and for ever.
    Done {
        /// What came of it.
        result: Value,
        /// What it cost.
        cost: i64,
        /// What came back.
        refund: i64,
    },
    /// It has had no effect and never will.
    Sealed,
}

/// When a request is decided: by the clock, and by its place in the sequence of all that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The place.
    pub(crate) tick: u64,
    /// The time.
    pub(crate) at: DateTime<Utc>,
}

/// What comes of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settlement {
    /// What the request log says.
    pub(crate) status: RequestStatus,
    /// What is answered; `None`: the answer is lost.
    pub(crate) reply: Option<ActionReply>,
    /// What happens in the world.
    pub(crate) effect: Option<Effect>,
    /// An undo of a key that had no effect seals that key.
    pub(crate) seals: Option<String>,
}

impl Settlement {
    fn answered(status: RequestStatus, reply: ActionReply) -> Self {
        Self { status, reply: Some(reply), effect: None, seals: None }
    }

    /// A final no, with its reason.
    pub(crate) fn refused(status: RequestStatus, why: impl Into<String>) -> Self {
        Self::answered(status, answer(ActionStatus::Refused, why))
    }
}

/// Decides a request at the moment its effect would happen.
///
/// `own` is what is held under the request's key, `forward` what is held under the key that it undoes. Held keys come
/// first: what happened is replayed even past `not_after`, for a refusal would claim that it did not happen.
pub(crate) fn settle(
    request: &ActionRequest,
    own: Option<&Held>,
    forward: Option<&Held>,
    now: Moment,
) -> Settlement {
    match own {
        Some(Held::Done { result, cost, refund }) => {
            return Settlement::answered(RequestStatus::Replayed, done(result, *cost, *refund));
        }
        Some(Held::Sealed) => {
            let why = format!(
                "the key '{}' is sealed: it has had no effect and never will",
                request.idempotency_key
            );
            return Settlement::refused(RequestStatus::RefusedSealed, why);
        }
        None if now.at > request.not_after => {
            let why = format!("refused: not_after {} has passed, it is {}", request.not_after, now.at);
            return Settlement::refused(RequestStatus::RefusedLate, why);
        }
        None => {}
    }
    let behaviour = match Behaviour::of(request) {
        Ok(behaviour) => behaviour,
        Err(fault) => {
            return Settlement::refused(RequestStatus::Malformed, format!("parameters.sandbox: {fault}"));
        }
    };
    match behaviour.ending(request.attempt) {
        Ending::Ok => effective(request, &behaviour, forward, true, now),
        Ending::LostReply => effective(request, &behaviour, forward, false, now),
        Ending::Error => {
            let said = answer(ActionStatus::Error, "parameters.sandbox asks for an error");
            let reply = ActionReply { retry_after_ms: behaviour.retry_after_ms, ..said };
            Settlement::answered(RequestStatus::Error, reply)
        }
        Ending::Refuse => {
            Settlement::refused(RequestStatus::Refused, "parameters.sandbox asks for a refusal")
        }
        Ending::Timeout => {
            Settlement { status: RequestStatus::Timeout, reply: None, effect: None, seals: None }
        }
    }
}

/// The effect happens. An undo of what never happened finds nothing to undo, and makes sure it never will happen.
fn effective(
    request: &ActionRequest,
    behaviour: &Behaviour,
    forward: Option<&Held>,
    answers: bool,
    now: Moment,
) -> Settlement {
    let result = behaviour.result();
    let no_op = request.undo_of.is_some() && !matches!(forward, Some(Held::Done { .. }));
    Settlement {
        status: if answers { RequestStatus::Ok } else { RequestStatus::LostReply },
        reply: answers.then(|| done(&result, behaviour.cost, behaviour.refund)),
        seals: request.undo_of.clone().filter(|_| forward.is_none()),
        effect: Some(Effect {
            order: now.tick,
            idempotency_key: request.idempotency_key.clone(),
            plan_id: request.plan_id,
            plan_version: request.plan_version,
            tenant: request.tenant.clone(),
            step: request.step.clone(),
            attempt: request.attempt,
            action: request.action.clone(),
            undo_of: request.undo_of.clone(),
            no_op,
            cost: behaviour.cost,
            refund: behaviour.refund,
            currency: request.currency.clone(),
            result,
            at: now.at,
        }),
    }
}

/// Answers a probe. The second value is whether the key is sealed by it.
pub(crate) fn probe(held: Option<&Held>) -> (ProbeReply, bool) {
    match held {
        Some(Held::Done { result, cost, refund }) => {
            let result = Some(result.clone());
            (ProbeReply { status: ProbeStatus::Done, result, cost: *cost, refund: *refund }, false)
        }
        Some(Held::Sealed) => (sealed(), false),
        None => (sealed(), true),
    }
}

/// Answers a probe as a MUX that cannot say what came of a key.
pub(crate) fn no_word() -> ProbeReply {
    ProbeReply { status: ProbeStatus::Unknown, ..sealed() }
}

fn sealed() -> ProbeReply {
    ProbeReply { status: ProbeStatus::Sealed, result: None, cost: 0, refund: 0 }
}

fn done(result: &Value, cost: i64, refund: i64) -> ActionReply {
    let result = Some(result.clone());
    ActionReply { status: ActionStatus::Ok, result, cost, refund, message: None, retry_after_ms: None }
}

fn answer(status: ActionStatus, why: impl Into<String>) -> ActionReply {
    let message = Some(why.into());
    ActionReply { status, result: None, cost: 0, refund: 0, message, retry_after_ms: None }
}

#[cfg(test)]
pub(crate) mod tests;
