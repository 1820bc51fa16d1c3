//! Against a server that this project did not write: `make http-mock` starts one that is made from a public `OpenAPI`
//! document, the pet store (`petstore.json` beside this; its source and licence are in `PETSTORE.md`), and holds every
//! request against it. Without its address nothing is tested here.

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
    let place = json!({
        "method": "POST", "url": "/store/order", "result": "/quantity",
        "body": {"petId": "{pet}", "quantity": "{quantity}", "status": "placed"},
    });
    let answer = act(&store(&address, &place), call(&json!({"pet": 7, "quantity": 2}))).await;
    assert!(matches!(&answer, Answer::Done { result: Value::Number(_), cost: 0, refund: 0 }), "{answer:?}");
    let find = json!({"method": "GET", "url": "/pet/{id}", "result": "", "headers": {"api_key": {"secret": "env:TOKEN"}}});
    let answer = act(&store(&address, &find), call(&json!({"id": 7}))).await;
    let Answer::Done { result: Value::Object(pet), .. } = &answer else { panic!("{answer:?}") };
    assert!(pet.contains_key("name") && pet.contains_key("photoUrls"), "{answer:?}");
    // The document has the id of a pet as an integer: a value stays one segment, and one that is none is refused.
    let answer = act(&store(&address, &find), call(&json!({"id": "../store/inventory"}))).await;
    assert!(matches!(answer, Answer::Refused { cost: 0, .. }), "{answer:?}");
    assert!(detail(&answer).contains("400"), "{answer:?}");
}

#[tokio::test]
async fn the_mock_refuses_what_its_document_forbids_and_no_secret_comes_back() {
    let Some(address) = mock() else { return };
    // A pet without the list that the document requires: a body that is not what the document has.
    let add = json!({"method": "POST", "url": "/pet", "body": {"name": "{name}"}});
    let answer = act(&store(&address, &add), call(&json!({"name": "Rex"}))).await;
    assert!(matches!(answer, Answer::Refused { cost: 0, .. }), "{answer:?}");
    assert!(!format!("{answer:?}").contains(SECRET), "{answer:?}");
    assert!(detail(&answer).contains("422"), "{answer:?}");
    // With it the body is taken, and answered by the one answer that the document has for it.
    let whole =
        json!({"method": "POST", "url": "/pet", "body": {"name": "{name}", "photoUrls": ["{photo}"]}});
    let rex = json!({"name": "Rex", "photo": "https://pets.example/rex.png"});
    let answer = act(&store(&address, &whole), call(&rex)).await;
    assert!(detail(&answer).contains("405"), "{answer:?}");
    // A number where the document has one, and not a text that looks like it.
    let place = json!({"method": "POST", "url": "/store/order", "body": {"petId": "{pet}"}});
    let answer = act(&store(&address, &place), call(&json!({"pet": "seven"}))).await;
    assert!(matches!(answer, Answer::Refused { cost: 0, .. }), "{answer:?}");
    // Without the key that the document asks for.
    let open = json!({"method": "GET", "url": "/store/inventory", "headers": {"Authorization": "none"}});
    let answer = act(&store(&address, &open), call(&json!({}))).await;
    assert!(matches!(answer, Answer::Refused { cost: 0, .. }), "{answer:?}");
    assert!(detail(&answer).contains("401"), "{answer:?}");
    // The mock gives the answer of the document that is preferred.
    let find = json!({
        "method": "GET", "url": "/pet/{id}",
        "headers": {"api_key": {"secret": "env:TOKEN"}, "Prefer": "code=404"},
    });
    let answer = act(&store(&address, &find), call(&json!({"id": 7}))).await;
    assert!(matches!(answer, Answer::Refused { cost: 0, .. }), "{answer:?}");
    assert!(detail(&answer).contains("404"), "{answer:?}");
}
