//! What a test of the sandbox stands on: a vhost of its own, a sandbox, and DAT's side of the broker.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dat_bus::{Bus, BusConfig, Consumer, Message, Received, RpcClient, RpcError};
use dat_plan::clock::SystemClock;
use dat_sandbox::{GgpMode, Governance, Sandbox, SandboxConfig};
use dat_topology::Topology;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A setting of the environment; `make -s env` prints them.
pub(crate) fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `eval \"$(make -s env)\"` and export it, or use `make test`")
    })
}

/// A vhost of its own, deleted at the end.
pub(crate) struct Vhost {
    management: String,
    name: String,
}

impl Vhost {
    pub(crate) fn new(test: &str) -> Self {
        let management = setting("AMQP_MANAGEMENT_URL").trim_end_matches('/').to_owned();
        let vhost = Self { management, name: format!("sandbox-{}-{test}", std::process::id()) };
        ureq::put(vhost.address()).send_empty().expect("the management API makes a vhost");
        vhost
    }

    fn address(&self) -> String {
        format!("{}/api/vhosts/{}", self.management, self.name)
    }

    /// The broker's address with this vhost instead of its own.
    pub(crate) fn amqp_url(&self) -> String {
        let url = setting("AMQP_URL");
        let scheme = url.find("://").map_or(0, |at| at + 3);
        let end = url[scheme..].find('/').map_or(url.len(), |at| scheme + at);
        format!("{}/{}", &url[..end], self.name)
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        // What is left over does no harm.
        let _ = ureq::delete(self.address()).call();
    }
}

/// DAT's side of the broker.
pub(crate) struct Dat {
    bus: Bus,
    pub(crate) mux: RpcClient,
}

impl Dat {
    /// Connects, and declares what is DAT's.
    pub(crate) async fn new(amqp_url: &str) -> Self {
        let config = BusConfig::new(amqp_url, "dat-sandbox-test").expect("an address");
        let bus = Bus::start(config, CancellationToken::new());
        Topology::new(None).apply(amqp_url).await.expect("DAT's own exchanges and queues");
        let mux = bus.rpc_client();
        timeout(PATIENCE, mux.ready()).await.expect("connected in time");
        Self { bus, mux }
    }

    /// Asks MUX and reads its answer.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, key: &str, body: &Value) -> T {
        let answer = self.call(key, body, PATIENCE).await.expect("an answer");
        serde_json::from_slice(&answer.body).expect("a readable answer")
    }

    /// Asks MUX, with that patience.
    pub(crate) async fn call(
        &self,
        key: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<Received, RpcError> {
        self.mux.call(Message::json("mux", key, body.to_string()), Instant::now() + patience).await
    }

    /// Publishes what DAT would.
    pub(crate) async fn publish(&self, message: Message) {
        let receipt = self.bus.publisher().publish(message).await.expect("published");
        assert!(receipt.is_confirmed(), "{receipt:?}");
    }

    /// Listens to an exchange.
    pub(crate) async fn listen(&self, exchange: &str, routing_key: &str) -> Consumer {
        let consumer =
            self.bus.exclusive(vec![(exchange.to_owned(), routing_key.to_owned())]).expect("short names");
        timeout(PATIENCE, consumer.bound()).await.expect("bound in time");
        consumer
    }
}

/// A sandbox, and DAT's side of its broker.
pub(crate) struct Stage {
    pub(crate) dat: Dat,
    sandbox: Sandbox,
    shutdown: CancellationToken,
    _vhost: Vhost,
}

impl Stage {
    /// With everything in memory, on a new vhost.
    pub(crate) async fn new(test: &str) -> Self {
        let vhost = Vhost::new(test);
        let dat = Dat::new(&vhost.amqp_url()).await;
        Self::on(vhost, dat, None).await
    }

    /// On a vhost that is there.
    pub(crate) async fn on(vhost: Vhost, dat: Dat, data: Option<PathBuf>) -> Self {
        let shutdown = CancellationToken::new();
        let sandbox = start(&vhost.amqp_url(), data, shutdown.clone()).await;
        timeout(PATIENCE, sandbox.ready()).await.expect("ready in time");
        Self { dat, sandbox, shutdown, _vhost: vhost }
    }

    /// What the sandbox reports.
    pub(crate) fn report<T: DeserializeOwned>(&self, path: &str) -> T {
        let mut response = ureq::get(self.url(path)).call().expect("a report");
        response.body_mut().read_json().expect("a readable report")
    }

    /// Pulls a lever.
    pub(crate) fn tell<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> T {
        let mut response = ureq::post(self.url(path)).send_json(body).expect("accepted");
        response.body_mut().read_json().expect("a readable answer")
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.sandbox.address())
    }

    /// Ends the sandbox, and then DAT's side.
    pub(crate) async fn end(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.sandbox.join()).await.expect("drained in time").expect("ended well");
        self.dat.bus.close().await;
    }
}

/// Starts a sandbox.
pub(crate) async fn start(amqp_url: &str, data: Option<PathBuf>, shutdown: CancellationToken) -> Sandbox {
    let config = SandboxConfig {
        amqp_url: amqp_url.to_owned(),
        namespace: None,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        data,
        ggp: GgpMode::Approve,
        governance: Governance::default(),
        cannot_tell: false,
        clock: Arc::new(SystemClock),
        shutdown,
    };
    Sandbox::start(config).await.expect("a sandbox")
}

/// The next message.
pub(crate) async fn next(consumer: &mut Consumer) -> Received {
    timeout(PATIENCE, consumer.next()).await.expect("a message in time").expect("a message").message
}
