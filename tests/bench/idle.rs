//! Twenty workers with nothing to do: how much they ask of PostgreSQL.

use std::time::Duration;

use dat_tests::{Fleet, FleetOptions};
use sqlx::{Connection as _, PgConnection};

const WORKERS: usize = 20;
/// How long they settle, and how long is counted, seconds.
const SETTLING: u64 = 15;
const COUNTED: u32 = 30;
/// The most that is promised, a second.
const MOST: f64 = 20.0;

async fn transactions(connection: &mut PgConnection) -> f64 {
    // What other connections did is told a second later at most, in a snapshot of its own.
    sqlx::query_scalar(
        "SELECT (xact_commit + xact_rollback)::float8 FROM pg_stat_database WHERE datname = current_database()",
    )
    .fetch_one(connection)
    .await
    .expect("the database answers")
}

pub(crate) async fn run() -> bool {
    let settings = "[worker]\nconnections = 2\n".to_owned();
    let fleet = Fleet::start(FleetOptions { workers: WORKERS, settings, ..FleetOptions::default() }).await;
    let mut connection = PgConnection::connect(&fleet.realm().database_url).await.expect("a connection");
    tokio::time::sleep(Duration::from_secs(SETTLING)).await;
    let before = transactions(&mut connection).await;
    tokio::time::sleep(Duration::from_secs(COUNTED.into())).await;
    let a_second = (transactions(&mut connection).await - before) / f64::from(COUNTED);
    println!(
        "{WORKERS} idle workers: {a_second:.1} transactions a second, nearly all of one statement (under {MOST})"
    );
    a_second < MOST
}
