//! What is received: a message, and the token that settles it.

use std::collections::BTreeMap;

use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::message::{HeaderValue, TRACEPARENT};

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    /// The body.
    pub body: Vec<u8>,
    /// What to deduplicate by.
    pub message_id: Option<String>,
    /// What an answer repeats.
    pub correlation_id: Option<String>,
    /// The queue that an answer goes to.
    pub reply_to: Option<String>,
    /// The AMQP property `type`.
    pub kind: Option<String>,
    /// The media type of the body.
    pub content_type: Option<String>,
    /// Headers that are texts or whole numbers; others are left out.
    pub headers: BTreeMap<String, HeaderValue>,
    /// The routing key it was published with.
    pub routing_key: String,
    /// The exchange it was published to.
    pub exchange: String,
    /// Whether it was delivered before, perhaps to another consumer. A hint at most: a first delivery that was
    /// lost on the way counts as well.
    pub redelivered: bool,
    /// Who published it. The broker has checked it against the publisher's login, if it is set.
    pub user_id: Option<String>,
    /// When it was made, by its publisher's clock, in seconds since 1970.
    pub timestamp: Option<u64>,
}

impl Received {
    /// A header that is a text.
    #[must_use]
    pub fn text_header(&self, name: &str) -> Option<&str> {
        match self.headers.get(name) {
            Some(HeaderValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The W3C trace context it carries.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.text_header(TRACEPARENT)
    }
}

/// Settles one delivery. A token of a channel that is gone settles nothing: the broker delivers the message
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryToken {
    pub(crate) generation: u64,
    pub(crate) tag: u64,
}

/// A message and the token that settles it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub message: Received,
    /// Its token.
    pub token: DeliveryToken,
}

impl Delivery {
    pub(crate) fn new(generation: u64, delivery: lapin::message::Delivery) -> Self {
        let properties = delivery.properties;
        let message = Received {
            body: delivery.data,
            message_id: text(properties.message_id().as_ref()),
            correlation_id: text(properties.correlation_id().as_ref()),
            reply_to: text(properties.reply_to().as_ref()),
            kind: text(properties.kind().as_ref()),
            content_type: text(properties.content_type().as_ref()),
            headers: properties.headers().as_ref().map(headers).unwrap_or_default(),
            routing_key: delivery.routing_key.into(),
            exchange: delivery.exchange.into(),
            redelivered: delivery.redelivered,
            user_id: text(properties.user_id().as_ref()),
            timestamp: *properties.timestamp(),
        };
        Self { message, token: DeliveryToken { generation, tag: delivery.delivery_tag } }
    }
}

fn text(property: Option<&ShortString>) -> Option<String> {
    property.map(|value| value.as_str().to_owned())
}

fn headers(table: &FieldTable) -> BTreeMap<String, HeaderValue> {
    table
        .inner()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), header(value)?)))
        .collect()
}

fn header(value: &AMQPValue) -> Option<HeaderValue> {
    let number = match value {
        AMQPValue::LongString(text) => return Some(HeaderValue::Text(text.to_string())),
        AMQPValue::ShortString(text) => return Some(HeaderValue::Text(text.as_str().to_owned())),
        AMQPValue::ShortShortInt(number) => i64::from(*number),
        AMQPValue::ShortShortUInt(number) => i64::from(*number),
        AMQPValue::ShortInt(number) => i64::from(*number),
        AMQPValue::ShortUInt(number) => i64::from(*number),
        AMQPValue::LongInt(number) => i64::from(*number),
        AMQPValue::LongUInt(number) => i64::from(*number),
        AMQPValue::LongLongInt(number) => *number,
        _ => return None,
    };
    Some(HeaderValue::Int(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_other_types_are_left_out() {
        let mut table = FieldTable::default();
        table.insert("attempt".into(), AMQPValue::ShortUInt(4));
        table.insert("reason".into(), AMQPValue::LongString("late".into()));
        table.insert("x-death".into(), AMQPValue::FieldArray(Vec::new().into()));
        let headers = headers(&table);
        assert_eq!(headers.get("attempt"), Some(&HeaderValue::Int(4)));
        assert_eq!(headers.get("reason"), Some(&HeaderValue::from("late")));
        assert_eq!(headers.len(), 2);
    }
}
