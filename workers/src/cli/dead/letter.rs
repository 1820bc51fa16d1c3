//! A parked message, as an operator sees it.

use chrono::{DateTime, Utc};
use dat_bus::{Delivery, DeliveryToken, HeaderValue, Message, Received};
use dat_topology::Stage;
use serde_json::Value;
use uuid::Uuid;

use crate::stage::USER;

/// How often a message was sent to its queue again.
const REPLAYS: &str = "x-dat-replays";
/// What says why a message is parked, and is not sent on with it.
const PARKING: [&str; 4] = ["x-dat-reason", "x-dat-faults", "x-dat-parked-at", USER];
/// What the broker says of a message that it parked itself, for the same reason.
const BROKERS: &str = "x-first-death-";

/// A parked message.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    /// Its `message_id`, or a name made from its content.
    pub(super) id: String,
    /// Why it is parked.
    pub(super) reason: String,
    /// Its first faults; none where the broker parked it.
    pub(super) faults: Value,
    /// When it was parked; for one that the broker parked, when it was made, if it says so.
    pub(super) parked_at: Option<DateTime<Utc>>,
    /// Who published it, as the broker validated it; none where the broker was told none.
    pub(super) user: Option<String>,
    /// How often it was replayed before.
    pub(super) replays: i64,
    /// The message.
    pub(super) message: Received,
    /// What takes it out of the queue.
    pub(super) token: DeliveryToken,
}

impl Letter {
    pub(super) fn of(stage: Stage, delivery: Delivery) -> Self {
        let Delivery { message, token } = delivery;
        let number = |name: &str| match message.headers.get(name) {
            Some(HeaderValue::Int(number)) => Some(*number),
            _ => None,
        };
        let by_content = || {
            let content = [stage.as_str().as_bytes(), b"\0", &message.body].concat();
            Uuid::new_v5(&Uuid::NAMESPACE_OID, &content).to_string()
        };
        let id = message.message_id.clone().filter(|id| !id.is_empty()).unwrap_or_else(by_content);
        let reason = message.text_header(PARKING[0]).map_or_else(
            || match message.text_header("x-first-death-reason") {
                Some(why) => format!("the broker gave it up: {why}"),
                None => "the broker gave it up".to_owned(),
            },
            str::to_owned,
        );
        let faults = message.text_header(PARKING[1]).and_then(|faults| serde_json::from_str(faults).ok());
        let made = message.timestamp.and_then(|s| i64::try_from(s).ok()).map(|s| s.saturating_mul(1000));
        let parked_at = number(PARKING[2]).or(made).and_then(DateTime::from_timestamp_millis);
        let replays = number(REPLAYS).unwrap_or(0);
        // What the broker parked itself still has the property.
        let user = message.text_header(USER).map(str::to_owned).or_else(|| message.user_id.clone());
        Self {
            id,
            reason,
            faults: faults.unwrap_or(Value::Array(Vec::new())),
            parked_at,
            user,
            replays,
            message,
            token,
        }
    }

    /// The message as it goes to its queue again: as it came, but for why it was parked, and from whom it is: whoever
    /// sends it again vouches for it.
    pub(super) fn again(&self, queue: &str) -> Message {
        // By the default exchange, straight to the queue: what it was published to first may be bound to others too.
        let mut message = Message::json("", queue, self.message.body.clone());
        message.message_id.clone_from(&self.message.message_id);
        message.correlation_id.clone_from(&self.message.correlation_id);
        message.reply_to.clone_from(&self.message.reply_to);
        message.kind.clone_from(&self.message.kind);
        message.timestamp_s = self.message.timestamp;
        if let Some(content_type) = &self.message.content_type {
            message.content_type.clone_from(content_type);
        }
        let own = self.message.headers.iter().filter(|(name, _)| {
            !PARKING.contains(&name.as_str()) && !name.starts_with(BROKERS) && name.as_str() != REPLAYS
        });
        message.headers.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        message.header(REPLAYS, self.replays.saturating_add(1))
    }

    /// The body: as JSON where it is, else as text.
    pub(super) fn body(&self) -> Value {
        serde_json::from_slice(&self.message.body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&self.message.body).into_owned()))
    }
}
