//! Connections on which nothing waits for ever.
//!
//! **Owns** how long a statement may take as this side sees it. A database that falls silent without ending its
//! connections (a machine that vanished, a firewall that forgot) answers nothing, and TCP says so after a quarter of an
//! hour, or never. So every statement, every commit and every return to the pool has a limit; a connection that passed it
//! is closed, and never used again. The driver has no such limit, neither for statements nor for its pool's own ping.
//! **May be called** by this crate: these types stand where the driver's of the same names would. **Must never** judge a
//! statement by its time while the server can: the server's own limit is shorter, and its error says more.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Error, Execute, Executor, Postgres, SqlStr};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::handover::{Handover, RelayPort};

/// How much longer this side waits than the server works on a statement: what an answer may need on its way.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// A connection of the pool, whose statements have a limit.
#[derive(Debug)]
pub(crate) struct PgConnection {
    /// Always there until it is dropped.
    pooled: Option<PoolConnection<Postgres>>,
    limit: Duration,
    /// Whether an answer did not come in time: whatever comes now is of no use.
    silent: bool,
    in_transaction: bool,
    /// What it writes to the log goes to this process's own relay, once it is committed.
    handover: Option<Handover>,
}

impl PgConnection {
    async fn acquire(pool: &PgPool, limit: Duration) -> Result<Self, Error> {
        // The pool bounds this itself, and the connecting with it.
        let pooled = pool.acquire().await?;
        Ok(Self { pooled: Some(pooled), limit, silent: false, in_transaction: false, handover: None })
    }

    /// Where what is written to the log is handed to, if to anybody.
    pub(crate) const fn handover(&mut self) -> Option<&mut Handover> {
        self.handover.as_mut()
    }

    /// The driver's connection, and where to note that it fell silent.
    fn split(&mut self) -> Result<(&mut sqlx::PgConnection, &mut bool), Error> {
        match &mut self.pooled {
            Some(pooled) if !self.silent => Ok((pooled, &mut self.silent)),
            _ => Err(late(self.limit)),
        }
    }

    /// Does something that ends within the limit, or with the connection.
    fn bounded<'e, 'c: 'e, T: Send + 'e>(
        &'c mut self,
        act: impl FnOnce(&'c mut sqlx::PgConnection) -> BoxFuture<'e, Result<T, Error>>,
    ) -> BoxFuture<'e, Result<T, Error>> {
        let limit = self.limit;
        let (connection, silent) = match self.split() {
            Ok(split) => split,
            Err(error) => return ready(Err(error)).boxed(),
        };
        let acting = act(connection);
        Box::pin(async move {
            timeout(limit, acting).await.unwrap_or_else(|_| {
                *silent = true;
                Err(late(limit))
            })
        })
    }
}

impl<'c> Executor<'c> for &'c mut PgConnection {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let limit = self.limit;
        let until = Instant::now() + limit;
        let (connection, silent) = match self.split() {
            Ok(split) => split,
            Err(error) => return stream::once(ready(Err(error))).boxed(),
        };
        let rows = connection.fetch_many(query);
        stream::unfold(Some((rows, silent)), move |going| async move {
            let (mut rows, silent) = going?;
            let Ok(row) = timeout_at(until, rows.next()).await else {
                *silent = true;
                return Some((Err(late(limit)), None));
            };
            row.map(|row| (row, Some((rows, silent))))
        })
        .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.bounded(|connection| connection.fetch_optional(query))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        self.bounded(|connection| connection.prepare_with(sql, parameters))
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        self.bounded(|connection| connection.describe(sql))
    }
}

impl Drop for PgConnection {
    fn drop(&mut self) {
        let Some(mut pooled) = self.pooled.take() else { return };
        let (false, Ok(runtime)) = (self.silent, Handle::try_current()) else {
            // Closes the socket and gives its place in the pool to another.
            drop(pooled.detach());
            return;
        };
        let (limit, in_transaction) = (self.limit, self.in_transaction);
        runtime.spawn(async move {
            let rolled_back =
                !in_transaction || matches!(timeout(limit, pooled.execute("ROLLBACK")).await, Ok(Ok(_)));
            if rolled_back {
                // What it does when it is dropped, a ping first, as a future that owns it: too late, and it is closed.
                let _ = timeout(limit, pooled.return_to_pool()).await;
            } else {
                drop(pooled.detach());
            }
        });
    }
}

/// A transaction; rolled back when it is dropped before its commit.
#[derive(Debug)]
pub(crate) struct Transaction {
    connection: PgConnection,
}

impl Transaction {
    pub(crate) async fn begin(
        pool: &PgPool,
        limit: Duration,
        relay: Option<&RelayPort>,
    ) -> Result<Self, Error> {
        let mut connection = PgConnection::acquire(pool, limit).await?;
        connection.in_transaction = true;
        connection.handover = relay.map(RelayPort::open);
        (&mut connection).execute("BEGIN").await?;
        Ok(Self { connection })
    }

    /// Commits. When the answer is lost, nobody knows whether it did: as of every connection that ends just then.
    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        (&mut self.connection).execute("COMMIT").await?;
        self.connection.in_transaction = false;
        if let Some(handover) = self.connection.handover.take() {
            handover.committed();
        }
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// Runs one statement on any connection of the pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pooled<'p> {
    pub(crate) pool: &'p PgPool,
    pub(crate) limit: Duration,
}

impl<'p> Executor<'p> for Pooled<'p> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let rows = async move {
            match PgConnection::acquire(self.pool, self.limit).await {
                Ok(mut connection) => (&mut connection).fetch_many(query).collect().await,
                Err(error) => vec![Err(error)],
            }
        };
        stream::once(rows).flat_map(stream::iter).boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let mut connection = PgConnection::acquire(self.pool, self.limit).await?;
            (&mut connection).fetch_optional(query).await
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'p: 'e,
    {
        Box::pin(async move {
            let mut connection = PgConnection::acquire(self.pool, self.limit).await?;
            (&mut connection).prepare_with(sql, parameters).await
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'p: 'e,
    {
        Box::pin(async move {
            let mut connection = PgConnection::acquire(self.pool, self.limit).await?;
            (&mut connection).describe(sql).await
        })
    }
}

fn late(limit: Duration) -> Error {
    let text =
        format!("the database has not answered a statement within {limit:?}: its connection is given up");
    Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}
