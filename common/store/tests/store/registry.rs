//! The registry: each plan version once, for ever as it was submitted, and one tenant's.

use dat_plan::{Fault, FaultCode};
use dat_store::Registered;
use serde_json::json;

use crate::database::{at, with};
use crate::plans::{Plan, plan, step, wide};

fn faults(registered: &Registered) -> Vec<(&str, FaultCode)> {
    let Registered::Refused(faults) = registered else { panic!("it was taken: {registered:?}") };
    faults.iter().map(|fault: &Fault| (fault.pointer.as_str(), fault.code)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_is_the_same_plan_and_other_content_is_refused() {
    with(async |db| {
        let first = plan("acme", 100, vec![step("a", &[], 1, 0)]);
        let other = first.with(json!({"name": "another"}));
        let batch = [first.registration(), first.registration(), other.registration()];
        let said = db.store.register(&batch, at(0)).await.unwrap();
        assert_eq!(said[..2], [Registered::New, Registered::Same]);
        assert_eq!(faults(&said[2]), [("/plan_version", FaultCode::VersionConflict)]);
        let before = db.dump().await;
        let again = db.store.register(&batch, at(1)).await.unwrap();
        assert_eq!(again[..2], [Registered::Same, Registered::Same]);
        assert_eq!(faults(&again[2]), [("/plan_version", FaultCode::VersionConflict)]);
        assert_eq!(db.dump().await, before);
        let stored = db.store.documents(&[first.key()]).await.unwrap();
        assert_eq!(stored[0].body, first.registration().body);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_id_belongs_to_one_tenant_for_ever() {
    with(async |db| {
        let mine = plan("acme", 100, vec![step("a", &[], 1, 0)]);
        db.register(&mine, at(0)).await;
        let next = mine.with(json!({"plan_version": 2}));
        let stolen = next.with(json!({"tenant": "evil"}));
        // The thief comes first: the owner's submission of the same version is registered all the same.
        let batch = [stolen.registration(), next.registration(), stolen.registration()];
        let said = db.store.register(&batch, at(1)).await.unwrap();
        assert_eq!(faults(&said[0]), [("/tenant", FaultCode::ForeignTenant)]);
        assert_eq!(said[1], Registered::New);
        assert_eq!(faults(&said[2]), [("/tenant", FaultCode::ForeignTenant)]);
        assert_eq!(db.number("SELECT count(*) FROM execution_plan WHERE tenant = 'acme'").await, 2);
        assert_eq!(db.number("SELECT count(*) FROM execution_plan").await, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_tenants_in_one_batch_the_first_owns_the_id() {
    with(async |db| {
        let second = plan("acme", 100, vec![step("a", &[], 1, 0)]).with(json!({"plan_version": 2}));
        let first = second.with(json!({"tenant": "evil", "plan_version": 1}));
        let batch = [second.registration(), first.registration()];
        let said = db.store.register(&batch, at(0)).await.unwrap();
        assert_eq!(said[0], Registered::New);
        assert_eq!(faults(&said[1]), [("/tenant", FaultCode::ForeignTenant)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_registrations_exactly_one_is_new() {
    with(async |db| {
        let plans: Vec<Plan> = (0..20).map(|_| wide("acme", 10, 2, 1)).collect();
        let tasks = (0..4_usize).map(|turn| {
            let (store, mut mine) = (db.store.clone(), plans.clone());
            mine.rotate_left(turn * 5);
            tokio::spawn(async move {
                let batch: Vec<_> = mine.iter().map(Plan::registration).collect();
                let said = store.register(&batch, at(0)).await.unwrap();
                mine.iter().map(Plan::id).zip(said).collect::<Vec<_>>()
            })
        });
        let mut said = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            said.extend(task.await.unwrap());
        }
        for plan in &plans {
            let of_plan: Vec<_> = said.iter().filter(|(id, _)| *id == plan.id()).map(|(_, s)| s).collect();
            assert_eq!(of_plan.len(), 4);
            assert_eq!(of_plan.iter().filter(|said| ***said == Registered::New).count(), 1);
            assert_eq!(of_plan.iter().filter(|said| ***said == Registered::Same).count(), 3);
        }
        assert_eq!(db.number("SELECT count(*) FROM execution_event").await, 3 * 20);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_version_supersedes_is_recorded_however_versions_come() {
    with(async |db| {
        let version = |plan: &Plan, n: i32| plan.with(json!({"plan_version": n}));
        let plan = plan("acme", 100, vec![step("a", &[], 1, 0)]);
        db.register(&plan, at(0)).await;
        // Two at once in one batch, and one that comes late.
        let batch = [version(&plan, 5).registration(), version(&plan, 3).registration()];
        db.store.register(&batch, at(1)).await.unwrap();
        db.store.register(&[version(&plan, 4).registration()], at(2)).await.unwrap();
        let recorded: Vec<(i32, Option<i32>)> =
            sqlx::query_as("SELECT plan_version, supersedes FROM execution_plan ORDER BY plan_version")
                .fetch_all(&db.sql)
                .await
                .unwrap();
        assert_eq!(recorded, [(1, None), (3, Some(1)), (4, Some(3)), (5, Some(3))]);
        let told = "SELECT count(*) FROM execution_plan p JOIN execution_event e USING (plan_id, plan_version)
                    WHERE e.kind = 'plan.draft' AND (e.data->>'supersedes')::integer IS NOT DISTINCT FROM p.supersedes";
        assert_eq!(db.number(told).await, 4);
        // Registered again it is the same plan, and says the same.
        let again = db.store.register(&[version(&plan, 4).registration()], at(3)).await.unwrap();
        assert_eq!(again, [Registered::Same]);
        let view = db.store.plan(version(&plan, 3).key()).await.unwrap().unwrap();
        assert_eq!((view.supersedes, view.superseded_by), (Some(1), vec![4, 5]));
    })
    .await;
}
