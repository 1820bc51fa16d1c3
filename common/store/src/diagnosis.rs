//! What `dat doctor` asks of the database: which server it is, its clock, its migrations, what the login may do.

use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::pool::{MIGRATIONS, Store};

/// What the database is, as seen by one login.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// The server's version, as `server_version_num` has it: 150004 is 15.4.
    pub version: i32,
    /// Its clock.
    pub clock: DateTime<Utc>,
    /// Who asks.
    pub login: String,
    /// Whether a commit is on disk when it is answered: `fsync` and `synchronous_commit`.
    pub durable: bool,
    /// How many more connections it lets in, but for superusers.
    pub connections_free: i64,
    /// What of the migrations is wrong.
    pub migrations: Migrations,
    /// What the login may do.
    pub rights: Rights,
}

/// What a login may do: all may read, workers write the log besides, operators set limits too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights {
    /// Read plans.
    pub reads: bool,
    /// Write the log.
    pub writes: bool,
    /// Set limits.
    pub sets_limits: bool,
}

/// Whether the database is migrated to what this version needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Migrations {
    /// It is.
    Current,
    /// The login may not see which were applied; that the tables are there is all that is known.
    Hidden,
    /// It was never migrated.
    None,
    /// So many are missing.
    Missing(usize),
    /// A newer version has migrated it: so many are not known here.
    Newer(usize),
}

impl Store {
    /// Looks at the database. At most three statements, no transaction.
    pub async fn diagnose(&self) -> Result<Diagnosis, StoreError> {
        let server = sqlx::query!(
            r#"SELECT current_setting('server_version_num')::integer AS "version!", clock_timestamp() AS "clock!",
                      current_user::text AS "login!",
                      current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off' AS "durable!",
                      current_setting('max_connections')::bigint
                        - current_setting('superuser_reserved_connections')::bigint
                        - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
                        AS "connections_free!",
                      to_regclass('_sqlx_migrations') IS NOT NULL AS "migrated!",
                      to_regclass('execution_plan') IS NOT NULL AS "tables!""#
        )
        .fetch_one(self.pool())
        .await?;
        let mut rights = Rights::default();
        let mut migrations = Migrations::None;
        if server.migrated && server.tables {
            let may = sqlx::query!(
                r#"SELECT has_table_privilege('_sqlx_migrations', 'SELECT') AS "sees!",
                          has_any_column_privilege('execution_plan', 'SELECT') AS "reads!",
                          has_any_column_privilege('execution_event', 'INSERT') AS "writes!",
                          has_any_column_privilege('budget_limit', 'INSERT') AS "limits!""#
            )
            .fetch_one(self.pool())
            .await?;
            rights = Rights { reads: may.reads, writes: may.writes, sets_limits: may.limits };
            migrations = if may.sees { self.migrations().await? } else { Migrations::Hidden };
        }
        Ok(Diagnosis {
            version: server.version,
            clock: server.clock,
            login: server.login,
            durable: server.durable,
            connections_free: server.connections_free,
            migrations,
            rights,
        })
    }

    async fn migrations(&self) -> Result<Migrations, StoreError> {
        let applied: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(self.pool())
            .await?;
        let known: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        let newer = applied.iter().filter(|version| !known.contains(version)).count();
        let missing = known.iter().filter(|version| !applied.contains(version)).count();
        Ok(match (missing, newer) {
            (0, 0) => Migrations::Current,
            (0, newer) => Migrations::Newer(newer),
            (missing, _) => Migrations::Missing(missing),
        })
    }
}
