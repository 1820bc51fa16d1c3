//! Users of the broker with few rights, as a real one has them: each of one realm, deleted when it is dropped.

use dat_topology::{Exchange, Rights, Topology};
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind};
use serde_json::json;
use ureq::Agent;

use crate::draft::random_id;
use crate::patience::within;
use crate::producer::Submission;
use crate::realm::Realm;
use crate::stack::with_login;

/// What the broker said no with: its code and its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// 403 for what one may not do, 406 for a name that is not one's own.
    pub code: u16,
    /// Why.
    pub text: String,
}

impl Refusal {
    fn of(error: &lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(refused) => {
                Self { code: refused.get_id(), text: refused.get_message().to_string() }
            }
            _ => panic!("the broker did not answer: {error}"),
        }
    }
}

/// A user of the broker.
pub struct Login {
    agent: Agent,
    address: String,
    topology: Topology,
    /// Its name: unique on the broker.
    pub name: String,
    /// The realm's virtual host, as this user.
    pub amqp_url: String,
}

impl Login {
    /// A name that nobody else has.
    #[must_use]
    pub fn name(person: &str) -> String {
        format!("{person}-{}", &random_id().simple().to_string()[..12])
    }

    /// Makes the user, with these rights in the realm's virtual host and none elsewhere.
    #[must_use]
    pub fn create(realm: &Realm, name: &str, rights: &Rights) -> Self {
        let password = random_id().simple().to_string();
        realm.put(&format!("users/{name}"), &json!({"password": password, "tags": ""}));
        let vhost = realm.vhost();
        let permissions = json!({"configure": rights.configure, "write": rights.write, "read": rights.read});
        realm.put(&format!("permissions/{vhost}/{name}"), &permissions);
        for topic in &rights.topics {
            let permissions = json!({"exchange": topic.exchange, "write": topic.write, "read": topic.read});
            realm.put(&format!("topic-permissions/{vhost}/{name}"), &permissions);
        }
        Self {
            topology: Topology::new(realm.namespace.as_deref()),
            name: name.to_owned(),
            amqp_url: with_login(&realm.amqp_url, name, &password),
            agent: realm.agent(),
            address: realm.management(&format!("users/{name}")),
        }
    }

    /// The variables that a `dat` command reads, over those of the realm.
    #[must_use]
    pub fn environment(&self) -> [(String, String); 1] {
        [("AMQP_URL".to_owned(), self.amqp_url.clone())]
    }

    async fn channel(&self) -> (Connection, Channel) {
        let connecting = Connection::connect(&self.amqp_url, ConnectionProperties::default());
        let connection = within("no connection", connecting).await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        (connection, channel)
    }

    /// Publishes to an exchange of the contract in somebody's name, which need not be its own, with headers that are texts,
    /// and waits for the confirm.
    pub async fn publish(
        &self,
        (exchange, routing_key): (Exchange, &str),
        submission: Submission,
        user_id: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Result<(), Refusal> {
        let (_connection, channel) = self.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let mut properties = BasicProperties::default().with_content_type("application/json".into());
        if let Some(id) = submission.message_id {
            properties = properties.with_message_id(ShortString::from(id));
        }
        if let Some(user) = user_id {
            properties = properties.with_user_id(ShortString::from(user));
        }
        if !headers.is_empty() {
            let mut table = FieldTable::default();
            for (name, value) in headers {
                table.insert((*name).into(), AMQPValue::LongString((*value).into()));
            }
            properties = properties.with_headers(table);
        }
        let exchange = self.topology.exchange(exchange).name().into();
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let published = async {
            let confirm = channel
                .basic_publish(exchange, routing_key.into(), options, &submission.body, properties)
                .await?;
            confirm.await
        };
        match within("no confirm", published).await {
            Ok(Confirmation::Ack(None)) => Ok(()),
            Ok(other) => panic!("{routing_key} was not taken: {other:?}"),
            Err(error) => Err(Refusal::of(&error)),
        }
    }

    /// Tries to consume a queue.
    pub async fn consume(&self, queue: &str) -> Result<(), Refusal> {
        let (_connection, channel) = self.channel().await;
        let options = BasicConsumeOptions::default();
        let consuming = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        within("no answer", consuming).await.map(drop).map_err(|error| Refusal::of(&error))
    }

    /// Tries to take one message of a queue.
    pub async fn get(&self, queue: &str) -> Result<(), Refusal> {
        let (_connection, channel) = self.channel().await;
        let taking = channel.basic_get(queue.into(), BasicGetOptions::default());
        within("no answer", taking).await.map(drop).map_err(|error| Refusal::of(&error))
    }

    /// Tries to make a queue.
    pub async fn declare(&self, queue: &str) -> Result<(), Refusal> {
        let (_connection, channel) = self.channel().await;
        let options = QueueDeclareOptions::durable();
        let declaring = channel.queue_declare(queue.into(), options, FieldTable::default());
        within("no answer", declaring).await.map(drop).map_err(|error| Refusal::of(&error))
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        // A test that failed must fail with its own words.
        let _ = self.agent.delete(&self.address).call();
    }
}
