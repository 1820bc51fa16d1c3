//! What is sent.

use std::collections::BTreeMap;

/// The header that carries the W3C trace context.
pub const TRACEPARENT: &str = "traceparent";

/// The value of a header. Headers of other types, such as the broker's own `x-death`, are not handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderValue {
    /// A text.
    Text(String),
    /// A whole number.
    Int(i64),
}

impl From<&str> for HeaderValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for HeaderValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for HeaderValue {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The exchange; `""` sends to the queue that the routing key names.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// The body.
    pub body: Vec<u8>,
    /// What a consumer deduplicates by. Also how a returned message is told from its neighbours.
    pub message_id: Option<String>,
    /// What an answer repeats.
    pub correlation_id: Option<String>,
    /// The queue that an answer goes to.
    pub reply_to: Option<String>,
    /// The AMQP property `type`.
    pub kind: Option<String>,
    /// When the message was made, in seconds since 1970.
    pub timestamp_s: Option<u64>,
    /// The media type of the body.
    pub content_type: String,
    /// Who publishes it: the broker refuses any other than the login of the connection.
    pub user_id: Option<String>,
    /// Headers.
    pub headers: BTreeMap<String, HeaderValue>,
    /// After how long a queue may drop the message.
    pub expiration_ms: Option<u64>,
    /// Whether the broker hands the message back when no queue takes it.
    pub mandatory: bool,
    /// Whether the message outlives a restart of the broker in a classic queue; quorum queues keep every message.
    pub persistent: bool,
}

impl Message {
    /// A persistent, mandatory message with a JSON body.
    pub fn json(
        exchange: impl Into<String>,
        routing_key: impl Into<String>,
        body: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            body: body.into(),
            message_id: None,
            correlation_id: None,
            reply_to: None,
            kind: None,
            timestamp_s: None,
            content_type: "application/json".to_owned(),
            user_id: None,
            headers: BTreeMap::new(),
            expiration_ms: None,
            mandatory: true,
            persistent: true,
        }
    }

    /// Sets the message id.
    #[must_use]
    pub fn message_id(mut self, id: impl Into<String>) -> Self {
        self.message_id = Some(id.into());
        self
    }

    /// Sets the correlation id.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the queue that an answer goes to.
    #[must_use]
    pub fn reply_to(mut self, queue: impl Into<String>) -> Self {
        self.reply_to = Some(queue.into());
        self
    }

    /// Sets the AMQP property `type`.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Sets when the message was made, in seconds since 1970.
    #[must_use]
    pub fn timestamp_s(mut self, seconds: u64) -> Self {
        self.timestamp_s = Some(seconds);
        self
    }

    /// Sets the media type of the body.
    #[must_use]
    pub fn content_type(mut self, media_type: impl Into<String>) -> Self {
        self.content_type = media_type.into();
        self
    }

    /// Sets who publishes it, which must be the login of the connection (see [`BusConfig::user`](crate::BusConfig::user)).
    #[must_use]
    pub fn user_id(mut self, user: impl Into<String>) -> Self {
        self.user_id = Some(user.into());
        self
    }

    /// Adds a header, or replaces the one of that name.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Sets the header with the W3C trace context.
    #[must_use]
    pub fn traceparent(self, context: impl Into<String>) -> Self {
        self.header(TRACEPARENT, context.into())
    }

    /// Sets after how long a queue may drop the message.
    #[must_use]
    pub fn expiration_ms(mut self, milliseconds: u64) -> Self {
        self.expiration_ms = Some(milliseconds);
        self
    }

    /// Sets whether the broker hands the message back when no queue takes it.
    #[must_use]
    pub fn mandatory(mut self, mandatory: bool) -> Self {
        self.mandatory = mandatory;
        self
    }

    /// Sets whether the message outlives a restart of the broker.
    #[must_use]
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }
}
