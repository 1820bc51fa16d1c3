//! A message in its form on the wire.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use crate::message::{HeaderValue, Message};

const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// A property that AMQP cannot carry. Sending the same message again fails the same way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {property} of the message is {bytes} bytes long, and AMQP allows 255: shorten it")]
pub struct Malformed {
    /// The property.
    pub property: &'static str,
    /// Its length.
    pub bytes: usize,
}

/// A message in its form on the wire, where every name has been checked.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
    pub(crate) mandatory: bool,
}

impl TryFrom<Message> for Outgoing {
    type Error = Malformed;

    fn try_from(message: Message) -> Result<Self, Malformed> {
        let mut properties = BasicProperties::default()
            .with_content_type(short("content_type", message.content_type)?)
            .with_delivery_mode(if message.persistent { PERSISTENT } else { TRANSIENT });
        if let Some(id) = message.message_id {
            properties = properties.with_message_id(short("message_id", id)?);
        }
        if let Some(id) = message.correlation_id {
            properties = properties.with_correlation_id(short("correlation_id", id)?);
        }
        if let Some(queue) = message.reply_to {
            properties = properties.with_reply_to(short("reply_to", queue)?);
        }
        if let Some(kind) = message.kind {
            properties = properties.with_type(short("type", kind)?);
        }
        if let Some(user) = message.user_id {
            properties = properties.with_user_id(short("user_id", user)?);
        }
        if let Some(seconds) = message.timestamp_s {
            properties = properties.with_timestamp(seconds);
        }
        if let Some(milliseconds) = message.expiration_ms {
            properties = properties.with_expiration(short("expiration", milliseconds.to_string())?);
        }
        if !message.headers.is_empty() {
            let mut headers = FieldTable::default();
            for (name, value) in message.headers {
                headers.insert(short("header name", name)?, field(value));
            }
            properties = properties.with_headers(headers);
        }
        Ok(Self {
            exchange: short("exchange", message.exchange)?,
            routing_key: short("routing_key", message.routing_key)?,
            properties,
            body: message.body,
            mandatory: message.mandatory,
        })
    }
}

fn field(value: HeaderValue) -> AMQPValue {
    match value {
        HeaderValue::Text(text) => AMQPValue::LongString(LongString::from(text)),
        HeaderValue::Int(number) => AMQPValue::LongLongInt(number),
    }
}

/// lapin's own conversion panics on a text that is too long.
pub(crate) fn short(property: &'static str, text: String) -> Result<ShortString, Malformed> {
    let bytes = text.len();
    ShortString::try_new(text).map_err(|_| Malformed { property, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::TRACEPARENT;

    #[test]
    fn properties_reach_the_wire() {
        let message = Message::json("dat.steps", "step.dispatch", "{}")
            .message_id("m-1")
            .kind("dat.step.dispatch")
            .user_id("ann")
            .timestamp_s(7)
            .expiration_ms(1500)
            .traceparent("00-ab-cd-01")
            .header("x-dat-attempt", 3);
        let outgoing = Outgoing::try_from(message).expect("short enough");
        let properties = outgoing.properties;
        assert_eq!(properties.delivery_mode(), &Some(PERSISTENT));
        assert_eq!(properties.kind().as_ref().map(ShortString::as_str), Some("dat.step.dispatch"));
        assert_eq!(properties.user_id().as_ref().map(ShortString::as_str), Some("ann"));
        assert_eq!(properties.expiration().as_ref().map(ShortString::as_str), Some("1500"));
        let headers = properties.headers().as_ref().expect("headers").inner();
        assert_eq!(headers.get("x-dat-attempt"), Some(&AMQPValue::LongLongInt(3)));
        assert!(headers.contains_key(TRACEPARENT));
        assert!(outgoing.mandatory);
    }

    #[test]
    fn a_name_too_long_is_an_error_and_not_a_panic() {
        let message = Message::json("dat.steps", "k".repeat(256), "{}");
        let malformed = Outgoing::try_from(message).expect_err("too long");
        assert_eq!(malformed, Malformed { property: "routing_key", bytes: 256 });
    }
}
