//! A history for a fleet: a plan that it has is copied so many times, with all its rows, under ids and accounts of their
//! own. A million finished steps take minutes so; a fleet takes a quarter of an hour and more to do them.
//!
//! **Owns** which rows are copied, and how. It knows of the tables only that a plan's have its id, and finds them in the
//! database's own catalogue. **May be called** by `history`, before a run that is to be measured on what it made. **Must
//! never** run where anything matters: events are copied as they are, so that no copy's chain is its own, and an audit
//! says so of each.

use std::io::{IsTerminal as _, Write as _};

use clap::Args;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use crate::failure::Failure;

/// Copies in one transaction.
const BATCH: i64 = 1_000;
/// Transactions at once.
const CONNECTIONS: u32 = 2;

/// What is copied.
#[derive(Debug, Clone, Args)]
pub(crate) struct HistoryArgs {
    /// How many copies
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) plans: u32,
    /// The plan to copy, in whatever state; the one that completed last, where nothing is said
    #[arg(long, value_name = "PLAN_ID")]
    pub(crate) of: Option<Uuid>,
    /// The tenant that the copies are of; the plan's own, where nothing is said
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// A fleet's database, as its owner; nothing in it may matter
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,
}

/// The plan that is copied.
#[derive(Debug, Clone)]
struct Template {
    plan_id: Uuid,
    plan_version: i32,
    tenant: String,
    account: i64,
    /// The first copy's account; the others' follow.
    accounts_from: i64,
    /// Makes the copies' ids, with their number.
    salt: Uuid,
    /// What copies one batch, a statement a table.
    statements: Vec<String>,
}

/// Makes the copies; gives what is in the tables then.
pub(crate) async fn load(args: &HistoryArgs, salt: Uuid) -> Result<String, Failure> {
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .connect(&args.database_url)
        .await
        .map_err(|error| silent(&error))?;
    let made = copy(args, salt, &pool).await.map_err(|error| silent(&error))?;
    pool.close().await;
    made.ok_or_else(|| {
        Failure::Settings(
            "there is no such plan: let the fleet complete one first (dat-loadtest run --plans 1)".to_owned(),
        )
    })
}

async fn copy(args: &HistoryArgs, salt: Uuid, pool: &PgPool) -> Result<Option<String>, sqlx::Error> {
    let plans = i64::from(args.plans);
    let Some(template) = find(args, salt, pool).await? else { return Ok(None) };
    let show = std::io::stderr().is_terminal();
    let mut under_way = tokio::task::JoinSet::new();
    let mut from = 0;
    let mut done = 0;
    while done < plans {
        while from < plans && under_way.len() < CONNECTIONS as usize {
            let (first, last) = (from, (from + BATCH).min(plans) - 1);
            let (template, pool) = (template.clone(), pool.clone());
            under_way
                .spawn(async move { batch(&template, &pool, first, last).await.map(|()| last - first + 1) });
            from = last + 1;
        }
        if let Some(batch) = under_way.join_next().await {
            done += batch.map_err(|error| sqlx::Error::Protocol(error.to_string()))??;
        }
        if show {
            let _ = write!(std::io::stderr(), "\r\x1b[K{done} of {plans} plans copied");
        }
    }
    if show {
        let _ = writeln!(std::io::stderr());
    }
    sqlx::query("ANALYZE").execute(pool).await?;
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM execution_plan), (SELECT count(*) FROM execution_step),
                (SELECT count(*) FROM execution_event), pg_size_pretty(pg_database_size(current_database()))",
    )
    .fetch_one(pool)
    .await?;
    let count = |place: usize| row.get::<i64, _>(place);
    Ok(Some(format!(
        "the database holds {} plans, {} steps and {} events now: {}",
        count(0),
        count(1),
        count(2),
        row.get::<String, _>(3)
    )))
}

async fn find(args: &HistoryArgs, salt: Uuid, pool: &PgPool) -> Result<Option<Template>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT p.plan_id, p.plan_version, p.tenant, a.account_id
         FROM execution_plan p LEFT JOIN budget_account a USING (plan_id, plan_version)
         WHERE p.plan_id = $1 OR ($1 IS NULL AND p.state = 'completed')
         ORDER BY p.ended_at DESC NULLS LAST, p.plan_version DESC LIMIT 1",
    )
    .bind(args.of)
    .fetch_optional(pool)
    .await?;
    let Some(found) = found else { return Ok(None) };
    // Reserved before anything is copied: the fleet may go on meanwhile.
    let accounts_from: i64 = sqlx::query_scalar(
        "SELECT setval(name::regclass, nextval(name::regclass) + $1) - $1
         FROM pg_get_serial_sequence('budget_account', 'account_id') AS name",
    )
    .bind(i64::from(args.plans))
    .fetch_one(pool)
    .await?;
    let own: String = found.get(2);
    Ok(Some(Template {
        plan_id: found.get(0),
        plan_version: found.get(1),
        tenant: args.tenant.clone().unwrap_or(own),
        account: found.get::<Option<i64>, _>(3).unwrap_or_default(),
        accounts_from,
        salt,
        statements: statements(pool).await?,
    }))
}

/// A statement for each table that has a plan's id, those first that others refer to, and one for what its account went
/// through.
async fn statements(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    let tables = sqlx::query(
        "SELECT c.relname::text AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
           AND c.relname NOT LIKE 'audit%'
         GROUP BY c.relname
         HAVING 'plan_id' = ANY(array_agg(a.attname)) OR c.relname = 'budget_change'
         ORDER BY array_position(ARRAY['plan_owner', 'execution_plan', 'execution_step', 'budget_account'],
                                 c.relname::text) NULLS LAST, c.relname",
    )
    .fetch_all(pool)
    .await?;
    Ok(tables
        .iter()
        .map(|table| {
            let (name, columns): (String, Vec<String>) = (table.get("name"), table.get("columns"));
            let values: Vec<String> = columns.iter().map(|column| value(column)).collect();
            let of = if columns.iter().any(|column| column == "plan_version") {
                "t.plan_id = $1::uuid AND t.plan_version = $2::integer"
            } else if columns.iter().any(|column| column == "plan_id") {
                "t.plan_id = $1::uuid AND $2::integer IS NOT NULL"
            } else {
                "t.account_id = $4::bigint AND $1::uuid IS NOT NULL AND $2::integer IS NOT NULL"
            };
            format!(
                "INSERT INTO {name} ({}) OVERRIDING SYSTEM VALUE
                 SELECT {} FROM {name} t, generate_series($7::bigint, $8::bigint) n
                 WHERE {of} AND $3::text IS NOT NULL AND $4::bigint IS NOT NULL AND $5::bigint IS NOT NULL
                   AND $6::text IS NOT NULL",
                columns.join(", "),
                values.join(", "),
            )
        })
        .collect())
}

/// What a copy has in a column.
fn value(column: &str) -> String {
    const COPY: &str = "md5($6::text || n)::uuid";
    match column {
        "plan_id" => COPY.to_owned(),
        "tenant" => "$3::text".to_owned(),
        "account_id" => "CASE WHEN t.account_id IS NOT NULL THEN $5::bigint + n END".to_owned(),
        "accounts" => "ARRAY[$5::bigint + n]".to_owned(),
        "account_versions" => "ARRAY[t.account_versions[array_position(t.accounts, $4::bigint)]]".to_owned(),
        "idempotency_key" => format!("replace(t.idempotency_key, $1::uuid::text, {COPY}::text)"),
        // One a second, backwards.
        "registered_at" => "t.registered_at - n * interval '1 second'".to_owned(),
        other => format!("t.{other}"),
    }
}

async fn batch(template: &Template, pool: &PgPool, first: i64, last: i64) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    for statement in &template.statements {
        insert(template, &mut tx, statement, first, last).await?;
    }
    tx.commit().await
}

async fn insert(
    template: &Template,
    conn: &mut PgConnection,
    statement: &str,
    first: i64,
    last: i64,
) -> Result<(), sqlx::Error> {
    // Made of the catalogue's names alone.
    sqlx::query(AssertSqlSafe(statement.to_owned()))
        .bind(template.plan_id)
        .bind(template.plan_version)
        .bind(&template.tenant)
        .bind(template.account)
        .bind(template.accounts_from)
        .bind(template.salt.to_string())
        .bind(first)
        .bind(last)
        .execute(conn)
        .await?;
    Ok(())
}

fn silent(error: &sqlx::Error) -> Failure {
    Failure::Counters(format!("PostgreSQL's history: {error}; check DATABASE_URL"))
}
