//! The one order of locks: whatever transactions run at once over the same plans, none becomes a deadlock's victim.

use chrono::TimeDelta;
use dat_plan::clock::{Entropy, SeededEntropy};
use dat_plan::signing::KeyRing;
use dat_store::{ControlScope, Lease, Registration, Settlement, TenantLimit};

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, wide};

/// Enough for the unordered locks that this is about to meet, and bounded.
const ROUNDS: u64 = 25;

fn shuffled<T>(dice: &SeededEntropy, mut list: Vec<T>) -> Vec<T> {
    list.sort_by_cached_key(|_| dice.below(1_000_000));
    list
}

/// Claims over all plans at once, renews, and settles in any order; gives how many steps it completed. Every error is a
/// failure of the test: a deadlock's victim gets one (SQLSTATE 40P01).
async fn worker(db: Db, plans: Vec<Plan>, seed: u64) -> usize {
    let dice = SeededEntropy::new(seed);
    let of = |lease: &Lease| plans.iter().find(|plan| plan.key() == lease.unit.plan).unwrap();
    let mut held: Vec<Lease> = Vec::new();
    let mut completed = 0;
    for round in 0..ROUNDS {
        let now = at(i64::try_from(round).unwrap());
        let found = shuffled(&dice, db.store.candidates(24, now).await.unwrap());
        let requests: Vec<_> = found
            .iter()
            .map(|c| plans.iter().find(|plan| plan.key() == c.unit.plan).unwrap().run(c.unit))
            .collect();
        held.extend(db.claim(&requests, now).await.claimed.into_iter().map(|c| c.lease));
        held = shuffled(&dice, held);
        db.store.renew(&held, now + TimeDelta::minutes(5)).await.unwrap();
        let group = held.split_off(held.len() / 2);
        let group: Vec<Settlement> = group.iter().map(|lease| of(lease).settlement(lease, done(1))).collect();
        // What is still held is renewed while what is done is settled: the same worker's two loops.
        let (renewed, settled) = tokio::join!(
            async {
                let all: Vec<Lease> = held.iter().chain(group.iter().map(|s| &s.lease)).cloned().collect();
                db.store.renew(&shuffled(&dice, all), now + TimeDelta::minutes(5)).await
            },
            db.store.settle(&group, now)
        );
        renewed.unwrap();
        completed += settled.unwrap().settled.len();
    }
    completed
}

async fn governance(db: Db, plans: Vec<Plan>, seed: u64) {
    let dice = SeededEntropy::new(seed);
    for _ in 0..ROUNDS {
        let verdicts: Vec<_> =
            shuffled(&dice, plans.clone()).iter().map(|plan| plan.approval("d1")).collect();
        db.store.bind_verdicts(&verdicts, &KeyRing::default(), at(1)).await.unwrap();
        let again: Vec<Registration> =
            shuffled(&dice, plans.clone()).iter().map(Plan::registration).collect();
        db.store.register(&again, at(1)).await.unwrap();
        let admissions: Vec<_> = shuffled(&dice, plans.clone()).iter().map(Plan::admission).collect();
        db.store.admit(&admissions, at(1)).await.unwrap();
    }
}

async fn operator(db: Db, plans: Vec<Plan>, seed: u64) {
    let dice = SeededEntropy::new(seed);
    for round in 0..ROUNDS {
        let plan = &plans[usize::try_from(dice.below(plans.len() as u64)).unwrap()];
        let tenant = plan.document.tenant.clone();
        for scope in [ControlScope::Plan(plan.id()), ControlScope::Tenant(tenant.clone())] {
            db.store.control(&scope, true, "ann", "stop", at(1)).await.unwrap();
            db.store.control(&scope, false, "ann", "go", at(1)).await.unwrap();
        }
        let amount = 10_000 + i64::try_from(round).unwrap();
        for period in ["year", "day"] {
            let limit = TenantLimit {
                tenant: tenant.clone(),
                currency: "usd".to_owned(),
                period: period.to_owned(),
                amount,
            };
            db.store.set_limit(&limit, "ann", "a budget", at(1)).await.unwrap();
        }
        let keys: Vec<_> = shuffled(&dice, plans.clone()).iter().map(Plan::key).collect();
        db.store.stop_overdue(&keys, at(1)).await.unwrap();
    }
}

async fn relay(db: Db, seed: u64) {
    let dice = SeededEntropy::new(seed);
    for round in 0..2 * ROUNDS {
        let now = at(i64::try_from(round).unwrap());
        let streams = db.store.claim_streams(16, 50, TimeDelta::seconds(30), now).await.unwrap();
        let progress = shuffled(&dice, streams)
            .into_iter()
            .map(|stream| {
                let count = stream.events.len();
                stream.confirmed(count, now)
            })
            .collect::<Vec<_>>();
        db.store.record_relayed(&progress, &[]).await.unwrap();
        db.store.expire_leases(50, now).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn transactions_over_the_same_plans_never_deadlock() {
    let seed = SeededEntropy::from_os().below(1_000_000);
    with(async move |db| {
        let plans: Vec<Plan> =
            (0..8).map(|n| wide(if n % 2 == 0 { "acme" } else { "bolt" }, 10_000, 60, 2)).collect();
        for plan in &plans {
            db.start(plan, at(0)).await;
        }
        let mut workers = Vec::new();
        for task in 0..4 {
            workers.push(tokio::spawn(worker(db.clone(), plans.clone(), seed + task)));
        }
        let others = [
            tokio::spawn(governance(db.clone(), plans.clone(), seed + 10)),
            tokio::spawn(operator(db.clone(), plans.clone(), seed + 11)),
            tokio::spawn(relay(db.clone(), seed + 12)),
            tokio::spawn(relay(db.clone(), seed + 13)),
        ];
        for other in others {
            other.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        let mut completed = 0;
        for worker in workers {
            completed += worker.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        assert!(completed > 0, "nothing ran");
        db.assert_sound().await;
    })
    .await;
}
