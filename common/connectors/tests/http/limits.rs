//! What is never sent, and where nothing is ever sent to.

use chrono::TimeDelta;
use dat_connectors::Answer;
use serde_json::json;
use tokio::net::TcpListener;

use crate::server::{Server, answer};
use crate::{act, at, brief, call, connector, detail, now};

#[tokio::test]
async fn what_broke_before_it_was_sent_was_not_sent() {
    let unused = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = unused.local_addr().expect("an address");
    drop(unused);
    let answer_of = act(&at(nobody, &json!({})), call(&json!({}))).await;
    assert!(matches!(answer_of, Answer::NotSent { .. }), "{answer_of:?}");

    // Speaks no TLS.
    let server = Server::saying(answer("200 OK", "", "{}")).await;
    let hosts = json!([{"authority": server.address.to_string(), "private": true}]);
    let url = format!("https://{}/x", server.address);
    let http = connector(&hosts, &json!([{"name": "act", "method": "POST", "url": url}])).expect("settings");
    let not_greeted = act(&http, call(&json!({"sku": "X"}))).await;
    assert!(matches!(not_greeted, Answer::NotSent { .. }), "{not_greeted:?}");
    assert!(detail(&not_greeted).contains("no TLS"), "{not_greeted:?}");
    assert!(!server.heard().concat().contains("POST"), "{:?}", server.heard());

    let hosts = json!([{"authority": "no-such-host.invalid:443"}]);
    let url = "https://no-such-host.invalid/x";
    let http = connector(&hosts, &json!([{"name": "act", "method": "POST", "url": url}])).expect("settings");
    let not_found = act(&http, call(&json!({}))).await;
    assert!(matches!(not_found, Answer::NotSent { .. }), "{not_found:?}");
}

#[tokio::test]
async fn a_greeting_that_never_ends_is_nothing_sent() {
    // Accepts by the backlog, and never answers the greeting of TLS.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address");
    let hosts = json!([{"authority": address.to_string(), "private": true}]);
    let url = format!("https://{address}/x");
    let http = connector(&hosts, &json!([{"name": "act", "method": "POST", "url": url}])).expect("settings");
    let answer = act(&http, brief(&json!({}))).await;
    assert!(matches!(answer, Answer::NotSent { .. }), "{answer:?}");
}

#[tokio::test]
async fn what_may_not_be_accepted_any_more_is_not_sent() {
    let server = Server::saying(answer("200 OK", "", "{}")).await;
    let http = at(server.address, &json!({}));
    let mut late = call(&json!({}));
    late.request.not_after = now() - TimeDelta::milliseconds(1);
    let answer = act(&http, late).await;
    assert!(matches!(answer, Answer::NotSent { .. }), "{answer:?}");
    // The connection stood, and nothing came by it.
    assert!(server.heard().concat().is_empty(), "{:?}", server.heard());
    assert!(matches!(act(&http, call(&json!({}))).await, Answer::Done { .. }));
}

#[tokio::test]
async fn a_name_that_leads_to_a_private_address_is_refused_unless_it_is_listed() {
    let server = Server::saying(answer("200 OK", "", "{}")).await;
    let port = server.address.port();
    for name in ["localhost", "127.0.0.1"] {
        let url = format!("http://{name}:{port}/x");
        for private in [false, true] {
            let hosts = json!([{"authority": format!("{name}:{port}"), "plain": true, "private": private}]);
            let actions = json!([{"name": "act", "method": "POST", "url": url}]);
            let http = connector(&hosts, &actions).expect("settings");
            let answer = act(&http, call(&json!({}))).await;
            assert_eq!(matches!(answer, Answer::Done { .. }), private, "{name}: {answer:?}");
            assert!(private || detail(&answer).contains("private address"), "{answer:?}");
            assert!(private || matches!(answer, Answer::Refused { cost: 0, .. }), "{answer:?}");
        }
    }
    assert_eq!(server.heard().len(), 2);
}

#[tokio::test]
async fn a_redirect_is_followed_for_a_get_on_its_own_host_alone() {
    let elsewhere = Server::saying(answer("200 OK", "", "{}")).await;
    let other = elsewhere.address;
    let server = Server::start(move |request| {
        let to = match request {
            r if r.contains(" /away ") => format!("http://{other}/x"),
            r if r.contains(" /hidden ") => format!("//{other}/x"),
            r if r.contains(" /near ") => "/far".to_owned(),
            r if r.contains(" /far ") => "/there?x=1".to_owned(),
            r if r.contains(" /round ") => "/round".to_owned(),
            _ => return crate::server::Does::Says(answer("200 OK", "", r#"{"at": "last"}"#)),
        };
        let status = if request.starts_with("GET") { "302 Found" } else { "307 Temporary Redirect" };
        crate::server::Does::Says(answer(status, &format!("location: {to}\r\n"), ""))
    })
    .await;
    let ask = async |method: &str, path: &str| {
        let url = format!("http://{}/{path}", server.address);
        act(&at(server.address, &json!({"method": method, "url": url})), call(&json!({}))).await
    };
    assert_eq!(
        ask("GET", "near").await,
        Answer::Done { result: json!({"at": "last"}), cost: 0, refund: 0 },
        "{:?}",
        server.heard()
    );
    for (method, path) in [
        ("GET", "away"),
        ("GET", "hidden"),
        ("GET", "round"),
        ("POST", "away"),
        ("POST", "near"),
        ("PUT", "near"),
    ] {
        let answer = ask(method, path).await;
        assert!(matches!(answer, Answer::Refused { .. }), "{method} {path}: {answer:?}");
    }
    assert!(elsewhere.heard().is_empty(), "{:?}", elsewhere.heard());
    let posts = server.heard().iter().filter(|request| request.starts_with("POST")).count();
    assert_eq!(posts, 2, "neither was sent a second time");
}
