//! Declaring the topology on a broker.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use tokio::time::timeout;
use tracing::debug;

use crate::conflict::{Conflict, Conflicts};
use crate::drift::Part;
use crate::queue::{Argument, QueueSpec};
use crate::topology::Topology;

/// The broker's reply code for a declaration that differs from what is there.
const PRECONDITION_FAILED: u16 = 406;

/// How long the broker may take for one answer. A quorum queue elects a leader when it is declared.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the topology is not applied. What was declared before stays; applying again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The address is not an AMQP address. Its text is left out, because it may hold a password.
    #[error("AMQP_URL is not an address like amqp://user:password@host:5672/%2f: {0}")]
    Url(String),
    /// The broker cannot be reached, or refuses the login.
    #[error("the broker cannot be reached: {0}; check AMQP_URL, and whether the broker runs")]
    Connect(String),
    /// The broker did not answer.
    #[error("the broker did not answer within {} s: check its log, and whether a majority of its nodes is up", PATIENCE.as_secs())]
    Silent,
    /// A name is longer than AMQP can carry.
    #[error("the name {0} is longer than 255 bytes: shorten the namespace")]
    Name(String),
    /// Something of that name is there already, and differs.
    #[error(transparent)]
    Conflicts(#[from] Conflicts),
    /// The broker refused a declaration for another reason.
    #[error("the broker refused to declare {part}: {reason}")]
    Refused {
        /// What was declared.
        part: Part,
        /// What the broker said.
        reason: String,
    },
}

impl Topology {
    /// Declares what is missing and leaves what is there. Whatever differs is reported together; nothing is deleted or
    /// changed.
    pub async fn apply(&self, amqp_url: &str) -> Result<(), ApplyError> {
        let mut uri = amqp_url.parse::<AMQPUri>().map_err(ApplyError::Url)?;
        uri.query.heartbeat = Some(10);
        let properties = ConnectionProperties::default().with_connection_name("dat topology".into());
        let connection = patiently(Connection::connect_uri(uri, properties)).await?.map_err(unreachable)?;
        let applied = Declaring::start(&connection).await?.declare(self).await;
        let _ = timeout(PATIENCE, connection.close(200, "done".into())).await;
        applied
    }
}

/// The virtual host that an AMQP address names, decoded, as [`Topology::verify`] takes it.
pub fn vhost_of(amqp_url: &str) -> Result<String, ApplyError> {
    Ok(amqp_url.parse::<AMQPUri>().map_err(ApplyError::Url)?.vhost)
}

async fn patiently<T>(answer: impl Future<Output = T>) -> Result<T, ApplyError> {
    timeout(PATIENCE, answer).await.map_err(|_| ApplyError::Silent)
}

/// A run of declarations, on one channel after another: the broker closes a channel over a declaration that it refuses.
struct Declaring<'a> {
    connection: &'a Connection,
    channel: Channel,
    conflicts: Vec<Conflict>,
}

impl<'a> Declaring<'a> {
    async fn start(connection: &'a Connection) -> Result<Self, ApplyError> {
        let channel = open(connection).await?;
        Ok(Self { connection, channel, conflicts: Vec::new() })
    }

    async fn declare(mut self, topology: &Topology) -> Result<(), ApplyError> {
        for exchange in topology.exchanges() {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let name = short(&exchange.name)?;
            let kind = exchange.kind.into();
            let outcome =
                patiently(self.channel.exchange_declare(name, kind, options, FieldTable::default())).await?;
            self.note(Part::Exchange(exchange.name), outcome).await?;
        }
        for queue in topology.queues() {
            let name = short(&queue.name)?;
            let declaring =
                self.channel.queue_declare(name, QueueDeclareOptions::durable(), arguments(&queue));
            let outcome = patiently(declaring).await?.map(|_| ());
            self.note(Part::Queue(queue.name), outcome).await?;
        }
        if !self.conflicts.is_empty() {
            return Err(Conflicts(self.conflicts).into());
        }
        for binding in topology.bindings() {
            let (queue, exchange) = (short(&binding.queue)?, short(&binding.exchange)?);
            let key = short(&binding.routing_key)?;
            let options = QueueBindOptions::default();
            let outcome =
                patiently(self.channel.queue_bind(queue, exchange, key, options, FieldTable::default()))
                    .await?;
            self.note(Part::Binding(binding), outcome).await?;
        }
        Ok(())
    }

    async fn note(&mut self, part: Part, outcome: lapin::Result<()>) -> Result<(), ApplyError> {
        let Err(reason) = outcome else {
            debug!(%part, "declared");
            return Ok(());
        };
        match reason.kind() {
            ErrorKind::ProtocolError(error) if error.get_id() == PRECONDITION_FAILED => {
                self.conflicts.push(Conflict::read(part, error.get_message().as_str()));
                self.channel = open(self.connection).await?;
                Ok(())
            }
            _ => Err(ApplyError::Refused { part, reason: reason.to_string() }),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn unreachable(error: lapin::Error) -> ApplyError {
    ApplyError::Connect(error.to_string())
}

async fn open(connection: &Connection) -> Result<Channel, ApplyError> {
    patiently(connection.create_channel()).await?.map_err(unreachable)
}

fn arguments(queue: &QueueSpec) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        table.insert((*name).into(), value);
    }
    table
}

fn short(name: &str) -> Result<ShortString, ApplyError> {
    ShortString::try_new(name).map_err(|_| ApplyError::Name(name.to_owned()))
}
