//! What Redis counts.

use redis::{Client, InfoDict};

use crate::failure::Failure;

/// Counters as they were.
pub(crate) struct Redis {
    client: Client,
    before: (f64, f64),
}

impl Redis {
    pub(crate) async fn start(url: &str) -> Result<Self, Failure> {
        let client = Client::open(url).map_err(silent)?;
        let before = counts(&client).await?;
        Ok(Self { client, before })
    }

    /// Commands, and reads from sockets, since the start.
    pub(crate) async fn read(self) -> Result<(f64, f64), Failure> {
        let now = counts(&self.client).await?;
        Ok((now.0 - self.before.0, now.1 - self.before.1))
    }
}

async fn counts(client: &Client) -> Result<(f64, f64), Failure> {
    let mut connection = client.get_multiplexed_async_connection().await.map_err(silent)?;
    let info: InfoDict =
        redis::cmd("INFO").arg("stats").query_async(&mut connection).await.map_err(silent)?;
    let count = |name: &str| info.get::<f64>(name).unwrap_or_default();
    Ok((count("total_commands_processed"), count("total_reads_processed")))
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn silent(error: redis::RedisError) -> Failure {
    Failure::Counters(format!("Redis': {error}; check REDIS_URL, or leave --cost out"))
}
