//! The limit's rows: steps that are ready, running or done, and their events.

use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};

use crate::failure::Failure;

/// Made for one run.
pub(crate) struct Tables {
    pool: PgPool,
}

impl Tables {
    /// Makes the schema anew, with every step ready.
    pub(crate) async fn make(url: &str, plans: u32, steps: u32) -> Result<Self, Failure> {
        let pool = PgPoolOptions::new().max_connections(1).connect(url).await.map_err(silent)?;
        for statement in [
            "DROP SCHEMA IF EXISTS dat_limit CASCADE",
            "CREATE SCHEMA dat_limit",
            "CREATE TABLE dat_limit.step (plan integer, step integer, state text NOT NULL, at timestamptz,
                 PRIMARY KEY (plan, step)) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01)",
            "CREATE TABLE dat_limit.event (plan integer, sequence integer, kind text NOT NULL, at timestamptz NOT NULL,
                 data jsonb NOT NULL, PRIMARY KEY (plan, sequence))",
        ] {
            sqlx::query(statement).execute(&pool).await.map_err(silent)?;
        }
        let (plans, steps) = (i64::from(plans), i64::from(steps));
        sqlx::query(
            "INSERT INTO dat_limit.step (plan, step, state)
             SELECT plan, step, 'ready' FROM generate_series(0, $1::bigint - 1) plan, generate_series(0, $2::bigint - 1) step",
        )
        .bind(plans)
        .bind(steps)
        .execute(&pool)
        .await
        .map_err(silent)?;
        Ok(Self { pool })
    }

    /// Removes the schema; gives how many steps were done.
    pub(crate) async fn remove(self) -> Result<u64, Failure> {
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM dat_limit.step WHERE state = 'done'")
            .fetch_one(&self.pool)
            .await
            .map_err(silent)?;
        sqlx::query("DROP SCHEMA dat_limit CASCADE").execute(&self.pool).await.map_err(silent)?;
        self.pool.close().await;
        Ok(done.unsigned_abs())
    }
}

/// Claims steps that were dispatched.
pub(crate) async fn claim(conn: &mut PgConnection, steps: &[(i32, i32)]) -> Result<(), Failure> {
    let (plans, indexes): (Vec<i32>, Vec<i32>) = steps.iter().copied().unzip();
    sqlx::query(
        "UPDATE dat_limit.step AS s SET state = 'running', at = now()
         FROM UNNEST($1::integer[], $2::integer[]) AS n (plan, step)
         WHERE s.plan = n.plan AND s.step = n.step AND s.state = 'ready'",
    )
    .bind(plans)
    .bind(indexes)
    .execute(conn)
    .await
    .map_err(silent)?;
    Ok(())
}

/// Completes steps, with three events each, and claims what follows them, all in one transaction.
pub(crate) async fn complete(
    conn: &mut PgConnection,
    steps: &[(i32, i32)],
    next: &[(i32, i32)],
) -> Result<(), Failure> {
    let mut tx = sqlx::Connection::begin(conn).await.map_err(silent)?;
    let (plans, indexes): (Vec<i32>, Vec<i32>) = steps.iter().copied().unzip();
    sqlx::query(
        "UPDATE dat_limit.step AS s SET state = 'done', at = now()
         FROM UNNEST($1::integer[], $2::integer[]) AS n (plan, step)
         WHERE s.plan = n.plan AND s.step = n.step AND s.state = 'running'",
    )
    .bind(&plans)
    .bind(&indexes)
    .execute(&mut *tx)
    .await
    .map_err(silent)?;
    sqlx::query(
        "INSERT INTO dat_limit.event (plan, sequence, kind, at, data)
         SELECT plan, step * 3 + place, kind, now(), jsonb_build_object('step', step)
         FROM UNNEST($1::integer[], $2::integer[]) AS n (plan, step),
              (VALUES (0, 'step.ready'), (1, 'step.running'), (2, 'step.completed')) AS k (place, kind)",
    )
    .bind(&plans)
    .bind(&indexes)
    .execute(&mut *tx)
    .await
    .map_err(silent)?;
    if !next.is_empty() {
        claim(&mut tx, next).await?;
    }
    tx.commit().await.map_err(silent)
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
pub(crate) fn silent(error: sqlx::Error) -> Failure {
    Failure::Counters(format!("PostgreSQL's limit: {error}; check DATABASE_URL"))
}
