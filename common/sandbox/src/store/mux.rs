//! What MUX keeps: what is held under each key, its effects, its request log.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dat_plan::mux::{ActionReply, ActionRequest, ProbeReply};

use super::StoreError;
use super::book::{Book, PlanEntry, Reading, Writing};
use super::scope::Scope;
use crate::concurrency::peak;
use crate::mux::{self, Held, Moment};
use crate::report::{AppliedEffect, Effect, MuxSummary, Request, RequestStatus};

const KEYS: Book<&str, Held> = Book::new("mux_keys");
const EFFECTS: Book<PlanEntry, Effect> = Book::new("mux_effects");
const REQUESTS: Book<PlanEntry, Request> = Book::new("mux_requests");

const SEALED: &str = "mux.sealed";
const PROBES: &str = "mux.probes";
const DROPPED: &str = "mux.dropped";
const MALFORMED: &str = "mux.malformed";

/// Makes the tables of this module.
pub(super) fn create(books: &Writing<'_>) -> Result<(), StoreError> {
    books.create(&KEYS)?;
    books.create(&EFFECTS)?;
    books.create(&REQUESTS)
}

/// Ends the requests that were in flight when the sandbox was last stopped: they will be delivered again.
pub(super) fn close_interrupted(books: &mut Writing<'_>) -> Result<(), StoreError> {
    for mut request in books.all(&REQUESTS)?.into_iter().filter(|request| request.finished.is_none()) {
        request.finished = Some(books.tick());
        request.status = RequestStatus::Interrupted;
        log(books, &request)?;
    }
    Ok(())
}

fn log(books: &Writing<'_>, request: &Request) -> Result<(), StoreError> {
    books.put(&REQUESTS, (request.plan_id.as_u128(), request.received), request)
}

/// Logs a request that has come in.
pub(crate) fn receive(
    books: &mut Writing<'_>,
    request: &ActionRequest,
    received: Moment,
) -> Result<(), StoreError> {
    log(books, &entry(request, received, None, RequestStatus::InFlight))
}

/// Decides a request, and makes its effect happen: one look, one decision, one change, with nothing in between.
pub(crate) fn settle(
    books: &mut Writing<'_>,
    request: &ActionRequest,
    received: Moment,
    now: DateTime<Utc>,
) -> Result<Option<ActionReply>, StoreError> {
    let own = books.get(&KEYS, request.idempotency_key.as_str())?;
    let forward = match &request.undo_of {
        Some(key) => books.get(&KEYS, key.as_str())?,
        None => None,
    };
    let moment = Moment { tick: books.tick(), at: now };
    let settled = mux::settle(request, own.as_ref(), forward.as_ref(), moment);
    if let Some(key) = &settled.seals {
        books.put(&KEYS, key.as_str(), &Held::Sealed)?;
        books.count(SEALED);
    }
    if let Some(effect) = &settled.effect {
        let held = Held::Done { result: effect.result.clone(), cost: effect.cost, refund: effect.refund };
        books.put(&KEYS, effect.idempotency_key.as_str(), &held)?;
        books.put(&EFFECTS, (effect.plan_id.as_u128(), effect.order), effect)?;
    }
    log(books, &entry(request, received, Some(moment.tick), settled.status))?;
    Ok(settled.reply)
}

/// Answers a probe, and seals the key if nothing happened under it.
pub(crate) fn probe(books: &mut Writing<'_>, key: &str) -> Result<ProbeReply, StoreError> {
    let (reply, seals) = mux::probe(books.get(&KEYS, key)?.as_ref());
    if seals {
        books.put(&KEYS, key, &Held::Sealed)?;
        books.count(SEALED);
    }
    books.count(PROBES);
    Ok(reply)
}

/// Counts a message that could not be read.
pub(crate) fn unreadable(books: &mut Writing<'_>, answered: bool) {
    books.count(if answered { MALFORMED } else { DROPPED });
}

fn entry(request: &ActionRequest, received: Moment, finished: Option<u64>, status: RequestStatus) -> Request {
    Request {
        received: received.tick,
        received_at: received.at,
        finished,
        plan_id: request.plan_id,
        plan_version: request.plan_version,
        step: request.step.clone(),
        attempt: request.attempt,
        idempotency_key: request.idempotency_key.clone(),
        action: request.action.clone(),
        undo_of: request.undo_of.clone(),
        not_after: request.not_after,
        status,
    }
}

/// The effects, in the order in which they happened.
pub(crate) fn effects(books: &Reading, scope: Scope) -> Result<Vec<AppliedEffect>, StoreError> {
    let mut effects = books.of_plan(&EFFECTS, scope.plan_id)?;
    effects.retain(|effect| scope.holds(effect.plan_version));
    effects.sort_unstable_by_key(|effect| effect.order);
    let mut applied: BTreeMap<String, u64> = BTreeMap::new();
    for effect in &effects {
        *applied.entry(effect.idempotency_key.clone()).or_default() += 1;
    }
    let count = |effect: Effect| {
        let applied = applied.get(&effect.idempotency_key).copied().unwrap_or_default();
        AppliedEffect { effect, applied }
    };
    Ok(effects.into_iter().map(count).collect())
}

/// The request log, in the order in which the requests came.
pub(crate) fn requests(books: &Reading, scope: Scope) -> Result<Vec<Request>, StoreError> {
    let mut requests = books.of_plan(&REQUESTS, scope.plan_id)?;
    requests.retain(|request| scope.holds(request.plan_version));
    requests.sort_unstable_by_key(|request| request.received);
    Ok(requests)
}

/// The figures of the plans looked at. What is held only the gate knows.
pub(crate) fn summary(books: &Reading, scope: Scope) -> Result<MuxSummary, StoreError> {
    let effects = effects(books, scope)?;
    let requests = requests(books, scope)?;
    let mut by_status = BTreeMap::new();
    for request in &requests {
        *by_status.entry(request.status).or_default() += 1;
    }
    let of = |status| by_status.get(&status).copied().unwrap_or_default();
    Ok(MuxSummary {
        effects: length(effects.len()),
        undos: length(effects.iter().filter(|applied| applied.effect.undo_of.is_some()).count()),
        requests: length(requests.len()),
        in_flight: of(RequestStatus::InFlight),
        max_in_flight: peak(requests.iter().map(|request| (request.received, request.finished))),
        replays: of(RequestStatus::Replayed),
        refused_late: of(RequestStatus::RefusedLate),
        refused_sealed: of(RequestStatus::RefusedSealed),
        sealed: books.count(SEALED)?,
        probes: books.count(PROBES)?,
        dropped: books.count(DROPPED)?,
        malformed: books.count(MALFORMED)?,
        held: 0,
        by_status,
    })
}

fn length(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
