//! What the contract says of the sandbox MUX, case by case.

use chrono::TimeDelta;
use serde_json::json;
use uuid::Uuid;

use super::*;

/// A request of step `a`, attempt 1, that tells the sandbox `told` (null: nothing), good until 1970-01-01T00:01.
pub(crate) fn request(told: Value) -> ActionRequest {
    let mut request: ActionRequest = serde_json::from_value(json!({
        "action": "listing.create", "parameters": {}, "idempotency_key": "p/1/a/1",
        "not_after": "1970-01-01T00:01:00Z", "max_cost": 100, "currency": "usd", "tenant": "acme",
        "plan_id": Uuid::nil(), "plan_version": 1, "step": "a", "attempt": 1
    }))
    .expect("a request");
    if !told.is_null() {
        request.parameters.insert("sandbox".to_owned(), told);
    }
    request
}

fn at(seconds: i64) -> Moment {
    Moment { tick: 3, at: DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds) }
}

fn fresh(told: Value) -> Settlement {
    settle(&request(told), None, None, at(0))
}

fn happened() -> Held {
    Held::Done { result: json!({"id": 7}), cost: 5, refund: 1 }
}

#[test]
fn ok_has_the_effect_and_says_so() {
    let settled = fresh(json!({"cost": 5, "refund": 1, "result": {"id": 7}}));
    let effect = settled.effect.expect("an effect");
    assert_eq!((effect.cost, effect.refund, effect.result), (5, 1, json!({"id": 7})));
    assert_eq!(settled.reply, Some(done(&json!({"id": 7}), 5, 1)));
    assert_eq!(settled.status, RequestStatus::Ok);
}

#[test]
fn a_lost_reply_has_the_same_effect_and_no_answer() {
    let told = |outcome| json!({"outcome": outcome, "cost": 5});
    let (lost, ok) = (fresh(told("lost_reply")), fresh(told("ok")));
    assert_eq!((lost.effect, lost.reply), (ok.effect, None));
}

#[test]
fn neither_error_nor_refusal_nor_timeout_has_an_effect_or_a_cost() {
    for (outcome, status) in [("error", Some(ActionStatus::Error)), ("refuse", Some(ActionStatus::Refused))] {
        let settled = fresh(json!({"outcome": outcome, "cost": 5, "refund": 2}));
        assert_eq!(settled.effect, None);
        let reply = settled.reply.expect("an answer");
        assert_eq!((Some(reply.status), reply.cost, reply.refund), (status, 0, 0));
    }
    let silent = fresh(json!({"outcome": "timeout", "cost": 5}));
    assert_eq!((silent.effect, silent.reply), (None, None));
}

#[test]
fn after_so_many_times_it_is_ok() {
    let mut third = request(json!({"outcome": "error", "times": 2}));
    third.attempt = 3;
    assert_eq!(settle(&third, None, None, at(0)).status, RequestStatus::Ok);
}

#[test]
fn what_happened_is_replayed_whatever_is_asked_and_however_late() {
    for (told, now) in [(json!({"outcome": "error"}), at(0)), (json!({"cost": 9}), at(61))] {
        let settled = settle(&request(told), Some(&happened()), None, now);
        assert_eq!(settled.status, RequestStatus::Replayed);
        assert_eq!(settled.reply, Some(done(&json!({"id": 7}), 5, 1)));
        assert_eq!(settled.effect, None);
    }
}

#[test]
fn what_is_late_is_refused_without_effect() {
    assert_eq!(settle(&request(json!({})), None, None, at(60)).status, RequestStatus::Ok);
    let late = settle(&request(json!({"cost": 5})), None, None, at(61));
    assert_eq!((late.status, late.effect), (RequestStatus::RefusedLate, None));
    let reply = late.reply.expect("an answer");
    assert_eq!(reply.status, ActionStatus::Refused);
    assert!(reply.message.is_some_and(|why| why.contains("not_after")));
}

#[test]
fn a_probe_seals_what_has_not_happened() {
    let (reply, seals) = probe(None);
    assert_eq!((reply.status, seals), (ProbeStatus::Sealed, true));
    let (again, seals) = probe(Some(&Held::Sealed));
    assert_eq!((again.status, seals), (ProbeStatus::Sealed, false));
    let after = settle(&request(json!({})), Some(&Held::Sealed), None, at(0));
    assert_eq!((after.status, after.effect), (RequestStatus::RefusedSealed, None));
    assert_eq!(after.reply.map(|r| r.status), Some(ActionStatus::Refused));
}

#[test]
fn a_probe_tells_what_has_happened() {
    let (reply, seals) = probe(Some(&happened()));
    assert_eq!((reply.status, reply.result, reply.cost), (ProbeStatus::Done, Some(json!({"id": 7})), 5));
    assert!(!seals);
}

#[test]
fn an_undo_of_nothing_is_a_no_op_that_seals() {
    let mut undo = request(json!({"cost": 3}));
    undo.undo_of = Some("p/1/a/1".to_owned());
    let nothing = settle(&undo, None, None, at(0));
    assert_eq!(nothing.seals.as_deref(), Some("p/1/a/1"));
    assert!(nothing.effect.is_some_and(|e| e.no_op && e.cost == 3));
    let something = settle(&undo, None, Some(&happened()), at(0));
    assert_eq!(something.seals, None);
    assert!(something.effect.is_some_and(|e| !e.no_op));
}

#[test]
fn a_fault_in_the_instructions_is_a_refusal_that_names_it() {
    let settled = fresh(json!({"outcom": "ok"}));
    assert_eq!((settled.status, settled.effect), (RequestStatus::Malformed, None));
    assert!(settled.reply.and_then(|r| r.message).is_some_and(|why| why.contains("outcom")));
}
