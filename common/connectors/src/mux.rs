//! `mux`: the Market Integration Layer, by AMQP request and reply.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dat_bus::{Aside, Message, Received, RpcClient, RpcError};
use dat_plan::mux::{
    ActionReply, ActionRequest, ActionStatus, PROBE, PROGRESS, ProbeReply, ProbeRequest, ProbeStatus,
    ProgressReport,
};
use dat_plan::{Progress, amount};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::connector::{Answer, Call, Connector, Declaration, ProbeAnswer, Reached, Rehearsal};
use crate::listener::Listener;

/// The most that AMQP carries as a routing key.
const ROUTING_KEY_BYTES: usize = 255;

/// The largest message that is looked through for a report of progress where its `type` does not say that it is one.
const REPORT_BYTES: usize = 4_096;

/// The connector `mux`.
pub struct Mux {
    rpc: RpcClient,
    exchange: String,
}

impl Mux {
    /// Asks MUX through an exchange, by a client with its own reply queue.
    pub fn new(rpc: RpcClient, exchange: impl Into<String>) -> Self {
        Self { rpc, exchange: exchange.into() }
    }
}

#[async_trait]
impl Connector for Mux {
    fn declaration(&self) -> Declaration {
        Declaration {
            name: "mux",
            idempotent: true,
            can_probe: true,
            can_compensate: true,
            reports_progress: true,
        }
    }

    async fn act(&self, call: Call) -> Answer {
        let deadline = Instant::now() + call.timeout;
        let Ok(body) = serde_json::to_vec(&call.request) else {
            return Answer::NotSent { detail: "the request has no JSON form".to_owned() };
        };
        let message = Message::json(&self.exchange, &call.request.action, body)
            .message_id(format!("{}/{}", call.request.idempotency_key, call.request.attempt))
            .kind(&call.request.action)
            // Past its deadline the request is worthless: the broker may drop it, and MUX refuses it by `not_after`.
            .expiration_ms(u64::try_from(call.timeout.as_millis()).unwrap_or(u64::MAX))
            .persistent(false)
            .traceparent(&call.traceparent);
        let aside = Arc::new(Heard { listener: call.listener });
        match self.rpc.call_with(message, deadline, aside).await {
            Ok(reply) => read_reply(&reply.body),
            Err(RpcError::NotSent(why)) => Answer::NotSent { detail: format!("MUX was not reached: {why}") },
            Err(RpcError::MaybeSent(why)) => {
                Answer::Unanswered { detail: format!("no answer from MUX: {why}") }
            }
        }
    }

    fn rehearse(&self, call: &Call) -> Rehearsal {
        rehearsed(&self.exchange, &call.request)
    }

    async fn probe(
        &self,
        _: &str,
        idempotency_key: &str,
        _: DateTime<Utc>,
        timeout: Duration,
    ) -> ProbeAnswer {
        let deadline = Instant::now() + timeout;
        let request = ProbeRequest { idempotency_key: idempotency_key.to_owned() };
        let message = Message::json(&self.exchange, PROBE, json!(request).to_string())
            .message_id(format!("probe/{idempotency_key}"))
            .kind(PROBE)
            .persistent(false);
        match self.rpc.call(message, deadline).await {
            Ok(reply) => read_probe(&reply.body),
            Err(error) => {
                let detail = format!("MUX could not be asked: {error}");
                ProbeAnswer::Unknown { detail, answered: false, reached: Reached::No }
            }
        }
    }
}

/// What MUX says of a request beside its answer.
struct Heard {
    listener: Arc<dyn Listener>,
}

impl Aside for Heard {
    fn interim(&self, message: &Received) -> bool {
        if !is_report(message) {
            return false;
        }
        if let Some(progress) = read_progress(message).and_then(Progress::kept) {
            self.listener.progress(progress);
        }
        true
    }

    fn late(&self, answer: Received) {
        self.listener.late(read_reply(&answer.body));
    }
}

/// What would be published, and whether the broker could carry it.
fn rehearsed(exchange: &str, request: &ActionRequest) -> Rehearsal {
    let refused = |detail: &str| Rehearsal::Refused { detail: detail.to_owned() };
    if request.action == PROBE {
        return refused("'probe' is how DAT asks after a key, and no action");
    }
    if request.action.len() > ROUTING_KEY_BYTES {
        return refused("the action is longer than a routing key can be");
    }
    match serde_json::to_vec(request) {
        Ok(body) => Rehearsal::Fine {
            detail: format!(
                "it would publish {} to {exchange}, {} bytes, under the key {}, for at most {} {}",
                request.action,
                body.len(),
                request.idempotency_key,
                request.max_cost,
                request.currency,
            ),
            result: None,
        },
        Err(_) => refused("the request has no JSON form"),
    }
}

/// Whether a message is a report of progress, and so not the answer.
fn is_report(message: &Received) -> bool {
    if message.kind.as_deref() == Some(PROGRESS) {
        return true;
    }
    message.body.len() <= REPORT_BYTES
        && serde_json::from_slice::<Status>(&message.body).is_ok_and(|status| status.status == PROGRESS)
}

/// What can be read of a report of progress.
fn read_progress(message: &Received) -> Option<Progress> {
    serde_json::from_slice::<ProgressReport>(&message.body).ok().map(|report| report.progress)
}

/// What every message of MUX's begins to be read by.
#[derive(Deserialize)]
struct Status {
    status: String,
}

/// An answer that cannot be read leaves the outcome unknown: something may well have happened.
fn read_reply(body: &[u8]) -> Answer {
    let reply: ActionReply = match serde_json::from_slice(body) {
        Ok(reply) => reply,
        Err(error) => return Answer::Unanswered { detail: format!("MUX's answer cannot be read: {error}") },
    };
    if ![reply.cost, reply.refund].iter().all(|a| (0..=amount::MAX).contains(a)) {
        return Answer::Unanswered { detail: "MUX's answer has an amount out of bounds".to_owned() };
    }
    let detail = reply.message.unwrap_or_else(|| "MUX gave no message".to_owned());
    match reply.status {
        ActionStatus::Ok => Answer::Done {
            result: reply.result.unwrap_or_else(|| json!({})),
            cost: reply.cost,
            refund: reply.refund,
        },
        ActionStatus::Error => {
            let retry_after_ms = reply.retry_after_ms.unwrap_or(0);
            Answer::Error { cost: reply.cost, detail, retry_after_ms, ill: false }
        }
        ActionStatus::Refused => Answer::Refused { cost: reply.cost, detail },
    }
}

fn read_probe(body: &[u8]) -> ProbeAnswer {
    let reply: ProbeReply = match serde_json::from_slice(body) {
        Ok(reply) => reply,
        Err(error) => {
            let detail = format!("MUX's answer cannot be read: {error}");
            return ProbeAnswer::Unknown { detail, answered: true, reached: Reached::Yes };
        }
    };
    let amounts_fit = [reply.cost, reply.refund].iter().all(|a| (0..=amount::MAX).contains(a));
    match reply.status {
        ProbeStatus::Done if amounts_fit => ProbeAnswer::Done {
            result: reply.result.unwrap_or(Value::Object(serde_json::Map::new())),
            cost: reply.cost,
            refund: reply.refund,
        },
        ProbeStatus::Done => {
            let detail = "MUX's answer has an amount out of bounds".to_owned();
            ProbeAnswer::Unknown { detail, answered: true, reached: Reached::Yes }
        }
        ProbeStatus::Sealed => ProbeAnswer::Sealed,
        ProbeStatus::Unknown => {
            let detail = "MUX cannot tell".to_owned();
            ProbeAnswer::Unknown { detail, answered: true, reached: Reached::Yes }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_reads_by_the_contract_and_absent_amounts_are_nothing() {
        assert_eq!(
            read_reply(br#"{"status": "ok"}"#),
            Answer::Done { result: json!({}), cost: 0, refund: 0 }
        );
        assert_eq!(
            read_reply(br#"{"status": "error", "message": "busy", "retry_after_ms": 50}"#),
            Answer::Error { cost: 0, detail: "busy".to_owned(), retry_after_ms: 50, ill: false }
        );
        assert!(matches!(read_reply(br#"{"status": "refused"}"#), Answer::Refused { cost: 0, .. }));
    }

    #[test]
    fn a_rehearsal_says_what_would_be_published_and_refuses_what_never_could_be() {
        let request = |action: &str| ActionRequest {
            action: action.to_owned(),
            parameters: serde_json::Map::new(),
            idempotency_key: "p/1/a/1".to_owned(),
            not_after: DateTime::UNIX_EPOCH,
            max_cost: 20,
            currency: "usd".to_owned(),
            tenant: "acme".to_owned(),
            plan_id: uuid::Uuid::nil(),
            plan_version: 1,
            step: "a".to_owned(),
            attempt: 1,
            undo_of: None,
        };
        let Rehearsal::Fine { detail, result: None } = rehearsed("mux", &request("ads.on")) else {
            panic!("it can be sent")
        };
        assert!(
            detail.contains("ads.on to mux") && detail.contains("p/1/a/1, for at most 20 usd"),
            "{detail}"
        );
        for action in [PROBE, &"x".repeat(256)] {
            assert!(matches!(rehearsed("mux", &request(action)), Rehearsal::Refused { .. }), "{action}");
        }
    }

    #[test]
    fn a_report_of_progress_is_known_by_its_type_or_its_status_and_no_answer_is_taken_for_one() {
        let read = |kind: Option<&str>, body: &[u8]| {
            let kind = kind.map(str::to_owned);
            let message = Received { kind, body: body.to_vec(), ..Received::default() };
            (is_report(&message), read_progress(&message).filter(|_| is_report(&message)))
        };
        let said = |done, total| (true, Some(Progress { done, total, message: None }));
        assert_eq!(read(None, br#"{"status": "progress", "done": 3, "total": 10}"#), said(Some(3), Some(10)));
        assert_eq!(read(Some("progress"), br#"{"status": "progress", "more": 1}"#), said(None, None));
        // A report that cannot be read is one all the same: the call goes on waiting.
        assert_eq!(read(Some("progress"), b"not json"), (true, None));
        assert_eq!(read(None, br#"{"status": "progress", "done": "three"}"#), (true, None));
        for answer in [&b"not json"[..], br#"{"status": "ok"}"#, br#"{"status": 1}"#, b"{}"] {
            assert_eq!(read(None, answer), (false, None));
        }
        let large = format!(r#"{{"status": "progress", "message": "{}"}}"#, "x".repeat(REPORT_BYTES));
        assert_eq!(read(None, large.as_bytes()), (false, None));
    }

    #[test]
    fn what_cannot_be_read_is_never_taken_for_a_failure() {
        for body in [&b"not json"[..], br#"{"status": "fine"}"#, br#"{"status": "ok", "cost": -1}"#] {
            assert!(matches!(read_reply(body), Answer::Unanswered { .. }));
        }
        for body in [&b"not json"[..], br#"{"status": "done", "cost": -1}"#] {
            assert!(matches!(read_probe(body), ProbeAnswer::Unknown { answered: true, .. }));
        }
        assert_eq!(read_probe(br#"{"status": "sealed"}"#), ProbeAnswer::Sealed);
    }
}
