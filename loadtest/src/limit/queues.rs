//! The limit's queues: dispatches, and events that nobody reads.

use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};

use crate::failure::Failure;

const DISPATCH: &str = "dat-limit.dispatch";
const EVENTS: &str = "dat-limit.events";
/// How many confirms are waited for at once.
const WINDOW: usize = 256;
const PERSISTENT: u8 = 2;

/// Made for one run.
pub(crate) struct Queues {
    connection: Connection,
    channel: Channel,
}

impl Queues {
    /// Makes both, empty.
    pub(crate) async fn make(url: &str) -> Result<Self, Failure> {
        let connection = connect(url).await?;
        let channel = connection.create_channel().await.map_err(silent)?;
        let queues = Self { connection, channel };
        queues.delete().await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from("quorum")));
        for queue in [DISPATCH, EVENTS] {
            let options = QueueDeclareOptions::durable();
            queues.channel.queue_declare(queue.into(), options, arguments.clone()).await.map_err(silent)?;
        }
        Ok(queues)
    }

    /// Removes both.
    pub(crate) async fn remove(self) -> Result<(), Failure> {
        self.delete().await?;
        self.connection.close(200, "done".into()).await.map_err(silent)
    }

    async fn delete(&self) -> Result<(), Failure> {
        for queue in [DISPATCH, EVENTS] {
            self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map_err(silent)?;
        }
        Ok(())
    }
}

/// One pipeline's way to the broker.
pub(crate) struct Wire {
    _connections: [Connection; 2],
    publishing: Channel,
    pub(crate) consuming: Channel,
    pub(crate) dispatches: Consumer,
}

impl Wire {
    pub(crate) async fn open(url: &str, prefetch: u16) -> Result<Self, Failure> {
        let (one, other) = (connect(url).await?, connect(url).await?);
        let publishing = one.create_channel().await.map_err(silent)?;
        publishing.confirm_select(ConfirmSelectOptions::default()).await.map_err(silent)?;
        let consuming = other.create_channel().await.map_err(silent)?;
        consuming.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(silent)?;
        let dispatches = consuming
            .basic_consume(DISPATCH.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .map_err(silent)?;
        Ok(Self { _connections: [one, other], publishing, consuming, dispatches })
    }

    /// Publishes dispatches and events, and waits for every confirm.
    pub(crate) async fn publish(
        &self,
        dispatches: Vec<Vec<u8>>,
        events: Vec<Vec<u8>>,
    ) -> Result<(), Failure> {
        let all = dispatches.into_iter().map(|body| (DISPATCH, body));
        let all: Vec<_> = all.chain(events.into_iter().map(|body| (EVENTS, body))).collect();
        publish(&self.publishing, &all).await
    }
}

/// Dispatches the first step of every plan.
pub(crate) async fn submit(url: String, plans: u32) -> Result<(), Failure> {
    let connection = connect(&url).await?;
    let channel = connection.create_channel().await.map_err(silent)?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(silent)?;
    let first: Vec<_> = (0..plans).map(|plan| (DISPATCH, format!("{plan} 0").into_bytes())).collect();
    publish(&channel, &first).await?;
    connection.close(200, "done".into()).await.map_err(silent)
}

async fn publish(channel: &Channel, messages: &[(&str, Vec<u8>)]) -> Result<(), Failure> {
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    for window in messages.chunks(WINDOW) {
        let mut confirms = Vec::with_capacity(window.len());
        for (queue, body) in window {
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish("".into(), (*queue).into(), options, body, properties.clone());
            confirms.push(sent.await.map_err(silent)?);
        }
        for confirm in confirms {
            if !confirm.await.map_err(silent)?.is_ack() {
                return Err(Failure::Counters("the broker refused a message of the limit".to_owned()));
            }
        }
    }
    Ok(())
}

async fn connect(url: &str) -> Result<Connection, Failure> {
    Connection::connect(url, ConnectionProperties::default()).await.map_err(silent)
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
pub(crate) fn silent(error: lapin::Error) -> Failure {
    Failure::Counters(format!("the broker's limit: {error}; check AMQP_URL"))
}
