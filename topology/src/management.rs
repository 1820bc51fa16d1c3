//! Reading what a broker has, from its management API.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value};
use ureq::Agent;

/// Why a broker could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// The address has no host. Its text is left out, because it may hold a password.
    #[error("AMQP_MANAGEMENT_URL is not an address like http://user:password@host:15672")]
    Url,
    /// No answer.
    #[error(
        "the management API cannot be reached: {0}; check AMQP_MANAGEMENT_URL, and whether the plugin runs"
    )]
    Unreachable(String),
    /// The login is not allowed to look.
    #[error(
        "the management API refuses the login: give the user the tag monitoring, and access to the virtual host"
    )]
    Denied,
    /// Another answer than expected.
    #[error("the management API answered {status} to {path}; does the virtual host exist?")]
    Unexpected {
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        path: String,
    },
    /// The check did not run to its end.
    #[error("the check was cut short: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// An exchange, as the broker has it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct FoundExchange {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    #[serde(default)]
    pub(crate) arguments: Map<String, Value>,
}

/// A queue, as the broker has it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct FoundQueue {
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    #[serde(default)]
    pub(crate) exclusive: bool,
    #[serde(default)]
    pub(crate) arguments: Map<String, Value>,
    /// Of a quorum queue, policies are in its statistics, which the broker collects every 5 s.
    pub(crate) policy: Option<String>,
    pub(crate) operator_policy: Option<String>,
    /// An object, or an empty list where no policy applies.
    #[serde(default)]
    pub(crate) effective_policy_definition: Value,
}

/// A binding, as the broker has it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct FoundBinding {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) destination_type: String,
    pub(crate) routing_key: String,
}

/// The broker's version, such as `3.13.7`.
pub async fn broker_version(management_url: &str) -> Result<String, ManagementError> {
    let management = Management::new(management_url, "/")?;
    tokio::task::spawn_blocking(move || management.overview())
        .await?
        .map(|overview| overview.rabbitmq_version)
}

/// What the broker says of itself.
#[derive(Debug, Clone, Deserialize)]
struct Overview {
    rabbitmq_version: String,
}

/// One virtual host of one broker. Blocks.
pub(crate) struct Management {
    agent: Agent,
    base: String,
    authorization: Option<String>,
    vhost: String,
}

impl Management {
    pub(crate) fn new(url: &str, vhost: &str) -> Result<Self, ManagementError> {
        let (scheme, rest) = url.split_once("://").ok_or(ManagementError::Url)?;
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, rest),
        };
        if host.is_empty() {
            return Err(ManagementError::Url);
        }
        let config = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(30)))
            .http_status_as_error(false)
            .build();
        Ok(Self {
            agent: config.into(),
            base: format!("{scheme}://{}/api", host.trim_end_matches('/')),
            authorization: login.map(|login| {
                let login: Vec<u8> = percent_decode_str(login).collect();
                format!("Basic {}", BASE64_STANDARD.encode(login))
            }),
            vhost: encoded(vhost),
        })
    }

    /// One by one, and not as a list: the broker answers lists from a cache.
    pub(crate) fn exchange(&self, name: &str) -> Result<Option<FoundExchange>, ManagementError> {
        self.get(&format!("exchanges/{}/{}", self.vhost, encoded(name)))
    }

    pub(crate) fn queue(&self, name: &str) -> Result<Option<FoundQueue>, ManagementError> {
        self.get(&format!("queues/{}/{}", self.vhost, encoded(name)))
    }

    pub(crate) fn bindings(&self) -> Result<Vec<FoundBinding>, ManagementError> {
        let path = format!("bindings/{}", self.vhost);
        self.get(&path)?.ok_or(ManagementError::Unexpected { status: 404, path })
    }

    fn overview(&self) -> Result<Overview, ManagementError> {
        let path = "overview".to_owned();
        self.get(&path)?.ok_or(ManagementError::Unexpected { status: 404, path })
    }

    /// `None`: there is no such thing.
    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ManagementError> {
        let mut request = self.agent.get(format!("{}/{path}", self.base));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let unreachable = |error: ureq::Error| ManagementError::Unreachable(error.to_string());
        let mut response = request.call().map_err(unreachable)?;
        match response.status().as_u16() {
            200 => response.body_mut().read_json().map(Some).map_err(unreachable),
            401 | 403 => Err(ManagementError::Denied),
            404 => Ok(None),
            status => Err(ManagementError::Unexpected { status, path: path.to_owned() }),
        }
    }
}

fn encoded(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_of_the_address_is_decoded_and_leaves_it() {
        let management = Management::new("http://dat:p%40ss@host:15672/", "/").expect("valid");
        assert_eq!(management.base, "http://host:15672/api");
        assert_eq!(management.vhost, "%2F");
        assert_eq!(management.authorization.as_deref(), Some("Basic ZGF0OnBAc3M="));
        assert!(matches!(Management::new("host", "/"), Err(ManagementError::Url)));
    }
}
