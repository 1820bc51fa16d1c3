//! What a bus needs to know, checked when it is built, so that a bad setting fails at start with its name.

use std::fmt;
use std::time::Duration;

use lapin::uri::{AMQPUri, SASLMechanism};

/// Settings of a [`Bus`](crate::Bus). Build one with [`BusConfig::new`], then change what differs from the
/// defaults.
#[derive(Clone)]
pub struct BusConfig {
    uri: AMQPUri,
    /// The name that the broker shows for the connections; ` publisher` and ` consumer` are appended to it.
    pub connection_name: String,
    /// Seconds between heartbeats, instead of the server's 60. A silent peer is given up after twice that.
    pub heartbeat_s: u16,
    /// How long a connect, a declaration, the opening of a channel or a close may take.
    pub connect_timeout: Duration,
    /// How long a window of messages may take from the wait for a channel to the last confirm.
    pub publish_timeout: Duration,
    /// How many messages of one channel may be unconfirmed at a time.
    pub window: usize,
    /// How many windows may be in flight at a time, each on a channel of its own.
    pub channels: usize,
}

/// A setting that can never work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The address is not an AMQP address. Its text is left out, because it may hold a password.
    #[error("AMQP_URL is not an address like amqp://user:password@host:5672/%2f: {0}")]
    Url(String),
    /// The name is longer than AMQP can carry.
    #[error("the connection name is {0} bytes long: shorten it to 200")]
    ConnectionName(usize),
}

impl BusConfig {
    /// Defaults that suit a worker, for the broker at `amqp_url`.
    pub fn new(amqp_url: &str, connection_name: impl Into<String>) -> Result<Self, ConfigError> {
        let uri = amqp_url.parse::<AMQPUri>().map_err(ConfigError::Url)?;
        let connection_name = connection_name.into();
        if connection_name.len() > 200 {
            return Err(ConfigError::ConnectionName(connection_name.len()));
        }
        Ok(Self {
            uri,
            connection_name,
            heartbeat_s: 10,
            connect_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(10),
            window: 256,
            channels: 16,
        })
    }

    /// The login of the connection: what the broker lets stand as `user_id`. None where the broker takes it from a
    /// certificate, and not from the address.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        let by_certificate = self.uri.query.auth_mechanism == Some(SASLMechanism::External);
        (!by_certificate).then_some(self.uri.authority.userinfo.username.as_str())
    }

    /// The address with this configuration's heartbeat in it: without one, lapin follows the server.
    pub(crate) fn uri(&self) -> AMQPUri {
        let mut uri = self.uri.clone();
        uri.query.heartbeat = Some(self.heartbeat_s);
        uri
    }
}

impl fmt::Debug for BusConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusConfig")
            .field("host", &self.uri.authority.host)
            .field("port", &self.uri.authority.port)
            .field("vhost", &self.uri.vhost)
            .field("connection_name", &self.connection_name)
            .field("heartbeat_s", &self.heartbeat_s)
            .field("connect_timeout", &self.connect_timeout)
            .field("publish_timeout", &self.publish_timeout)
            .field("window", &self.window)
            .field("channels", &self.channels)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_address_is_refused_by_name() {
        let error = BusConfig::new("http://localhost", "test").expect_err("not AMQP");
        assert!(error.to_string().contains("AMQP_URL"), "{error}");
    }

    #[test]
    fn a_password_is_not_printed() {
        let config = BusConfig::new("amqp://dat:sesame@localhost:5672/%2f", "test").expect("valid");
        assert!(!format!("{config:?}").contains("sesame"));
        assert_eq!(config.user(), Some("dat"));
        let external = BusConfig::new("amqps://broker/%2f?auth_mechanism=external", "test").expect("valid");
        assert_eq!(external.user(), None);
        assert_eq!(config.uri().query.heartbeat, Some(10));
    }
}
