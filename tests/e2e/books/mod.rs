//! The property that everything about money rests on, with real PostgreSQL and Redis: whatever a fleet does at random,
//! with crashes between any two writes, messages doubled and out of order, answers late or lost, and Redis flushed at
//! any moment, no account is ever over its limit but for recorded overruns, nothing stays reserved, and the ledger, FLO
//! and the outside system's own books say the same.
//!
//! The fleet is in this process: tasks that call the store, the guards and the books of the sandbox in the order in which
//! workers do, and forget everything they hold where a crash falls. Real worker processes are killed in `crash`.

mod case;
mod crash;
#[path = "../../../common/store/tests/store/plans.rs"]
#[expect(dead_code, reason = "the store's own tests use the rest of what makes plans there")]
mod plans;
mod tally;
mod windows;
mod worker;

use std::sync::Arc;

use dat_plan::Entropy as _;
use dat_plan::clock::SeededEntropy;
use dat_store::Store;
use dat_tests::{PrivateRedis, Realm};
use sqlx::{AssertSqlSafe, PgPool};

use case::{Group, Shared};
use tally::Tally;

/// Cases that share a database and the workers on it.
const OF_A_GROUP: u64 = 10;
/// Workers of a group.
const WORKERS: u64 = 4;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// `DAT_TEST_CASES` cases (200 where it is not set), each from a seed of its own, the first from `DAT_TEST_SEED`. A
/// failure names the first seed of its group: with it as `DAT_TEST_SEED` and 10 cases, the same plans are made and the
/// same dice thrown; how the workers' transactions interleave is the servers' to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the seeds of a run, to throw the same dice again")]
async fn a_random_fleet_keeps_its_books_whatever_crashes_repeats_or_is_flushed() {
    let cases = variable("DAT_TEST_CASES").unwrap_or(200);
    let first = variable("DAT_TEST_SEED").unwrap_or_else(|| SeededEntropy::from_os().below(1 << 40));
    println!("seeds {first} to {}", first + cases - 1);
    let redis = Arc::new(PrivateRedis::start().await);
    let tally = Arc::new(Tally::default());
    for seed in (first..first + cases).step_by(usize::try_from(OF_A_GROUP).expect("a few")) {
        let realm = Realm::create(true).await;
        let store = database(&realm).await;
        let shared = Shared::new(store.clone(), &realm, Arc::clone(&redis), Arc::clone(&tally));
        let seeds = seed..(seed + OF_A_GROUP).min(first + cases);
        let group = Group::start(shared, seeds).await;
        Arc::clone(&group).run(WORKERS).await;
        group.check_everything().await;
        store.close().await;
    }
    tally.finish(cases);
}

/// The realm's database, migrated. The server itself does not crash here: its disk need not keep up.
async fn database(realm: &Realm) -> Store {
    let open = || Store::new(&realm.database_url, 16, "dat-tests").expect("the address can be read");
    let store = open();
    store.migrate().await.expect("migrated");
    store.close().await;
    let name = realm.database_url.rsplit('/').next().and_then(|rest| rest.split('?').next());
    let statement = format!("ALTER DATABASE {} SET synchronous_commit = off", name.expect("a name"));
    let pool = PgPool::connect(&realm.database_url).await.expect("a connection");
    sqlx::query(AssertSqlSafe(statement)).execute(&pool).await.expect("set");
    pool.close().await;
    open()
}
