//! What is sent: exactly what the settings declare, and nothing of a parameter where it does not belong.

use dat_connectors::{Answer, Connector};
use serde_json::json;

use crate::server::{Server, answer};
use crate::{KEY, SECRET, act, at, call, connector};

#[tokio::test]
async fn a_request_is_as_it_is_declared_and_its_answer_is_read_by_pointers() {
    let body = r#"{"order": {"id": "O-1", "n": 2}, "price": {"total": 70}, "bonus": 5}"#;
    let server = Server::saying(answer("201 Created", "", body)).await;
    let http = at(
        server.address,
        &json!({
            "url": format!("http://{}/v1/orders/{{sku}}?for={{who}}", server.address),
            "headers": {"Authorization": {"secret": "env:TOKEN", "prefix": "Bearer "}, "X-Shop": "main"},
            "body": {"lines": [{"sku": "{sku}", "count": "{count}"}], "note": "{sku} as text"},
            "result": "/order", "cost": "/price/total", "refund": "/bonus",
        }),
    );
    let mut asked = call(&json!({"sku": "X-1", "who": "a&b", "count": 2}));
    asked.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned();
    let done = Answer::Done { result: json!({"id": "O-1", "n": 2}), cost: 70, refund: 5 };
    assert_eq!(act(&http, asked).await, done);
    let requests = server.heard();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body, json!({"lines": [{"sku": "X-1", "count": 2}], "note": "{sku} as text"}));
    let head: Vec<String> = head.lines().map(str::to_ascii_lowercase).collect();
    assert_eq!(head[0], "post /v1/orders/x-1?for=a%26b http/1.1");
    for line in [
        format!("authorization: bearer {SECRET}"),
        format!("idempotency-key: {KEY}"),
        format!("host: {}", server.address),
        "content-type: application/json".to_owned(),
        "x-shop: main".to_owned(),
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
    ] {
        assert!(head.contains(&line), "{line} is not in {head:?}");
    }
}

#[tokio::test]
async fn without_a_body_of_its_own_the_parameters_are_the_body() {
    let server = Server::saying(answer("204 No Content", "", "")).await;
    let http = at(server.address, &json!({"cost": 9}));
    assert_eq!(
        act(&http, call(&json!({"sku": "X"}))).await,
        Answer::Done { result: json!({}), cost: 9, refund: 0 }
    );
    assert!(server.heard()[0].ends_with("\r\n\r\n{\"sku\":\"X\"}"), "{:?}", server.heard());
}

#[tokio::test]
async fn a_parameter_stays_one_segment_and_what_cannot_is_never_sent() {
    let server = Server::saying(answer("200 OK", "", "{}")).await;
    let url = format!("http://{}/v1/orders/{{sku}}/lines", server.address);
    let http = at(server.address, &json!({"url": url, "method": "DELETE"}));
    let answer = act(&http, call(&json!({"sku": "../admin?x="}))).await;
    assert!(matches!(answer, Answer::Done { .. }), "{answer:?}");
    let heard = server.heard();
    assert!(heard[0].starts_with("DELETE /v1/orders/..%2Fadmin%3Fx%3D/lines HTTP/1.1\r\n"), "{heard:?}");
    for sku in [json!(".."), json!("."), json!(""), json!(null), json!(["a"])] {
        let answer = act(&http, call(&json!({"sku": sku}))).await;
        assert!(matches!(answer, Answer::Refused { cost: 0, .. }), "{sku}: {answer:?}");
    }
    let answer = act(&http, call(&json!({}))).await;
    assert!(matches!(answer, Answer::Refused { cost: 0, .. }), "{answer:?}");
    assert_eq!(server.heard().len(), 1);
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_by_name() {
    let action = |over: &serde_json::Value| {
        let mut action = json!({"name": "act", "method": "POST", "url": "https://h:443/x"});
        for (field, value) in over.as_object().expect("fields") {
            action[field] = value.clone();
        }
        json!([action])
    };
    let hosts = json!([{"authority": "h:443"}, {"authority": "p:80", "plain": true}]);
    assert!(connector(&hosts, &action(&json!({}))).is_ok());
    for (over, said) in [
        (json!({"url": "https://other/x"}), "other:443 is not listed"),
        (json!({"url": "http://h:443/x"}), "not listed as plain"),
        (json!({"url": "https://p:80/x"}), "listed as plain"),
        (json!({"url": "https://{host}/x"}), "is no host"),
        (json!({"url": "https://h/{$other}"}), "{$other}"),
        (json!({"probe": {"url": "https://h/{sku}"}}), "{sku}"),
        (json!({"probe": {"url": "https://other/{$key}"}}), "other:443 is not listed"),
        (json!({"headers": {"Host": "elsewhere"}}), "Host"),
        (json!({"headers": {"A": {"secret": "env:NONE"}}}), "NONE"),
        (json!({"headers": {"A": {"secret": "plainly-written"}}}), "env:NAME"),
        (json!({"method": "GET", "body": {}}), "GET"),
        (json!({"method": "TRACE"}), "TRACE"),
        (json!({"timeout": 1}), "timeout"),
    ] {
        let why = connector(&hosts, &action(&over)).expect_err("it cannot be used");
        assert!(why.contains(said) && !why.contains("plainly-written"), "{over}: {why}");
    }
    let twice = json!([action(&json!({}))[0], action(&json!({}))[0]]);
    assert!(connector(&hosts, &twice).is_err_and(|why| why.contains("twice")));
}

#[tokio::test]
async fn an_action_declares_what_its_settings_say() {
    let hosts = json!([{"authority": "h:443"}]);
    let actions = json!([
        {"name": "post", "method": "POST", "url": "https://h/{a}?k={$key}", "body": {"b": ["{b}"]}},
        {"name": "put", "method": "PUT", "url": "https://h/x"},
        {"name": "probed", "method": "POST", "url": "https://h/x", "probe": {"url": "https://h/{$key}"}},
        {"name": "never", "method": "DELETE", "url": "https://h/x", "compensates": false, "idempotent": false},
    ]);
    let http = connector(&hosts, &actions).expect("it can be used");
    let declared = |name: &str| {
        let declared = http.action(name).expect("it is there");
        (declared.idempotent, declared.can_probe, declared.can_compensate)
    };
    assert_eq!(declared("post"), (false, false, false));
    assert_eq!(declared("put"), (true, false, true));
    assert_eq!(declared("probed"), (false, true, true));
    assert_eq!(declared("never"), (false, false, false));
    let parameters = http.action("post").expect("it is there").parameters;
    assert_eq!(parameters.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(http.action("other"), None);
}
