//! A Redis of a test's own.

use std::path::PathBuf;
use std::process::Command;

use super::server::Server;
use crate::eventually::eventually;

/// A Redis server without data on disk, killed when this is dropped.
#[derive(Debug)]
pub struct PrivateRedis {
    port: u16,
    folder: PathBuf,
    server: Option<Server>,
}

impl PrivateRedis {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let mut redis = Self { port: super::free_port(), folder: super::folder("redis"), server: None };
        redis.restart().await;
        redis
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Starts it again at the same address, empty.
    pub async fn restart(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""]);
        command.args(["--appendonly", "no"]).current_dir(&self.folder);
        self.server = Some(Server::spawn("Redis", command, &self.folder.join("log"), "KILL"));
        eventually("Redis answers", async || {
            let asked: redis::RedisResult<()> =
                async { redis::cmd("PING").exec_async(&mut self.connection().await?).await }.await;
            asked.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Ends it with SIGKILL; what it held is lost.
    pub async fn kill(&mut self) {
        self.server.take().expect("it runs").kill().await;
    }

    /// Stops it with SIGSTOP: its connections stay, and nobody answers on them.
    pub fn stop(&self) {
        self.server.as_ref().expect("it runs").signal("STOP");
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.server.as_ref().expect("it runs").signal("CONT");
    }

    /// Forgets everything.
    pub async fn flush(&self) {
        let mut connection = self.connection().await.expect("Redis answers");
        redis::cmd("FLUSHALL").exec_async(&mut connection).await.expect("flushed");
    }

    /// A connection to it.
    pub async fn connection(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        redis::Client::open(self.url())?.get_multiplexed_async_connection().await
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.server = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
