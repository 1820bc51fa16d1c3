//! A virtual host on the broker that the environment names.

use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use ureq::Agent;

/// Deleted with everything in it when the test ends. Its name has a slash, which every address has to encode.
pub(crate) struct Broker {
    pub(crate) amqp_url: String,
    pub(crate) management_url: String,
    pub(crate) vhost: String,
    agent: Agent,
}

impl Broker {
    pub(crate) fn new(name: &str) -> Self {
        let amqp_url = required("AMQP_URL");
        let (server, _) = amqp_url.rsplit_once('/').expect("AMQP_URL ends in a virtual host");
        let user = server.split(['/', ':']).nth(3).expect("AMQP_URL has a user").to_owned();
        let vhost = format!("topology/{name}-{:08x}", fastrand::u32(..));
        let agent = Agent::config_builder().http_status_as_error(false).build().into();
        let broker = Self {
            amqp_url: format!("{server}/{}", vhost.replace('/', "%2F")),
            management_url: required("AMQP_MANAGEMENT_URL"),
            vhost,
            agent,
        };
        broker.put("vhosts", "", &json!({}));
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        broker.put("permissions", &format!("/{user}"), &all);
        broker
    }

    /// Lets a policy apply to the queues that match a pattern.
    pub(crate) fn put_policy(&self, pattern: &str, definition: &Value) {
        let policy = json!({ "pattern": pattern, "definition": definition, "apply-to": "queues" });
        self.put("policies", "/test", &policy);
    }

    fn path(&self, kind: &str, rest: &str) -> String {
        let base = self.management_url.trim_end_matches('/');
        format!("{base}/api/{kind}/{}{rest}", self.vhost.replace('/', "%2F"))
    }

    fn put(&self, kind: &str, rest: &str, body: &Value) {
        let response = self.agent.put(self.path(kind, rest)).send_json(body).expect("the management API");
        assert!(response.status().is_success(), "PUT {kind}{rest}: {}", response.status());
    }

    pub(crate) async fn channel(&self) -> (Connection, Channel) {
        let connection =
            Connection::connect(&self.amqp_url, ConnectionProperties::default()).await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        (connection, channel)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.agent.delete(self.path("vhosts", "")).call();
    }
}

fn required(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run `eval \"$(make -s env)\"` first, or `make test`"))
}
