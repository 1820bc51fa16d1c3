//! The pool of connections, and the migrations.

use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use crate::connection::{GRACE, Pooled, Transaction};
use crate::error::StoreError;
use crate::handover::RelayPort;

pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// What a statement of the audit may take: it reads as much as there is.
const READING: Duration = Duration::from_hours(1);

/// The store. Clones share one pool.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    /// How long this side waits for the answer to a statement.
    limit: Duration,
    /// This process's own relay, if it has one.
    relay: Option<RelayPort>,
}

impl Store {
    /// What a statement may take where nothing else is said.
    pub const STATEMENT: Duration = Duration::from_secs(30);

    /// Makes a pool of at most `connections`; connects when first used, so that a worker starts while the database is
    /// away and says so on `/readyz`. Fails only where the URL cannot be read.
    pub fn new(database_url: &str, connections: u32, name: &str) -> Result<Self, StoreError> {
        Self::bounded(database_url, connections, name, Self::STATEMENT)
    }

    /// As [`Store::new`], with what a statement may take: the server ends it then, and a server that has not answered a
    /// second later is given up as silent, its connection with it.
    pub fn bounded(
        database_url: &str,
        connections: u32,
        name: &str,
        statement: Duration,
    ) -> Result<Self, StoreError> {
        let millis = |span: Duration| format!("{}ms", span.as_millis());
        let options = PgConnectOptions::from_str(database_url)?
            .application_name(name)
            // A statement or an idle transaction that outlives these is a fault of ours; it must not stop the fleet.
            // A worker that is frozen amid a transaction holds its plans' locks so long, and others wait for them.
            .options([("statement_timeout", millis(statement)), ("lock_timeout", millis(statement / 3))])
            .options([
                ("idle_in_transaction_session_timeout", "5s"),
                // Every statement here reaches few rows by an index. Plans that read whole tables look cheaper only
                // while the statistics are older than the work, and stay cached then (see `unit_columns`).
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                // What is worked on is in memory: ten rows by their keys cost less than a hundred read for them.
                ("random_page_cost", "1.1"),
                // Planned once a connection: what a statement reaches does not depend on how many keys it is given.
                ("plan_cache_mode", "force_generic_plan"),
                // A scan that no index can spare looks so dear then that it would be compiled first: 38 ms for one row.
                ("jit", "off"),
                // Or worth two more processes, 15 ms for none: the stops in force, once their empty table was analysed.
                ("max_parallel_workers_per_gather", "0"),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Duration::from_secs(5))
            // The ping before every use costs a round trip; a dead connection shows as Unavailable and is done again.
            .test_before_acquire(false)
            .connect_lazy_with(options);
        Ok(Self { pool, limit: statement + GRACE, relay: None })
    }

    /// The same store, whose writes to the log go to this process's own relay when they are committed.
    #[must_use]
    pub fn relayed_by(self, relay: RelayPort) -> Self {
        Self { relay: Some(relay), ..self }
    }

    /// This process's own relay.
    pub(crate) const fn relay(&self) -> Option<&RelayPort> {
        self.relay.as_ref()
    }

    /// Applies the migrations that are missing; safe to run from several processes at once.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        MIGRATIONS.run(&self.pool).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(error) => StoreError::from(error),
            other => {
                StoreError::Corrupt(format!("the database's migrations are not this version's: {other}"))
            }
        })
    }

    /// Whether the database answers and is migrated to what this version needs.
    pub async fn check(&self) -> Result<(), StoreError> {
        let applied = sqlx::query_scalar!(
            "SELECT count(*) FROM information_schema.tables
             WHERE table_schema = current_schema() AND table_name = 'control_state'"
        )
        .fetch_one(self.pool())
        .await?;
        if applied == Some(1) {
            Ok(())
        } else {
            Err(StoreError::Corrupt("the database is not migrated: run `dat migrate`".to_owned()))
        }
    }

    /// Closes the pool, waiting for what is under way.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Any connection of the pool, for one statement.
    pub(crate) const fn pool(&self) -> Pooled<'_> {
        Pooled { pool: &self.pool, limit: self.limit }
    }

    /// A transaction that reads much of the database as of one moment: it may plan as whole tables want.
    pub(crate) async fn begin_reading(&self) -> Result<Transaction, StoreError> {
        let mut tx = Transaction::begin(&self.pool, READING, None).await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *tx).await?;
        sqlx::query(
            "SELECT set_config(name, value, true)
             FROM (VALUES ('enable_seqscan', 'on'), ('enable_hashjoin', 'on'), ('enable_mergejoin', 'on'),
                          ('max_parallel_workers_per_gather', '2')) AS plans (name, value)",
        )
        .execute(&mut *tx)
        .await?;
        Ok(tx)
    }

    /// A transaction that reads rows by their keys as of one moment, for as long as it takes.
    pub(crate) async fn begin_snapshot(&self) -> Result<Transaction, StoreError> {
        let mut tx = Transaction::begin(&self.pool, READING, None).await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *tx).await?;
        sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
        Ok(tx)
    }

    pub(crate) async fn begin(&self) -> Result<Transaction, StoreError> {
        Ok(Transaction::begin(&self.pool, self.limit, self.relay.as_ref()).await?)
    }
}
