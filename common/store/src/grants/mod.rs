//! Roles of PostgreSQL with the least that each needs: workers, operators, auditors. Tables belong to whoever migrates,
//! and nobody else owns one, so that what is append-only here stays so whatever a worker is made to do.
//!
//! **Owns** which role may do what, and granting it. **May be called** by `dat migrate`, as the owner of the tables.
//! **Must never** make a role, nor touch one whose rights no grant could bound.

mod tables;

use sqlx::AssertSqlSafe;

use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::pool::Store;
use tables::{Access, Columns, TABLES};

/// What the owner does for a role that asks for it.
const FUNCTIONS: [(&str, Role); 3] = [
    ("ensure_event_partition(date)", Role::Worker),
    ("refresh_statistics()", Role::Worker),
    ("detach_event_month(date, timestamptz)", Role::Operator),
];

/// What a login of the database is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `dat worker`.
    Worker,
    /// Commands that act: `dat control`, `dat budget set`, `dat plan resolve`.
    Operator,
    /// Commands that only read: `dat audit`, `dat plan show`, `dat approve`.
    Auditor,
}

/// Why nothing was granted.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// Nobody is called so.
    #[error("there is no role {0}: make it first, e.g. CREATE ROLE {0} LOGIN PASSWORD '…'")]
    NoSuchRole(String),
    /// It may do everything whatever it is granted.
    #[error(
        "role {0} is a superuser, or the owner of the tables, or a member of the owner: grants would bound nothing; use a login of its own"
    )]
    Unbounded(String),
    /// It could put things where the owner's functions find them.
    #[error(
        "role {0} may create objects in schema {1}: REVOKE CREATE ON SCHEMA {1} FROM {0}, or from who gave it that"
    )]
    MayCreate(String, String),
    /// Each purpose has rights of its own.
    #[error("role {0} is named twice: each of the roles is for one purpose")]
    Twice(String),
    /// The database said no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for GrantError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Gives each of these roles what it is for, and takes away what else it had on the tables. One transaction: nobody
    /// is without its rights for a moment. Must be run as the owner of the tables, after every migration.
    pub async fn grant(&self, roles: &[(Role, String)]) -> Result<(), GrantError> {
        if let Some((place, _)) =
            roles.iter().enumerate().find(|(place, (_, name))| roles[..*place].iter().any(|(_, n)| n == name))
        {
            return Err(GrantError::Twice(roles[place].1.clone()));
        }
        let mut tx = self.begin().await?;
        // Two at once would both write the same rows of the catalogue, and one would fail.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext('dat.grants'))").execute(&mut *tx).await?;
        let schema: String = sqlx::query_scalar("SELECT current_schema()").fetch_one(&mut *tx).await?;
        let tables = columns(&mut tx).await?;
        for (role, name) in roles {
            bounded(&mut tx, name).await?;
            let statements = statements(*role, &quoted(name), &quoted(&schema), &tables);
            sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *tx).await?;
            let may_create: bool = sqlx::query_scalar("SELECT has_schema_privilege($1, $2, 'CREATE')")
                .bind(name)
                .bind(&schema)
                .fetch_one(&mut *tx)
                .await?;
            if may_create {
                return Err(GrantError::MayCreate(name.clone(), schema));
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// Tables of the schema that no role was thought of for. None, or `grants` has been forgotten.
    pub async fn tables_without_grants(&self) -> Result<Vec<String>, StoreError> {
        let mut tx = self.begin().await?;
        let known: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        let tables = columns(&mut tx).await?;
        Ok(tables.into_iter().map(|(name, _)| name).filter(|name| !known.contains(&name.as_str())).collect())
    }
}

/// Every table with its columns; partitions are left out.
async fn columns(conn: &mut PgConnection) -> Result<Vec<(String, Vec<String>)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum)
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
         GROUP BY c.relname ORDER BY c.relname",
    )
    .fetch_all(conn)
    .await
}

/// Whether grants can bound a role at all.
async fn bounded(conn: &mut PgConnection, name: &str) -> Result<(), GrantError> {
    let unbounded: Option<bool> = sqlx::query_scalar(
        "SELECT r.rolsuper OR pg_has_role(r.oid, c.relowner, 'MEMBER')
         FROM pg_roles r, pg_class c WHERE r.rolname = $1 AND c.oid = 'execution_event'::regclass",
    )
    .bind(name)
    .fetch_optional(conn)
    .await?;
    match unbounded {
        None => Err(GrantError::NoSuchRole(name.to_owned())),
        Some(true) => Err(GrantError::Unbounded(name.to_owned())),
        Some(false) => Ok(()),
    }
}

fn statements(role: Role, name: &str, schema: &str, tables: &[(String, Vec<String>)]) -> String {
    let mut statements = vec![
        // The owner's functions look for names in this schema.
        format!("REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC"),
        format!("REVOKE ALL ON SCHEMA {schema} FROM {name}"),
        format!("GRANT USAGE ON SCHEMA {schema} TO {name}"),
        format!("REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {name}"),
    ];
    // Functions that run as the owner, each for one role.
    for (function, whose) in FUNCTIONS {
        statements.push(format!("REVOKE ALL ON FUNCTION {schema}.{function} FROM {name}"));
        if role == whose {
            statements.push(format!("GRANT EXECUTE ON FUNCTION {schema}.{function} TO {name}"));
        }
    }
    for (table, columns) in tables {
        let Some(known) = TABLES.iter().find(|known| known.name == table) else { continue };
        let rights = rights(known.access(role), columns).join(", ");
        statements.push(format!("GRANT {rights} ON TABLE {schema}.{} TO {name}", quoted(table)));
    }
    statements.join(";\n")
}

fn rights(access: Access, columns: &[String]) -> Vec<String> {
    let mut rights = vec!["SELECT".to_owned()];
    if access.insert {
        rights.push("INSERT".to_owned());
    }
    if access.delete {
        rights.push("DELETE".to_owned());
    }
    let changed = |column: &&String| match access.update {
        Columns::None => false,
        Columns::Only(these) => these.contains(&column.as_str()),
        Columns::Except(lists) => !lists.iter().any(|these| these.contains(&column.as_str())),
    };
    let changed: Vec<String> = columns.iter().filter(changed).map(|column| quoted(column)).collect();
    if !changed.is_empty() {
        rights.push(format!("UPDATE ({})", changed.join(", ")));
    }
    rights
}

/// A name as SQL takes any.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
