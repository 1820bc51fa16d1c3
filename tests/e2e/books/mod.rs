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
use tokio::task::JoinSet;

use case::{Case, Shared};
use tally::Tally;

/// Cases at the same time.
const AT_ONCE: usize = 4;
/// Cases that share a database; more make its tables slow to ask for the invariant.
const OF_A_DATABASE: u64 = 20;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// `DAT_TEST_CASES` cases (200 where it is not set), the first from the seed `DAT_TEST_SEED`. A failure names its case's
/// seed: with it as `DAT_TEST_SEED` and one case, the same plans and dice are thrown again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_fleet_keeps_its_books_whatever_crashes_repeats_or_is_flushed() {
    let cases = variable("DAT_TEST_CASES").unwrap_or(200);
    let first = variable("DAT_TEST_SEED").unwrap_or_else(|| SeededEntropy::from_os().below(1 << 40));
    println!("seeds {first} to {}", first + cases - 1);
    let redis = PrivateRedis::start().await;
    let tally = Arc::new(Tally::default());
    let mut done = 0;
    while done < cases {
        let count = OF_A_DATABASE.min(cases - done);
        let realm = Realm::create(true).await;
        let store = Store::new(&realm.database_url, 16, "dat-tests").expect("the address can be read");
        store.migrate().await.expect("migrated");
        // The server itself does not crash here: its disk need not keep up.
        let name = realm.database_url.rsplit('/').next().unwrap_or_default();
        let name = name.split('?').next().unwrap_or_default();
        sqlx::query(AssertSqlSafe(format!("ALTER DATABASE {name} SET synchronous_commit = off")))
            .execute(&PgPool::connect(&realm.database_url).await.expect("a connection"))
            .await
            .expect("set");
        store.close().await;
        let store = Store::new(&realm.database_url, 16, "dat-tests").expect("the address can be read");
        let shared = Arc::new(Shared::new(store.clone(), &realm, &redis.url(), Arc::clone(&tally)));
        let mut running = JoinSet::new();
        for seed in first + done..first + done + count {
            if running.len() == AT_ONCE {
                running.join_next().await.expect("a case runs").expect("a case holds");
                // A flush hits every case that runs, at whatever each of them is doing.
                if shared.dice.below(3) == 0 {
                    redis.flush().await;
                    tally.flushed();
                }
            }
            let case = Case::start(&shared, seed).await;
            running.spawn(async move { case.run(2).await });
        }
        let flusher = SeededEntropy::new(first + done);
        while let Some(ended) = running.join_next().await {
            ended.expect("a case holds");
            if flusher.below(2) == 0 {
                redis.flush().await;
                tally.flushed();
            }
        }
        shared.check_everything().await;
        store.close().await;
        done += count;
    }
    tally.finish(cases);
}
