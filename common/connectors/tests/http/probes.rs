//! Probes: what they find, and what is believed only once no request can be on its way any more.

use std::time::Duration;

use chrono::TimeDelta;
use dat_connectors::{Connector, ProbeAnswer};
use serde_json::{Value, json};

use crate::server::{Does, Server, answer};
use crate::{KEY, SECRET, at, now};

/// What a probe finds, of a request that may be accepted for another hour, or could until an hour ago.
async fn probed(server: &Server, action: &Value, over: bool) -> ProbeAnswer {
    let http = at(server.address, action);
    let hour = TimeDelta::hours(if over { -1 } else { 1 });
    http.probe("act", KEY, now() + hour, Duration::from_millis(500)).await
}

fn with_probe(server: &Server, probe: &Value) -> Value {
    let mut full = json!({"url": format!("http://{}/by-key/{{$key}}", server.address), "result": "/id", "cost": "/cost"});
    for (field, value) in probe.as_object().expect("fields") {
        full[field] = value.clone();
    }
    json!({"probe": full, "headers": {"Authorization": {"secret": "env:TOKEN"}}})
}

#[tokio::test]
async fn a_probe_finds_what_is_done_and_believes_what_is_not_only_when_it_is_too_late() {
    let found = Server::saying(answer("200 OK", "", r#"{"id": "O-1", "cost": 7}"#)).await;
    let done = ProbeAnswer::Done { result: json!("O-1"), cost: 7, refund: 0 };
    assert_eq!(probed(&found, &with_probe(&found, &json!({})), false).await, done);
    let heard = found.heard();
    let key = KEY.replace('/', "%2F");
    assert!(heard[0].starts_with(&format!("GET /by-key/{key} HTTP/1.1\r\n")), "{heard:?}");
    assert!(heard[0].contains(SECRET), "with the action's headers: {heard:?}");

    let missing = Server::saying(answer("404 Not Found", "", "{}")).await;
    let action = with_probe(&missing, &json!({}));
    assert_eq!(probed(&missing, &action, true).await, ProbeAnswer::Sealed);
    let early = probed(&missing, &action, false).await;
    assert!(matches!(early, ProbeAnswer::Unknown { answered: false, .. }), "{early:?}");
    // Past `not_after`, but not by more than the clocks may differ.
    let http = at(missing.address, &action);
    let just = http.probe("act", KEY, now() - TimeDelta::milliseconds(100), Duration::from_millis(500)).await;
    let took_longer = matches!(just, ProbeAnswer::Sealed);
    assert!(took_longer || matches!(just, ProbeAnswer::Unknown { answered: false, .. }), "{just:?}");
}

#[tokio::test]
async fn a_probe_by_a_field_goes_by_what_it_says_there() {
    for (state, over, expected) in [
        ("paid", false, "done"),
        ("none", false, "early"),
        ("none", true, "sealed"),
        ("pending", true, "cannot tell"),
    ] {
        let body = json!({"state": state, "id": 1}).to_string();
        let server = Server::saying(answer("200 OK", "", &body)).await;
        let rule = json!({"pointer": "/state", "done": ["paid"], "not_done": ["none"]});
        let found = probed(&server, &with_probe(&server, &rule), over).await;
        let kind = match found {
            ProbeAnswer::Done { .. } => "done",
            ProbeAnswer::Sealed => "sealed",
            ProbeAnswer::Unknown { answered: true, .. } => "cannot tell",
            ProbeAnswer::Unknown { answered: false, .. } => "early",
            ProbeAnswer::Repeatable { .. } | ProbeAnswer::NoProbe { .. } => "not asked",
        };
        assert_eq!(kind, expected, "{state}, over {over}: {found:?}");
    }
}

#[tokio::test]
async fn a_probe_that_is_not_answered_tells_nothing_and_no_secret() {
    for said in [
        Does::Says(answer("500 Oh", "", &json!({"message": SECRET}).to_string())),
        Does::Says(answer("401 Unauthorized", "", &json!({"message": SECRET}).to_string())),
        Does::Says(answer("302 Found", "location: http://203.0.113.7/x\r\n", "")),
        Does::SaysAndStops(String::new()),
    ] {
        let told = said.clone();
        let server = Server::start(move |_| told.clone()).await;
        let found = probed(&server, &with_probe(&server, &json!({})), true).await;
        assert!(matches!(found, ProbeAnswer::Unknown { answered: false, .. }), "{said:?}: {found:?}");
        assert!(!format!("{found:?}").contains(SECRET), "{found:?}");
    }
}

#[tokio::test]
async fn an_action_without_a_probe_is_repeated_or_left_to_the_plan_once_it_is_too_late() {
    let server = Server::saying(answer("200 OK", "", "{}")).await;
    for (idempotent, over) in [(true, true), (true, false), (false, true), (false, false)] {
        let found = probed(&server, &json!({"idempotent": idempotent}), over).await;
        let right = match found {
            ProbeAnswer::Repeatable { .. } => idempotent && over,
            ProbeAnswer::NoProbe { .. } => !idempotent && over,
            ProbeAnswer::Unknown { answered: false, .. } => !over,
            _ => false,
        };
        assert!(right, "idempotent {idempotent}, over {over}: {found:?}");
    }
    assert!(server.heard().is_empty(), "there is nothing to ask");
}
