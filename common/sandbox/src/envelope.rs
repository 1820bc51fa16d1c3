//! Events as they come in: `CloudEvents` 1.0 JSON, one a message or a batch of them.

use chrono::{DateTime, Utc};
use dat_plan::PlanKey;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::Value;
use uuid::Uuid;

/// An event as it came. Fields that this version does not know are passed over.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Envelope {
    /// The same however often the event is published.
    pub(crate) id: String,
    /// `dat.` and the routing key.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Its place in its plan version: a string on the wire, a number here, since `"9"` comes before `"10"`.
    #[serde(deserialize_with = "number")]
    pub(crate) sequence: i64,
    /// When it happened.
    #[serde(default)]
    pub(crate) time: Option<DateTime<Utc>>,
    /// What it says.
    #[serde(default)]
    pub(crate) data: Value,
}

impl Envelope {
    /// The plan version it is about; [`PlanKey::CONTROL`] where it names none.
    pub(crate) fn plan(&self) -> PlanKey {
        #[derive(Deserialize)]
        struct Named {
            plan_id: Uuid,
            plan_version: i32,
        }
        Named::deserialize(&self.data)
            .map_or(PlanKey::CONTROL, |named| PlanKey::new(named.plan_id, named.plan_version))
    }
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom(format!("the sequence '{text}' is not a number")))
}

/// Reads a message: an event, or an array of events, each of which stands or falls alone.
pub(crate) fn read(body: &[u8]) -> Vec<Result<Envelope, serde_json::Error>> {
    match serde_json::from_slice(body) {
        Ok(Value::Array(batch)) => batch.into_iter().map(serde_json::from_value).collect(),
        Ok(one) => vec![serde_json::from_value(one)],
        Err(fault) => vec![Err(fault)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(sequence: &str) -> Value {
        json!({"specversion": "1.0", "id": format!("p/1/{sequence}"), "type": "dat.step.failed",
               "source": "dat", "sequence": sequence, "data": {"plan_id": Uuid::max(), "plan_version": 2}})
    }

    #[test]
    fn one_event_or_a_batch() {
        let one = read(event("10").to_string().as_bytes());
        assert!(matches!(&one[..], [Ok(e)] if e.sequence == 10 && e.plan() == PlanKey::new(Uuid::max(), 2)));
        assert_eq!(read(json!([event("1"), event("2")]).to_string().as_bytes()).len(), 2);
    }

    #[test]
    fn a_bad_member_of_a_batch_does_not_spoil_the_others() {
        let batch = read(json!([event("1"), event("one"), 7]).to_string().as_bytes());
        assert!(matches!(&batch[..], [Ok(_), Err(_), Err(_)]));
        assert!(matches!(&read(b"{")[..], [Err(_)]));
    }
}
