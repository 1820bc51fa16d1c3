//! `echo`: answers its parameters, in the process. It has no effects; it is there to measure what DAT itself costs.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::connector::{Answer, Call, Connector, Declaration, ProbeAnswer, Rehearsal};

/// The connector `echo`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

#[async_trait]
impl Connector for Echo {
    fn declaration(&self) -> Declaration {
        Declaration {
            name: "echo",
            idempotent: true,
            can_probe: true,
            can_compensate: true,
            reports_progress: false,
        }
    }

    /// The result is the parameters; the cost is the number `cost` among them, at most the step's `max_cost`.
    async fn act(&self, call: Call) -> Answer {
        let cost = call.request.parameters.get("cost").and_then(Value::as_i64).unwrap_or(0);
        let cost = cost.clamp(0, call.request.max_cost);
        Answer::Done { result: Value::Object(call.request.parameters), cost, refund: 0 }
    }

    /// As it acts; what would be cut to `max_cost` is said.
    fn rehearse(&self, call: &Call) -> Rehearsal {
        let request = &call.request;
        let cost = request.parameters.get("cost").and_then(Value::as_i64).unwrap_or(0);
        let cut = if (0..=request.max_cost).contains(&cost) { "" } else { ", cut to what is allowed" };
        let detail = format!("it would answer its parameters and cost {cost}{cut}");
        Rehearsal::Fine { detail, result: Some(Value::Object(request.parameters.clone())) }
    }

    /// Nothing outside the process ever happened.
    async fn probe(&self, _: &str, _: &str, _: DateTime<Utc>, _: Duration) -> ProbeAnswer {
        ProbeAnswer::Sealed
    }
}
