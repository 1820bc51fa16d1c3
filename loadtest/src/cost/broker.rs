//! What the broker counts.

use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;

use crate::failure::Failure;

/// Its figures lag by five seconds: they are read until two readings so far apart are the same,
const APART: Duration = Duration::from_secs(6);
/// but no more often than this.
const READINGS: usize = 5;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Counters as they were.
#[derive(Debug)]
pub(crate) struct Broker {
    url: String,
    before: Counts,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Counts {
    publish: f64,
    deliver_get: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct VirtualHost {
    message_stats: Counts,
}

impl Broker {
    /// Of the virtual host that `amqp_url` names, by the management API at `url`.
    pub(crate) async fn start(url: &str, amqp_url: &str) -> Result<Self, Failure> {
        let url = format!("{}/api/vhosts/{}", url.trim_end_matches('/'), virtual_host(amqp_url));
        let before = counts(&url).await?;
        Ok(Self { url, before })
    }

    /// Messages published, and delivered, since the start.
    pub(crate) async fn read(self) -> Result<(f64, f64), Failure> {
        let mut last = counts(&self.url).await?;
        for _ in 0..READINGS {
            tokio::time::sleep(APART).await;
            let now = counts(&self.url).await?;
            if now == last {
                break;
            }
            last = now;
        }
        Ok((last.publish - self.before.publish, last.deliver_get - self.before.deliver_get))
    }
}

/// Percent-encoded, as it stands in the address; the default one where it names none.
fn virtual_host(amqp_url: &str) -> &str {
    let path = amqp_url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path);
    let name = path.and_then(|path| path.split('?').next()).unwrap_or_default();
    if name.is_empty() { "%2f" } else { name }
}

async fn counts(url: &str) -> Result<Counts, Failure> {
    let url = url.to_owned();
    let asked = move || {
        let agent: Agent = Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
        let host: VirtualHost = agent.get(&url).call()?.body_mut().read_json()?;
        Ok::<_, ureq::Error>(host.message_stats)
    };
    tokio::task::spawn_blocking(asked).await?.map_err(|error| {
        Failure::Counters(format!("the broker's: {error}; check AMQP_MANAGEMENT_URL, or leave --cost out"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_virtual_host_is_that_of_the_address() {
        assert_eq!(virtual_host("amqp://a:b@127.0.0.1:5672/%2f"), "%2f");
        assert_eq!(virtual_host("amqp://127.0.0.1/blue?heartbeat=10"), "blue");
        assert_eq!(virtual_host("amqp://127.0.0.1"), "%2f");
    }
}
