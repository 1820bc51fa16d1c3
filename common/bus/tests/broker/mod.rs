//! A virtual host on the broker that the environment names.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use ureq::Agent;

/// Deleted with everything in it when the test ends.
pub(crate) struct Broker {
    pub(crate) amqp_url: String,
    api: String,
    vhost: String,
    agent: Agent,
}

impl Broker {
    pub(crate) fn new(name: &str) -> Self {
        let amqp_url = required("AMQP_URL");
        let (server, _) = amqp_url.rsplit_once('/').expect("AMQP_URL ends in a virtual host");
        let vhost = format!("bus-{name}-{:08x}", fastrand::u32(..));
        let agent = Agent::config_builder().http_status_as_error(false).build().into();
        let api = format!("{}/api", required("AMQP_MANAGEMENT_URL").trim_end_matches('/'));
        let broker = Self { amqp_url: format!("{server}/{vhost}"), api, vhost, agent };
        let user = server.split(['/', ':']).nth(3).expect("AMQP_URL has a user").to_owned();
        broker.put(&format!("vhosts/{}", broker.vhost), &json!({}));
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        broker.put(&format!("permissions/{}/{user}", broker.vhost), &all);
        broker
    }

    fn put(&self, path: &str, body: &Value) {
        let response =
            self.agent.put(format!("{}/{path}", self.api)).send_json(body).expect("the management API");
        assert!(response.status().is_success(), "PUT {path}: {}", response.status());
    }

    async fn channel(&self) -> (Connection, Channel) {
        let connection =
            Connection::connect(&self.amqp_url, ConnectionProperties::default()).await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        (connection, channel)
    }

    /// A quorum queue, as DAT's are: their confirms come late and in groups.
    pub(crate) async fn declare_queue(&self, queue: &str) {
        let (_connection, channel) = self.channel().await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions::durable();
        channel.queue_declare(queue.into(), options, arguments).await.expect("declared");
    }

    pub(crate) async fn declare_fanout(&self, exchange: &str) {
        let (_connection, channel) = self.channel().await;
        let options = ExchangeDeclareOptions::default();
        let declared =
            channel.exchange_declare(exchange.into(), ExchangeKind::Fanout, options, FieldTable::default());
        declared.await.expect("declared");
    }

    /// How many messages wait in a queue.
    pub(crate) async fn depth(&self, queue: &str) -> u32 {
        let (_connection, channel) = self.channel().await;
        let options = QueueDeclareOptions::durable().passive();
        channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .expect("there")
            .message_count()
    }

    /// Closes the connections whose name ends so. The management API learns of a connection a little after it was made.
    pub(crate) async fn close_connection(&self, role: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let path = format!("{}/vhosts/{}/connections", self.api, self.vhost);
            let mut response = self.agent.get(path).call().expect("the management API");
            let connections: Vec<Value> = response.body_mut().read_json().expect("JSON");
            let ends = |value: &Value| value.as_str().is_some_and(|name| name.ends_with(role));
            let mut names = connections
                .iter()
                .filter(|connection| ends(&connection["user_provided_name"]))
                .filter_map(|connection| connection["name"].as_str())
                .peekable();
            if names.peek().is_some() {
                for name in names {
                    let name = name.replace(' ', "%20").replace('>', "%3E");
                    self.agent.delete(format!("{}/connections/{name}", self.api)).call().expect("closed");
                }
                return;
            }
            assert!(Instant::now() < until, "the management API shows no connection {role}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.agent.delete(format!("{}/vhosts/{}", self.api, self.vhost)).call();
    }
}

fn required(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run `eval \"$(make -s env)\"` first, or `make test`"))
}
