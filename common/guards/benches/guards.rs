//! What the guards cost without the database: decisions on constraints, token windows and rate schedules, the latter two
//! on the Redis at `REDIS_URL`, in a namespace of the run's own.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dat_guards::{
    ConstraintSet, Inputs, Period, RateLimit, RateRequest, RateSchedule, RuntimeStore, TokenWindow,
    TokenWindows, WindowRequest,
};
use dat_plan::clock::{Entropy, SeededEntropy};
use dat_plan::document::Constraint;
use serde_json::{Value, json};

const BATCHES: [usize; 3] = [1, 64, 256];

/// A time window, a quantity and a predicate, again and again.
fn constraints(count: usize) -> ConstraintSet {
    let rules = [
        json!({"kind": "time_window", "not_before": "2026-01-01T00:00:00Z", "not_after": "2027-01-01T00:00:00Z"}),
        json!({"kind": "quantity", "parameter": "amount", "min": 1, "max": 100}),
        json!({"kind": "predicate", "require": "budget.spent + budget.reserved < budget.amount && step.attempt < 4"}),
    ];
    let list = rules.iter().cycle().take(count).enumerate().map(|(place, rule)| {
        let mut rule = rule.clone();
        rule["id"] = json!(format!("c{place}"));
        rule["enforcement"] = json!("hard");
        rule
    });
    let list: Vec<Constraint> =
        serde_json::from_value(Value::Array(list.collect())).expect("they are constraints");
    ConstraintSet::compile(&list).expect("they compile")
}

fn decisions(criterion: &mut Criterion) {
    let inputs: Inputs = serde_json::from_value(json!({
        "now": "2026-03-01T12:00:00Z", "tenant": "acme",
        "plan": {"id": "018f0000-0000-7000-8000-000000000001", "version": 1, "name": "p", "priority": 4, "steps": 2},
        "step": {"key": "a", "index": 0, "attempt": 1, "parameters": {"amount": 10}},
        "budget": {"amount": 100, "spent": 40, "reserved": 10, "currency": "usd"},
    }))
    .expect("they are inputs");
    let mut group = criterion.benchmark_group("decisions");
    group.throughput(Throughput::Elements(1));
    for count in [1, 8, 32] {
        let set = constraints(count);
        group.bench_function(BenchmarkId::new("constraints", count), |bench| {
            bench.iter(|| set.runtime(black_box(&inputs)));
        });
    }
    group.finish();
}

fn redis(criterion: &mut Criterion) {
    let Ok(url) = std::env::var("REDIS_URL") else { panic!("REDIS_URL is not set: run `make bench-guards`") };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let namespace = format!("bench-{}", SeededEntropy::from_os().id());
    let store = {
        let _inside = runtime.enter();
        RuntimeStore::connect(&url, &namespace, Duration::from_secs(5)).expect("it is a Redis URL")
    };
    // Every reservation and every turn is a new one, and all of them pass.
    let mut number = 0_u64;
    let mut fresh = |count: usize| -> Vec<String> {
        (0..count)
            .map(|_| {
                number += 1;
                format!("r{number}")
            })
            .collect()
    };

    let windows = TokenWindows::new(store.clone(), "bench");
    runtime.block_on(windows.rebuild(1, &[])).expect("Redis answers");
    let window = |connector: Option<&str>| TokenWindow {
        tenant: Some("acme".to_owned()),
        connector: connector.map(str::to_owned),
        action: None,
        period: Period::Minute,
        limit: 1 << 50,
    };
    let (tenant, connector) = (window(None), window(Some("mux")));
    let levels = [&tenant, &connector];
    let mut group = criterion.benchmark_group("token windows at two levels");
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("batch", batch), |bench| {
            bench.iter(|| {
                let ids = fresh(batch);
                let asked: Vec<_> = ids
                    .iter()
                    .map(|id| WindowRequest { reservation: id, amount: 10, windows: &levels })
                    .collect();
                runtime.block_on(windows.reserve(&asked)).expect("Redis answers")
            });
        });
    }
    group.finish();

    let schedule = RateSchedule::new(store, Duration::from_mins(1));
    let limit = RateLimit::new(1_000_000, Duration::from_secs(1), 1_000_000).expect("it is a rate");
    let limits = [("mux/x".to_owned(), limit)];
    let mut group = criterion.benchmark_group("rate schedules");
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("batch", batch), |bench| {
            bench.iter(|| {
                let ids = fresh(batch);
                let asked: Vec<_> = ids
                    .iter()
                    .map(|id| RateRequest { tenant: "acme", lane: "mux/x", request: id, limits: &limits })
                    .collect();
                runtime.block_on(schedule.ask(&asked)).expect("Redis answers")
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = guards;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = decisions, redis
}
criterion_main!(guards);
