//! A Redis of a test's own, and what happens when it goes away.

use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use dat_guards::{RedisAway, RuntimeStore};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use crate::TIMEOUT;

/// A server that ends with the test.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    /// Starts one on a port and waits until it says that it accepts connections.
    pub(crate) async fn start(port: u16) -> Self {
        let mut child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is installed (make up installs it)");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        while let Some(line) = lines.next_line().await.expect("its log can be read") {
            if line.contains("Ready to accept connections") {
                // Read on, so that it never blocks on a full pipe.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Self { child, port };
            }
        }
        panic!("redis-server on port {port} ended before it was ready");
    }

    /// Starts one on a free port.
    pub(crate) async fn start_anywhere() -> Self {
        Self::start(free_port()).await
    }

    pub(crate) fn store(&self, timeout: Duration) -> RuntimeStore {
        RuntimeStore::connect(&self.url(), "t", timeout).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn flush(&self) {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    }

    pub(crate) async fn stop(mut self) {
        self.child.kill().await.unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Asks until the answer is the one waited for; the test's own timeout is the only bound.
async fn until(store: &RuntimeStore, there: bool) {
    while store.ping().await.is_ok() != there {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_that_is_away_fails_quickly_and_is_found_again() {
    let port = free_port();
    let timeout = Duration::from_millis(500);
    let store = RuntimeStore::connect(&format!("redis://127.0.0.1:{port}"), "t", timeout).unwrap();
    assert!(store.ping().await.is_err(), "nobody is there, and the call came back");
    let RedisAway { reason } = store.ping().await.unwrap_err();
    assert!(reason.contains("a call failed less than"), "the next one does not even try: {reason}");

    for _ in 0..2 {
        let server = Server::start(port).await;
        tokio::time::timeout(TIMEOUT, until(&store, true)).await.expect("it is found again");
        server.stop().await;
        tokio::time::timeout(TIMEOUT, until(&store, false)).await.expect("its loss is seen");
    }
}

/// A way to a server whose first connection can be made silent, as when a host vanishes; later ones go through.
async fn fragile_way(to: u16, silence: Arc<Notify>) -> u16 {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut first = true;
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let silence = std::mem::take(&mut first).then(|| Arc::clone(&silence));
            tokio::spawn(async move {
                let silenced = async {
                    match silence {
                        Some(silence) => silence.notified().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = silenced => std::future::pending().await,
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_connection_that_goes_silent_is_left_behind() {
    let server = Server::start_anywhere().await;
    let silence = Arc::new(Notify::new());
    let port = fragile_way(server.port, Arc::clone(&silence)).await;
    let timeout = Duration::from_millis(500);
    let store = RuntimeStore::connect(&format!("redis://127.0.0.1:{port}"), "t", timeout).unwrap();
    tokio::time::timeout(TIMEOUT, until(&store, true)).await.expect("the way is open");
    silence.notify_one();
    tokio::time::timeout(TIMEOUT, until(&store, false)).await.expect("its silence is noticed");
    tokio::time::timeout(TIMEOUT, until(&store, true)).await.expect("another connection is made");
}

#[tokio::test]
async fn a_server_that_accepts_but_never_answers_is_away() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let store = RuntimeStore::connect(&url, "t", Duration::from_millis(50)).unwrap();
    let call = tokio::time::timeout(TIMEOUT, store.ping()).await.expect("the call has a deadline");
    assert!(call.is_err());
}
