//! Against a server that this project did not write: `make http-mock` starts one that is made from a public `OpenAPI`
//! document, the pet store, and holds every request against it. Without its address nothing is tested here.

use dat_connectors::{Answer, Http};
use serde_json::{Value, json};

use crate::{SECRET, act, call, connector, detail};

/// The mock server, as `host:port`.
fn mock() -> Option<String> {
    std::env::var("DAT_TEST_HTTP_MOCK").ok()
}

/// A connector with one action of the pet store.
fn store(address: &str, action: &Value) -> Http {
    let mut full = json!({
        "name": "act", "headers": {"Authorization": {"secret": "env:TOKEN", "prefix": "Bearer "}},
    });
    for (field, value) in action.as_object().expect("fields") {
        full[field] = value.clone();
    }
    full["url"] = json!(format!("http://{address}{}", action["url"].as_str().expect("a path")));
    let hosts = json!([{"authority": address, "plain": true, "private": true}]);
    connector(&hosts, &json!([full])).expect("it can be used")
}

#[tokio::test]
async fn the_mock_takes_what_its_document_allows_and_answers_as_it_says() {
    let Some(address) = mock() else { return };
    let add = json!({
        "method": "POST", "url": "/pet", "result": "/name",
        "body": {"name": "{name}", "photoUrls": ["{photo}"], "status": "available"},
    });
    let rex = json!({"name": "Rex", "photo": "https://pets.example/rex.png"});
    let answer = act(&store(&address, &add), call(&rex)).await;
    assert!(matches!(&answer, Answer::Done { result: Value::String(_), cost: 0, refund: 0 }), "{answer:?}");
    // The document has the id of a pet as an integer: a segment that is none is refused by the mock.
    let find = json!({"method": "GET", "url": "/pet/{id}", "result": "", "headers": {"api_key": {"secret": "env:TOKEN"}}});
    let answer = act(&store(&address, &find), call(&json!({"id": 7}))).await;
    assert!(matches!(&answer, Answer::Done { result: Value::Object(_), .. }), "{answer:?}");
    let answer = act(&store(&address, &find), call(&json!({"id": "../store/inventory"}))).await;
    assert!(matches!(answer, Answer::Refused { cost: 0, .. }), "{answer:?}");
    let delete = json!({"method": "DELETE", "url": "/pet/{id}"});
    let answer = act(&store(&address, &delete), call(&json!({"id": 7}))).await;
    assert!(!matches!(answer, Answer::NotSent { .. } | Answer::Unanswered { .. }), "{answer:?}");
}

#[tokio::test]
async fn the_mock_refuses_what_its_document_forbids_and_no_secret_comes_back() {
    let Some(address) = mock() else { return };
    // A pet without the list that the document requires.
    let add = json!({"method": "POST", "url": "/pet", "body": {"name": "{name}"}});
    let answer = act(&store(&address, &add), call(&json!({"name": "Rex"}))).await;
    assert!(matches!(answer, Answer::Refused { cost: 0, .. }), "{answer:?}");
    assert!(!format!("{answer:?}").contains(SECRET), "{answer:?}");
    assert!(detail(&answer).contains("422"), "{answer:?}");
    // The mock gives the answer of the document that is preferred.
    let find = json!({
        "method": "GET", "url": "/pet/{id}",
        "headers": {"api_key": {"secret": "env:TOKEN"}, "Prefer": "code=404"},
    });
    let answer = act(&store(&address, &find), call(&json!({"id": 7}))).await;
    assert!(matches!(answer, Answer::Refused { cost: 0, .. }), "{answer:?}");
    assert!(detail(&answer).contains("404"), "{answer:?}");
}
