//! The order of candidates: tenants in turns, within a tenant by priority, then by who waits longest.

use std::collections::BTreeMap;

use serde_json::json;
use uuid::Uuid;

use crate::database::{at, with};
use crate::plans::{plan, step, wide};

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
