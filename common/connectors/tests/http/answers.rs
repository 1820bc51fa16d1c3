//! What answers mean, good and bad: a failure only where it certainly is one.

use dat_connectors::Answer;
use serde_json::{Value, json};

use crate::server::{Does, Server, answer};
use crate::{SECRET, act, at, brief, call, detail};

/// What kind of answer, and whether it says that the outside system is ill.
fn kind(answer: &Answer) -> &'static str {
    match answer {
        Answer::Done { .. } => "done",
        Answer::Error { ill: false, .. } => "error",
        Answer::Error { ill: true, .. } => "error, ill",
        Answer::Refused { .. } => "refused",
        Answer::NotSent { .. } => "not sent",
        Answer::Unanswered { .. } => "unanswered",
    }
}

#[tokio::test]
async fn a_status_is_a_failure_only_where_it_certainly_is_one() {
    // Status, what it is for an action that is not idempotent, and for one that is.
    for (status, once, repeatable) in [
        ("200 OK", "done", "done"),
        ("201 Created", "done", "done"),
        ("302 Found", "unanswered", "error"),
        ("307 Temporary Redirect", "refused", "refused"),
        ("400 Bad Request", "refused", "refused"),
        ("404 Not Found", "refused", "refused"),
        ("408 Request Timeout", "unanswered", "error"),
        ("409 Conflict", "unanswered", "error"),
        ("422 Unprocessable Content", "refused", "refused"),
        ("425 Too Early", "error", "error"),
        ("429 Too Many Requests", "error", "error"),
        ("500 Internal Server Error", "unanswered", "error, ill"),
        ("502 Bad Gateway", "unanswered", "error, ill"),
        ("503 Service Unavailable", "error, ill", "error, ill"),
        ("504 Gateway Timeout", "unanswered", "error, ill"),
    ] {
        let server = Server::saying(answer(status, "", "{}")).await;
        for (idempotent, expected) in [(false, once), (true, repeatable)] {
            // 409 is set as one that leaves it open.
            let http = at(server.address, &json!({"idempotent": idempotent, "open": [409]}));
            let answer = act(&http, call(&json!({}))).await;
            assert_eq!(kind(&answer), expected, "{status}, idempotent {idempotent}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_pause_that_is_asked_for_is_passed_on() {
    for (header, ms) in [("retry-after: 3\r\n", 3_000), ("retry-after: 9999999\r\n", 3_600_000), ("", 0)] {
        let server =
            Server::saying(answer("429 Too Many Requests", header, r#"{"message": "slow down"}"#)).await;
        let answer = act(&at(server.address, &json!({})), call(&json!({}))).await;
        let Answer::Error { retry_after_ms, detail, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(retry_after_ms, ms);
        assert_eq!(detail, "act was answered 429 Too Many Requests: slow down");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_leaves_it_open_with_its_reason() {
    let large = format!("\"{}\"", "x".repeat(2_000));
    for (said, why) in [
        (Does::Says(answer("200 OK", "", "{\"id\": ")), "cannot be read"),
        (Does::Says(answer("200 OK", "", "<html>")), "cannot be read"),
        (Does::Says(answer("200 OK", "", "{}")), "nothing at '/id'"),
        (Does::Says(answer("200 OK", "", r#"{"id": 1, "cost": -1}"#)), "an amount"),
        (Does::Says(answer("200 OK", "", r#"{"id": 1, "cost": 1.5}"#)), "an amount"),
        (Does::Says(answer("200 OK", "", r#"{"id": 1, "cost": 9007199254740992}"#)), "an amount"),
        (Does::Says(answer("200 OK", "", &large)), "more than 1000 bytes"),
        (
            Does::Says(format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7d2\r\n{large}\r\n0\r\n\r\n"
            )),
            "more than 1000 bytes",
        ),
        (Does::Says("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"i".to_owned()), "stopped half-way"),
        (
            Does::SaysAndStops("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"i".to_owned()),
            "stopped half-way",
        ),
        (Does::SaysAndStops("HTTP/1.1 200 OK\r\ncontent".to_owned()), "no answer in time"),
        (Does::SaysAndStops(String::new()), "no answer in time"),
        (Does::Says(String::new()), "no answer"),
        (Does::Says("SSH-2.0-OpenSSH\r\n".to_owned()), "no answer"),
    ] {
        let told = said.clone();
        let server = Server::start(move |_| told.clone()).await;
        let http = at(server.address, &json!({"result": "/id", "cost": "/cost"}));
        let answer = act(&http, brief(&json!({}))).await;
        assert!(matches!(answer, Answer::Unanswered { .. }), "{said:?}: {answer:?}");
        assert!(detail(&answer).contains(why), "{said:?}: {answer:?}");
        assert_eq!(server.heard().len(), 1, "{said:?}");
    }
}

#[tokio::test]
async fn a_slow_answer_is_as_good_as_any() {
    let slow = answer("200 OK", "", r#"{"id": "O-1"}"#);
    let server = Server::start(move |_| Does::SaysSlowly(slow.clone())).await;
    let answer = act(&at(server.address, &json!({"result": "/id"})), call(&json!({}))).await;
    assert_eq!(answer, Answer::Done { result: json!("O-1"), cost: 0, refund: 0 });
}

#[tokio::test]
async fn what_a_server_says_of_an_error_may_be_half() {
    let half = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 90\r\n\r\n{\"mess";
    let server = Server::saying(half.to_owned()).await;
    let answer = act(&at(server.address, &json!({})), call(&json!({}))).await;
    assert!(matches!(answer, Answer::Error { retry_after_ms: 1_000, .. }), "{answer:?}");
}

/// A server that says everything that it was sent, in the way asked for by the path.
async fn parrot() -> Server {
    Server::start(|request| {
        let echo = Value::String(request.to_owned());
        Does::Says(match request {
            r if r.contains("/done") => answer("200 OK", "", &json!({"sent": [echo], SECRET: 1}).to_string()),
            r if r.contains("/refused") => {
                answer("400 Bad Request", "", &json!({"message": echo}).to_string())
            }
            r if r.contains("/later") => {
                answer("429 Slow", "", &json!({"error": {"message": echo}}).to_string())
            }
            r if r.contains("/open") => answer("500 Oh", "", &json!({"detail": echo}).to_string()),
            _ => answer("200 OK", &format!("x-said: {SECRET}\r\n"), &format!("{SECRET} is no JSON")),
        })
    })
    .await
}

#[tokio::test]
async fn a_secret_is_sent_and_never_said() {
    let server = parrot().await;
    for path in ["done", "refused", "later", "open", "garbage"] {
        let http = at(
            server.address,
            &json!({
                "url": format!("http://{}/{path}", server.address), "method": "PUT", "idempotent": false,
                "headers": {"Authorization": {"secret": "env:TOKEN", "prefix": "Bearer "}},
            }),
        );
        let answer = act(&http, call(&json!({}))).await;
        let said = format!("{answer:?} {http:?}");
        assert!(!said.contains(SECRET), "{path}: {said}");
        if path != "garbage" {
            assert!(said.contains("[redacted]"), "{path}: the answer held it: {said}");
        }
    }
    assert!(server.heard().iter().all(|request| request.contains(SECRET)), "it is sent");
}
