//! What a run cost, beside how fast it was: processor time and memory of each process and server on this machine, and what
//! the servers were asked to do.
//!
//! **Owns** the reading of counters: the kernel's, PostgreSQL's statistics, the broker's management API, Redis' `INFO`.
//! **May be called** around a run: once before, once after, and now and then between. **Must never** read a table of
//! DAT's, or say that a run passed: who has no address for a server leaves its figures out.

mod broker;
mod database;
mod processes;
mod redis;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use broker::Broker;
use database::Database;
pub(crate) use processes::ProcessCost;
use processes::Processes;
use redis::Redis;

/// Where the servers' counters are.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Counters {
    /// Report what the run cost: processor time and memory of the processes on this machine, and what the servers did
    /// that have an address
    #[arg(long)]
    pub(crate) cost: bool,
    /// `PostgreSQL`, for its statistics
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    /// The broker's management API, for its counts of messages
    #[arg(long, value_name = "URL", env = "AMQP_MANAGEMENT_URL", hide_env_values = true)]
    amqp_management_url: Option<String>,
    /// Redis, for its counts of commands
    #[arg(long, value_name = "URL", env = "REDIS_URL", hide_env_values = true)]
    redis_url: Option<String>,
}

/// Counters as they were when a run began.
pub(crate) struct Meter {
    processes: Processes,
    database: Option<Database>,
    broker: Option<Broker>,
    redis: Option<Redis>,
}

/// What a run cost. Figures a step are per completed step, all that came before and after it included.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Cost {
    /// Each kind of process: workers one by one, servers as a whole.
    pub(crate) processes: Vec<ProcessCost>,
    /// Processor time of all of them a step, microseconds.
    pub(crate) cpu_us_per_step: f64,
    /// Transactions a step, committed and rolled back, of the fleet's database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) transactions_per_step: Option<f64>,
    /// Bytes of write-ahead log a step, of the whole server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wal_bytes_per_step: Option<f64>,
    /// Messages published a step, in the fleet's virtual host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) messages_per_step: Option<f64>,
    /// Messages delivered a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deliveries_per_step: Option<f64>,
    /// Commands of Redis a step, those within scripts included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) redis_commands_per_step: Option<f64>,
    /// Reads from Redis' sockets a step: about the round trips.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) redis_round_trips_per_step: Option<f64>,
}

impl Meter {
    /// Reads every counter that there is an address for. Fails where an address leads nowhere.
    pub(crate) async fn start(counters: &Counters, amqp_url: &str) -> Result<Self, Failure> {
        let database = match &counters.database_url {
            Some(url) => Some(Database::start(url).await?),
            None => None,
        };
        let broker = match &counters.amqp_management_url {
            Some(url) => Some(Broker::start(url, amqp_url).await?),
            None => None,
        };
        let redis = match &counters.redis_url {
            Some(url) => Some(Redis::start(url).await?),
            None => None,
        };
        Ok(Self { processes: Processes::start()?, database, broker, redis })
    }

    /// Looks at the processes until told to stop: what a process held at most is seen only while it runs.
    pub(crate) async fn watch(mut self, stop: CancellationToken) -> Self {
        while stop.run_until_cancelled(tokio::time::sleep(processes::EVERY)).await.is_some() {
            self.processes.look();
        }
        self
    }

    /// What came since the start, for so many steps.
    pub(crate) async fn read(mut self, steps: u64) -> Result<Cost, Failure> {
        #[expect(clippy::cast_precision_loss, reason = "steps of a run are far below 2^52")]
        let steps = steps.max(1) as f64;
        let processes = self.processes.finish();
        let mut cost = Cost {
            cpu_us_per_step: processes.iter().map(|one| one.cpu_s).sum::<f64>() * 1e6 / steps,
            processes,
            ..Cost::default()
        };
        if let Some(redis) = self.redis {
            let (commands, reads) = redis.read().await?;
            cost.redis_commands_per_step = Some(commands / steps);
            cost.redis_round_trips_per_step = Some(reads / steps);
        }
        if let Some(database) = self.database {
            let (transactions, wal) = database.read().await?;
            cost.transactions_per_step = Some(transactions / steps);
            cost.wal_bytes_per_step = Some(wal / steps);
        }
        if let Some(broker) = self.broker {
            let (published, delivered) = broker.read().await?;
            cost.messages_per_step = Some(published / steps);
            cost.deliveries_per_step = Some(delivered / steps);
        }
        Ok(cost)
    }
}
