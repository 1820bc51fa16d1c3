//! What PostgreSQL counts.

use std::time::Duration;

use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::failure::Failure;

/// A connection that falls idle tells of its last transactions ten seconds later, at most.
const LAG: Duration = Duration::from_secs(11);

/// Counters as they were.
#[derive(Debug)]
pub(crate) struct Database {
    pool: PgPool,
    before: (f64, f64),
}

impl Database {
    pub(crate) async fn start(url: &str) -> Result<Self, Failure> {
        let pool = PgPoolOptions::new().max_connections(1).connect(url).await.map_err(silent)?;
        let before = counts(&pool).await?;
        Ok(Self { pool, before })
    }

    /// Transactions, and bytes of write-ahead log, since the start.
    pub(crate) async fn read(self) -> Result<(f64, f64), Failure> {
        // What was written is known at once, and goes on being written.
        let (_, written) = counts(&self.pool).await?;
        tokio::time::sleep(LAG).await;
        let (transactions, _) = counts(&self.pool).await?;
        self.pool.close().await;
        Ok((transactions - self.before.0, written - self.before.1))
    }
}

async fn counts(pool: &PgPool) -> Result<(f64, f64), Failure> {
    sqlx::query_as(
        "SELECT (xact_commit + xact_rollback)::float8, (pg_current_wal_insert_lsn() - '0/0')::float8
         FROM pg_stat_database WHERE datname = current_database()",
    )
    .fetch_one(pool)
    .await
    .map_err(silent)
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn silent(error: sqlx::Error) -> Failure {
    Failure::Counters(format!("PostgreSQL's: {error}; check DATABASE_URL, or leave --cost out"))
}
