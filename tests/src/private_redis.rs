//! A Redis of a test's own, for tests that flush or stop it.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::draft::random_id;
use crate::eventually::eventually;
use crate::patience::within;

/// A Redis server without data on disk, killed when this is dropped.
#[derive(Debug)]
pub struct PrivateRedis {
    port: u16,
    folder: PathBuf,
    server: Option<Child>,
}

impl PrivateRedis {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let folder = std::env::temp_dir().join(format!("dat-redis-{}", random_id().simple()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut redis = Self { port, folder, server: None };
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
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.server = Some(command.spawn().expect("redis-server is installed"));
        eventually("Redis answers", async || {
            let asked: redis::RedisResult<()> =
                async { redis::cmd("PING").exec_async(&mut self.connection().await?).await }.await;
            asked.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Ends it with SIGKILL; what it held is lost.
    pub async fn kill(&mut self) {
        let mut server = self.server.take().expect("it runs");
        server.start_kill().expect("it can be killed");
        within("Redis does not end", server.wait()).await.expect("it can be waited for");
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
