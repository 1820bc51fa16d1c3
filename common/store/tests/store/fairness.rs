//! The order of candidates: tenants in turns, within a tenant by priority, then by who waits longest.

use std::collections::{BTreeMap, BTreeSet};

use dat_plan::UnitKey;
use dat_store::{ControlChange, Store, Turns};
use serde_json::json;
use uuid::Uuid;

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, plan, step, wide};

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_much_to_do_does_not_hold_up_one_with_little() {
    with(async |db| {
        let (large, small) = (wide("a-large", 1_000, 50, 1), wide("b-small", 1_000, 3, 1));
        db.start(&large, at(0)).await;
        // The small tenant comes later, and still gets its turns.
        db.start(&small, at(5)).await;
        let found = db.store.candidates(6, at(10)).await.unwrap();
        assert_eq!(found.len(), 6);
        assert_eq!(found.iter().filter(|c| c.tenant == "b-small").count(), 3, "{found:#?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn within_a_tenant_priority_counts_and_then_who_waits_longest() {
    with(async |db| {
        let mut names: BTreeMap<Uuid, &str> = BTreeMap::new();
        for (name, priority, since) in
            [("late", 4, 3), ("early", 4, 1), ("first", 9, 4), ("last", 0, 0), ("middle", 4, 2)]
        {
            let plan = wide("acme", 10, 1, 1).with(json!({"priority": priority}));
            db.start(&plan, at(since)).await;
            names.insert(plan.id(), name);
        }
        let found = db.store.candidates(10, at(10)).await.unwrap();
        let order: Vec<&str> = found.iter().map(|c| names[&c.unit.plan.plan_id]).collect();
        assert_eq!(order, ["first", "early", "middle", "late", "last"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_due_or_does_not_run_is_no_candidate() {
    with(async |db| {
        let mut later = step("later", &[], 1, 0);
        later["not_before"] = json!(at(100));
        let scheduled = plan("acme", 10, vec![step("now", &[], 1, 0), later]);
        let paused = wide("other", 10, 1, 1);
        db.start(&scheduled, at(0)).await;
        db.start(&paused, at(0)).await;
        db.store
            .control(&dat_store::ControlScope::Plan(paused.id()), true, "ann", "wait", at(1))
            .await
            .unwrap();
        let keys = async |now| {
            let found = db.store.candidates(10, now).await.unwrap();
            found.into_iter().map(|c| c.step_key).collect::<Vec<_>>()
        };
        assert_eq!(keys(at(99)).await, ["now"]);
        assert_eq!(keys(at(100)).await, ["now", "later"]);
        // The claim reads the same rule: a doorbell that comes early finds nothing.
        assert!(db.claim(&[scheduled.run(scheduled.unit(1))], at(99)).await.claimed.is_empty());
        db.take(&scheduled, scheduled.unit(1), at(100)).await;
    })
    .await;
}

/// So many steps wait of a tenant, in plans of at most 10,000.
async fn crowd(db: &Db, tenant: &str, steps: usize) -> Vec<Plan> {
    let mut plans = Vec::new();
    for from in (0..steps).step_by(10_000) {
        let crowd = wide(tenant, 1_000_000, (steps - from).min(10_000), 1);
        db.start(&crowd, at(0)).await;
        plans.push(crowd);
    }
    plans
}

/// Claims and settles batches of `size` until every step of `small` is done; gives for each of its steps how many
/// batches after it had become ready it was claimed, and how many of others were claimed meanwhile.
async fn race(db: &Db, large: &[Plan], small: &Plan, size: i64) -> (Vec<usize>, usize) {
    let mut turns = Turns::default();
    let plan_of = |unit: UnitKey| {
        large.iter().chain([small]).find(|plan| plan.key() == unit.plan).expect("one of the plans")
    };
    // The worker has served the large tenant for a while before the small one comes.
    for _ in 0..3 {
        batch(db, &mut turns, size, &plan_of).await;
    }
    db.start(small, at(10)).await;
    let (mut waited, mut waiting, mut others) = (Vec::new(), 0, 0);
    while waited.len() < small.document.steps.len() {
        waiting += 1;
        assert!(waiting <= 500, "the small tenant starves: {waited:?}");
        let claimed = batch(db, &mut turns, size, &plan_of).await;
        let own = claimed.iter().filter(|unit| unit.plan == small.key()).count();
        others += claimed.len() - own;
        if own > 0 {
            waited.push(waiting);
            waiting = 0;
        }
    }
    (waited, others)
}

async fn batch<'a>(
    db: &Db,
    turns: &mut Turns,
    size: i64,
    plan_of: &impl Fn(UnitKey) -> &'a Plan,
) -> Vec<UnitKey> {
    let due = db.store.due(turns, size, at(20)).await.unwrap();
    let requests: Vec<_> = due.candidates.iter().map(|c| plan_of(c.unit).run(c.unit)).collect();
    let claimed = db.claim(&requests, at(20)).await.claimed;
    assert_eq!(claimed.len(), usize::try_from(size).unwrap(), "20,000 steps wait: the batch is full");
    let settlements: Vec<_> = claimed
        .iter()
        .map(|claimed| plan_of(claimed.lease.unit).settlement(&claimed.lease, done(0)))
        .collect();
    db.store.settle(&settlements, at(20)).await.unwrap();
    claimed.iter().map(|claimed| claimed.lease.unit).collect()
}

/// Five steps, one after the other.
fn five(tenant: &str) -> Plan {
    let needs: [&[&str]; 5] = [&[], &["s0"], &["s1"], &["s2"], &["s3"]];
    let steps = needs.iter().enumerate().map(|(n, needs)| step(&format!("s{n}"), needs, 1, 0));
    plan(tenant, 100, steps.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_five_is_not_held_up_by_20_000_steps_of_another_tenant() {
    with(async |db| {
        let large = crowd(&db, "a-large", 20_000).await;
        // Also one at a time: a fleet whose every slot is used claims so.
        for size in [64, 7, 1] {
            let small = five("b-small");
            let (waited, others) = race(&db, &large, &small, size).await;
            assert!(waited.iter().all(|batches| *batches <= 2), "in batches of {size}: {waited:?}");
            assert!(others > 0, "the large tenant goes on");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weight_gives_its_share_and_starves_nobody() {
    with(async |db| {
        let weigh = async |weight| db.store.set_weight("a-large", weight, "ann", "they pay", at(0)).await;
        assert_eq!(weigh(1).await.unwrap(), ControlChange::AlreadySo, "every tenant has 1");
        assert_eq!(weigh(9).await.unwrap(), ControlChange::Done);
        assert_eq!(weigh(9).await.unwrap(), ControlChange::AlreadySo);
        let large = crowd(&db, "a-large", 20_000).await;
        let (waited, _) = race(&db, &large, &five("b-small"), 64).await;
        assert!(waited.iter().all(|batches| *batches <= 2), "{waited:?}");
        // One at a time, the small tenant has one claim in ten.
        let (waited, others) = race(&db, &large, &five("b-small"), 1).await;
        assert!(waited[0] <= 10 && waited[1..].iter().all(|batches| *batches == 10), "{waited:?}");
        assert!(others >= 36, "{others}");
        let acts = db.store.weights().await.unwrap();
        assert_eq!((acts[0].tenant.as_str(), acts[0].weight, acts[0].set_by.as_str()), ("a-large", 9, "ann"));
        let told = "SELECT count(*) FROM execution_event WHERE kind = 'control.set_weight'";
        assert_eq!(db.number(told).await, 1);
        assert!(
            db.store.set_weight("x", 0, "ann", "none", at(0)).await.is_err(),
            "nobody's share is nothing"
        );
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_low_priority_does_not_wait_for_ever_behind_what_has_high() {
    with(async |db| {
        let low = wide("acme", 100, 3, 1).with(json!({"priority": 0}));
        db.start(&low, at(0)).await;
        let high = wide("acme", 10_000, 1_000, 1).with(json!({"priority": 9}));
        db.start(&high, at(1)).await;
        let plan_of = |unit: UnitKey| if unit.plan == low.key() { &low } else { &high };
        let mut turns = Turns::default();
        let mut order = Vec::new();
        for _ in 0..30 {
            order.extend(batch(&db, &mut turns, 1, &plan_of).await);
        }
        let places: Vec<usize> = (0..order.len()).filter(|place| order[*place].plan == low.key()).collect();
        assert_eq!(places, [7, 15, 23], "one claim in eight goes by waiting alone");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_costs_the_same_however_much_waits() {
    with(async |db| {
        crowd(&db, "a-large", 20_000).await;
        for number in 0..200 {
            db.start(&wide(&format!("t{number:03}"), 100, 3, 1), at(1)).await;
        }
        sqlx::query("ANALYZE").execute(&db.sql).await.unwrap();
        let read = async || {
            db.number(
                "SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables
                 WHERE relname = 'execution_step'",
            )
            .await
        };
        // A store of one connection, closed afterwards: a session reports what it read when it ends.
        let looked = Store::new(&db.url, 1, "looked").unwrap();
        let before = read().await;
        let mut turns = Turns::default();
        let mut tenants = BTreeSet::new();
        for _ in 0..4 {
            let due = looked.due(&mut turns, 64, at(20)).await.unwrap();
            assert_eq!(due.candidates.len(), 64);
            assert!(due.more);
            tenants.extend(due.candidates.into_iter().map(|c| c.tenant));
        }
        looked.close().await;
        assert_eq!(tenants.len(), 201, "four looks go round all of them");
        // What it read is told once its session has ended, and not at once.
        let mut rows = 0;
        for _ in 0..500 {
            rows = read().await - before;
            if rows > 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert!((64..20_000).contains(&rows), "{rows} rows were read for 256 candidates");
    })
    .await;
}
