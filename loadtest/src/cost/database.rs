//! What PostgreSQL counts.

use std::time::Duration;

use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::failure::Failure;

/// A server reports the last transactions of a connection a second later, at most, while it is used.
const LAG: Duration = Duration::from_millis(1_200);

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
        tokio::time::sleep(LAG).await;
        let now = counts(&self.pool).await?;
        self.pool.close().await;
        Ok((now.0 - self.before.0, now.1 - self.before.1))
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
