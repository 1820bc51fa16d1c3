//! Lifecycle events as they come from `dat.events`: `CloudEvents` 1.0 JSON, one or a batch in a message.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::contract;

/// How a plan ended, as far as a load test goes on watching it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// Every step completed.
    Completed,
    /// It was unwound.
    Aborted,
    /// Governance said no.
    Rejected,
    /// It was never registered.
    Refused,
    /// Its rollback cannot finish; only an operator ends it.
    Stuck,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::Aborted => "aborted",
            Self::Rejected => "rejected",
            Self::Refused => "refused",
            Self::Stuck => "stuck",
        })
    }
}

/// What an event says, as far as a load test counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// The plan was approved.
    Approved,
    /// A step, by its key, completed.
    StepCompleted(String),
    /// The plan ended.
    Ended(End),
}

/// An event about a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// What to deduplicate by: the `message_id`.
    pub(crate) id: String,
    /// The plan.
    pub(crate) plan: Uuid,
    /// Its place in the plan's stream; `None` for an event of another stream.
    pub(crate) sequence: Option<u64>,
    /// When it happened, by DAT's clock.
    pub(crate) at: DateTime<Utc>,
    /// What happened.
    pub(crate) news: News,
    /// Why, where it says so.
    pub(crate) reason: Option<String>,
}

/// An event on the wire.
#[derive(Deserialize)]
struct Envelope {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    sequence: String,
    time: DateTime<Utc>,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    plan_id: Option<Uuid>,
    step: Option<String>,
    message_id: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    faults: Vec<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    pointer: String,
    message: String,
}

/// Reads the events of a message, leaving out those that are not counted. Fails if one of them is not as the contract
/// has it.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Event>, serde_json::Error> {
    if body.first() == Some(&b'[') {
        let envelopes: Vec<Envelope> = serde_json::from_slice(body)?;
        Ok(envelopes.into_iter().filter_map(Envelope::event).collect())
    } else {
        Ok(serde_json::from_slice::<Envelope>(body)?.event().into_iter().collect())
    }
}

impl Envelope {
    fn event(self) -> Option<Event> {
        let Data { plan_id, step, message_id, reason, faults } = self.data;
        let news = match self.kind.strip_prefix(contract::TYPE_PREFIX)? {
            contract::PLAN_APPROVED => News::Approved,
            contract::PLAN_COMPLETED => News::Ended(End::Completed),
            contract::PLAN_ABORTED => News::Ended(End::Aborted),
            contract::PLAN_REJECTED => News::Ended(End::Rejected),
            contract::PLAN_STUCK => News::Ended(End::Stuck),
            contract::STEP_COMPLETED => News::StepCompleted(step?),
            contract::SUBMISSION_REJECTED => {
                // No plan is touched by a refusal: it names the message, and a run's messages are named after plans.
                let plan = message_id?.parse().ok()?;
                let reason = faults.first().map(|Fault { pointer, message }| format!("{pointer}: {message}"));
                let news = News::Ended(End::Refused);
                return Some(Event { id: self.id, plan, sequence: None, at: self.time, news, reason });
            }
            _ => return None,
        };
        let sequence = self.sequence.parse().ok();
        Some(Event { id: self.id, plan: plan_id?, sequence, at: self.time, news, reason })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn plan(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    /// An event at a place of a plan's stream, as many milliseconds after 1970 as the place says.
    pub(crate) fn event(plan: Uuid, sequence: u64, news: News) -> Event {
        let at = DateTime::from_timestamp_millis(i64::try_from(sequence).expect("small")).expect("in range");
        Event { id: format!("{plan}/1/{sequence}"), plan, sequence: Some(sequence), at, news, reason: None }
    }

    fn envelope(kind: &str, data: &Value) -> Value {
        json!({
            "specversion": "1.0", "id": "e", "source": "dat", "type": kind, "subject": plan(1), "sequence": "7",
            "time": "2026-11-22T10:00:00.000001Z", "datacontenttype": "application/json", "data": data,
        })
    }

    fn read_one(kind: &str, data: &Value) -> Option<Event> {
        read(envelope(kind, data).to_string().as_bytes()).expect("readable").pop()
    }

    #[test]
    fn what_is_counted_is_read_and_the_rest_left_out() {
        let data = json!({"plan_id": plan(1), "plan_version": 1, "tenant": "t", "step": "s0", "attempt": 1, "cost": 0});
        let event = read_one("dat.step.completed", &data).expect("counted");
        assert_eq!((event.plan, event.sequence), (plan(1), Some(7)));
        assert_eq!(event.news, News::StepCompleted("s0".to_owned()));
        assert_eq!(read_one("dat.plan.stuck", &data).expect("counted").news, News::Ended(End::Stuck));
        assert_eq!(read_one("dat.plan.staged", &data), None);
        assert_eq!(read_one("elsewhere.plan.completed", &data), None);
    }

    #[test]
    fn a_refusal_is_about_the_plan_that_its_message_was_named_after() {
        let faults = json!([{"pointer": "/steps", "code": "required", "message": "is missing"}]);
        let event = read_one(
            "dat.submission.rejected",
            &json!({"message_id": plan(2).to_string(), "faults": faults}),
        )
        .expect("counted");
        assert_eq!((event.plan, event.sequence, event.news), (plan(2), None, News::Ended(End::Refused)));
        assert_eq!(event.reason.as_deref(), Some("/steps: is missing"));
        assert_eq!(read_one("dat.submission.rejected", &json!({"message_id": "another producer's"})), None);
    }

    #[test]
    fn a_batch_is_many_events() {
        let data = json!({"plan_id": plan(1)});
        let batch = json!([envelope("dat.plan.approved", &data), envelope("dat.plan.completed", &data)]);
        assert_eq!(read(batch.to_string().as_bytes()).expect("readable").len(), 2);
        assert!(read(b"{}").is_err());
    }
}
