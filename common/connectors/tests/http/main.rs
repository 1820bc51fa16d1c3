//! The connector `http` against servers that answer well, badly, too much, half, or not at all.

mod answers;
mod limits;
mod mock;
mod probes;
mod requests;
mod server;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dat_connectors::http::HttpSettings;
use dat_connectors::{Answer, Call, Connector, Http, Nobody};
use dat_plan::Clock as _;
use dat_plan::clock::SystemClock;
use dat_plan::mux::ActionRequest;
use serde_json::{Value, json};
use uuid::Uuid;

/// What nobody may ever be told.
const SECRET: &str = "tok-5f1c9e";
const KEY: &str = "0199d3a4-7c1e-7b1a-9c44-0a3f5d0c7421/1/order/1";

fn now() -> DateTime<Utc> {
    SystemClock.now()
}

/// A connector whose actions go to hosts of these settings, with the secret in the variable `TOKEN`.
fn connector(hosts: &Value, actions: &Value) -> Result<Http, String> {
    let settings = json!({"host": hosts, "action": actions, "max_body_bytes": 1000, "clock_skew_ms": 1000});
    let settings: HttpSettings = serde_json::from_value(settings).map_err(|error| error.to_string())?;
    let variable = |name: &str| (name == "TOKEN").then(|| SECRET.to_owned());
    Http::new(&settings, Arc::new(SystemClock), &variable).map_err(|error| error.to_string())
}

/// A connector with one action `act`, at a local server. The action's fields go over the usual ones.
fn at(address: SocketAddr, action: &Value) -> Http {
    let mut usual = json!({"name": "act", "method": "POST", "url": format!("http://{address}/v1/orders")});
    for (field, value) in action.as_object().expect("fields") {
        usual[field] = value.clone();
    }
    let hosts = json!([{"authority": address.to_string(), "plain": true, "private": true}]);
    connector(&hosts, &json!([usual])).expect("it can be used")
}

/// A request for the action `act`, which has ten seconds.
fn call(parameters: &Value) -> Call {
    let Value::Object(parameters) = parameters.clone() else { panic!("parameters are an object") };
    Call {
        request: ActionRequest {
            action: "act".to_owned(),
            parameters,
            idempotency_key: KEY.to_owned(),
            not_after: now() + TimeDelta::seconds(10),
            max_cost: 100,
            currency: "usd".to_owned(),
            tenant: "acme".to_owned(),
            plan_id: Uuid::nil(),
            plan_version: 1,
            step: "order".to_owned(),
            attempt: 1,
            undo_of: None,
        },
        timeout: Duration::from_secs(10),
        traceparent: String::new(),
        listener: Arc::new(Nobody),
    }
}

/// The same with no time to speak of, for what never comes.
fn brief(parameters: &Value) -> Call {
    Call { timeout: Duration::from_millis(300), ..call(parameters) }
}

async fn act(connector: &Http, call: Call) -> Answer {
    connector.act(call).await
}

fn detail(answer: &Answer) -> &str {
    match answer {
        Answer::Error { detail, .. }
        | Answer::Refused { detail, .. }
        | Answer::NotSent { detail }
        | Answer::Unanswered { detail } => detail,
        Answer::Done { .. } => panic!("it is done: {answer:?}"),
    }
}
