//! RabbitMQ, as a command uses it: publish with a confirm, listen for a while, and leave.

use std::time::Duration;

use dat_bus::{Browser, Bus, BusConfig, Consumer, Message, PublishError, Receipt};
use dat_topology::{Exchange, Queue, QueueSpec, Topology};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cli::failure::Failure;
use crate::cli::session::{Session, without_login};

/// How long the broker may take to be there.
const PATIENCE: Duration = Duration::from_secs(6);

/// A connection to the broker.
pub(crate) struct Broker {
    bus: Bus,
    topology: Topology,
    /// The login, where the address says it.
    user: Option<String>,
}

impl Broker {
    /// Connects, or says why not.
    pub(crate) async fn connect(session: &Session) -> Result<Self, Failure> {
        let url = &session.settings.amqp_url;
        let config = BusConfig::new(url, "dat").map_err(|error| Failure::Usage(error.to_string()))?;
        let user = config.user().map(str::to_owned);
        let bus = Bus::start(config, CancellationToken::new());
        if timeout(PATIENCE, bus.publisher().ready()).await.is_err() {
            return Err(Failure::Failed(format!(
                "RabbitMQ at {} did not take the connection within {} s: check that it runs ('make up' starts a local \
                 stack), the login, and AMQP_URL or --amqp-url",
                without_login(url),
                PATIENCE.as_secs()
            )));
        }
        Ok(Self { bus, topology: session.topology(), user })
    }

    /// A message to one of the exchanges, as a producer sends it.
    pub(crate) fn message(&self, session: &Session, exchange: Exchange, key: &str, body: Vec<u8>) -> Message {
        let message = Message::json(self.topology.exchange(exchange).name, key, body)
            .kind(key)
            .traceparent(session.traceparent());
        match u64::try_from(session.now().timestamp()) {
            Ok(seconds) => message.timestamp_s(seconds),
            Err(_) => message,
        }
    }

    /// Publishes in the name of this login, and comes back when the broker has it.
    pub(crate) async fn publish(&self, message: Message) -> Result<(), Failure> {
        let message = Message { user_id: self.user.clone(), ..message };
        let key = message.routing_key.clone();
        let failed = |why: String| Err(Failure::Failed(format!("{key} was not published: {why}")));
        match self.bus.publisher().publish(message).await {
            Ok(Receipt::Confirmed) => Ok(()),
            Ok(Receipt::Returned { reply_text }) => {
                failed(format!("no queue takes it ({reply_text}); run 'dat topology apply'"))
            }
            Ok(Receipt::Nacked) => {
                failed("the broker could not keep it; look into the broker's log".to_owned())
            }
            Err(error @ PublishError::Refused(_)) => {
                failed(format!("{error}; if its exchange is missing, run 'dat topology apply'"))
            }
            Err(error) => failed(format!("{error}; try again")),
        }
    }

    /// Listens for these events. What is published from now on arrives.
    pub(crate) async fn listen(&self, keys: &[&str]) -> Result<Consumer, Failure> {
        let exchange = self.topology.exchange(Exchange::Events).name;
        let bindings = keys.iter().map(|key| (exchange.clone(), (*key).to_owned())).collect();
        let consumer = self.bus.exclusive(bindings).map_err(|error| Failure::Usage(error.to_string()))?;
        if timeout(PATIENCE, consumer.bound()).await.is_err() {
            return Err(Failure::Failed(format!(
                "nothing can be heard from exchange {exchange}: if it is missing, run 'dat topology apply'"
            )));
        }
        Ok(consumer)
    }

    /// A queue, by its name on this broker.
    pub(crate) fn queue(&self, queue: impl Into<Queue>) -> QueueSpec {
        self.topology.queue(queue)
    }

    /// Opens a queue to look through it.
    pub(crate) async fn browse(&self, queue: Queue) -> Result<Browser, Failure> {
        let queue = self.topology.queue(queue);
        // The bus has two connections; messages are looked at on the one that consumes.
        let opening = async {
            self.bus.ready().await;
            self.bus.browse(queue.name()).await
        };
        let failed = |why: String| Failure::Failed(format!("queue {} cannot be read: {why}", queue.name()));
        match timeout(PATIENCE, opening).await {
            Ok(Ok(browser)) => Ok(browser),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("the broker did not answer in time".to_owned())),
        }
    }

    /// Leaves.
    pub(crate) async fn close(self) {
        self.bus.close().await;
    }
}
