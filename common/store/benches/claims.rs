//! What a claim costs with its budget accounts, on the PostgreSQL at `DATABASE_URL`: the plan's account alone, and a
//! tenant's day and month beside it, one step a claim and 64.

#[path = "../tests/store/database.rs"]
#[expect(dead_code, reason = "the tests' own, of which a benchmark needs little")]
mod database;
#[path = "../tests/store/plans.rs"]
#[expect(dead_code, reason = "the tests' own, of which a benchmark needs little")]
mod plans;
mod started;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use dat_store::{ClaimRequest, Seal, TenantLimit};
use tokio::runtime::Runtime;

use database::{Db, at};
use plans::{Plan, wide};

/// How many steps each plan of a batch has.
const STEPS: usize = 4;

/// Plans for one claim of so many steps, all of them ready.
async fn ready(db: &Db, batch: usize) -> Vec<Plan> {
    let steps = batch.min(STEPS);
    let plans: Vec<Plan> = (0..batch / steps).map(|_| wide("acme", 1_000, steps, 10)).collect();
    started::start(db, &plans).await;
    plans
}

/// How long so many claims took, one after the other, in a database of their own.
async fn claims(iterations: u64, batch: usize, tenant_accounts: bool) -> Duration {
    let (tell, told) = mpsc::channel();
    database::with(async move |db| {
        for period in ["day", "month"].into_iter().filter(|_| tenant_accounts) {
            let (tenant, currency) = ("acme".to_owned(), "usd".to_owned());
            let limit = TenantLimit { tenant, currency, period: period.to_owned(), amount: 1 << 50 };
            db.store.set_limit(&limit, "ann", "a benchmark", at(0)).await.expect("the limit is set");
        }
        let mut took = Duration::ZERO;
        for _ in 0..iterations {
            let plans = ready(&db, batch).await;
            // As a worker claims: it looks whether what is stored is what it read.
            let keys: Vec<_> = plans.iter().map(Plan::key).collect();
            let stored = db.store.sealed(&keys).await.expect("what is stored");
            let digest = |plan: &Plan| stored.iter().find(|s| s.plan == plan.key())?.digest.clone();
            let requests: Vec<ClaimRequest<'_>> = plans
                .iter()
                .flat_map(|plan| {
                    let seal = Seal { digest: digest(plan), ..plan.seal() };
                    (0..batch.min(STEPS)).map(move |index| plan.run_sealed(plan.unit(index), seal.clone()))
                })
                .collect();
            let began = Instant::now();
            let report = db.claim(&requests, at(1)).await;
            took += began.elapsed();
            assert_eq!(report.claimed.len(), batch, "every step is claimed");
        }
        tell.send(took).expect("somebody waits");
    })
    .await;
    told.recv().expect("the claims were made")
}

fn with_accounts(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let mut group = criterion.benchmark_group("claims");
    group.sampling_mode(SamplingMode::Flat);
    for (accounts, tenant_accounts) in [("plan", false), ("plan, day, month", true)] {
        for batch in [1, 64] {
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::new(accounts, batch), |bench| {
                bench.iter_custom(|iterations| runtime.block_on(claims(iterations, batch, tenant_accounts)));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = store;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    targets = with_accounts
}
criterion_main!(store);
