//! What the audit costs, on the PostgreSQL at `DATABASE_URL`: so many plans that ran and were sealed, audited when there
//! are a tenth of them and when all are there; events a second, and the most memory that it took each time.
//!
//! `DAT_BENCH_PLANS` says how many, 100,000 where it does not.

#[path = "../tests/store/database.rs"]
#[expect(dead_code, reason = "the tests' own, of which a benchmark needs little")]
mod database;
#[path = "../tests/store/plans.rs"]
#[expect(dead_code, reason = "the tests' own, of which a benchmark needs little")]
mod plans;
mod started;

use std::time::Instant;

use chrono::{DateTime, Utc};
use dat_plan::signing::{KeyRing, SigningKey, Trust};
use tokio::runtime::Runtime;

use database::{Db, at};
use plans::{Plan, done, wide};

/// Plans that go their way together.
const BATCH: usize = 500;

fn key() -> SigningKey {
    SigningKey::from_seed("log", &"07".repeat(32)).expect("a seed")
}

/// Plans that ran from the first event to the last.
async fn ran(db: &Db, plans: usize) {
    for _ in 0..plans / BATCH {
        let plans: Vec<Plan> = (0..BATCH).map(|_| wide("acme", 1_000, 1, 10)).collect();
        started::start(db, &plans).await;
        let requests: Vec<_> = plans.iter().map(|plan| plan.run(plan.unit(0))).collect();
        let claimed = db.claim(&requests, at(1)).await.claimed;
        assert_eq!(claimed.len(), BATCH, "every step is claimed");
        let settlements: Vec<_> = claimed
            .iter()
            .filter_map(|claim| {
                let plan = plans.iter().find(|plan| plan.key() == claim.lease.unit.plan)?;
                Some(plan.settlement(&claim.lease, done(5)))
            })
            .collect();
        db.store.settle(&settlements, at(2)).await.expect("they are settled");
        seal(db, at(3)).await;
    }
}

async fn seal(db: &Db, now: DateTime<Utc>) {
    while db.store.seal("bench", Some(&key()), now, now).await.expect("it is sealed").is_some() {}
}

/// A count that is no larger than a figure need be.
fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The most memory that this process has had since it was last asked, KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    // Asked anew from here on.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[expect(clippy::print_stdout, reason = "the figures that make bench-audit is asked for")]
async fn audited(db: &Db, plans: usize) -> u64 {
    sqlx::query("ANALYZE").execute(&db.sql).await.expect("the statistics are made");
    let trust = Trust { checkpoints: KeyRing::new([key().trusted()]).expect("a ring"), ..Trust::default() };
    peak_kib();
    let began = Instant::now();
    let report = db.store.audit(None, &trust).await.expect("the database answers");
    let took = began.elapsed().as_secs_f64();
    let peak = peak_kib();
    assert!(report.faults.is_empty(), "{:#?}", &report.faults[..report.faults.len().min(3)]);
    assert_eq!(report.unsealed, 0, "everything is sealed");
    let rate = float(report.events) / took;
    println!(
        "{plans} plans, {} events, {} checkpoints, {} leaves: {took:.1} s, {rate:.0} events a second, at most {} MiB",
        report.events,
        report.checkpoints,
        report.leaves,
        peak / 1_024
    );
    peak
}

#[expect(clippy::print_stdout, reason = "the figures that make bench-audit is asked for")]
fn main() {
    let plans =
        std::env::var("DAT_BENCH_PLANS").map_or(100_000, |plans| plans.parse().expect("DAT_BENCH_PLANS"));
    Runtime::new().expect("a runtime starts").block_on(database::with(async move |db| {
        db.store.ensure_partitions(at(0)).await.expect("the partitions are made");
        ran(&db, plans / 10).await;
        let few = audited(&db, plans / 10).await;
        ran(&db, plans - plans / 10).await;
        let many = audited(&db, plans).await;
        let ratio = float(many) / float(few);
        println!("ten times as many plans: {ratio:.2} times the memory");
        assert!(ratio < 1.5, "memory grows with the log");
    }));
}
