//! Verdicts: bound to exactly the plan and hash that they name, the first one wins, and a revocation always binds.

use dat_plan::PlanState;
use dat_plan::check::CheckedVerdict;
use dat_plan::signing::KeyRing;
use dat_store::{Bound, Conflict};
use serde_json::json;

use crate::database::{Db, at, with};
use crate::plans::{Plan, plan, step};

const OTHER_HASH: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn simple() -> Plan {
    plan("acme", 100, vec![step("a", &[], 1, 0)])
}

async fn bind(db: &Db, verdict: CheckedVerdict) -> Bound {
    db.store.bind_verdicts(&[verdict], &KeyRing::default(), at(1)).await.unwrap().remove(0)
}

/// The verdict is parked, and nothing is written.
async fn parked(db: &Db, verdict: CheckedVerdict) -> Conflict {
    let before = db.dump().await;
    let Bound::Parked(conflict) = bind(db, verdict).await else { panic!("it was not parked") };
    assert_eq!(db.dump().await, before, "a parked verdict changed something");
    conflict
}

#[tokio::test(flavor = "multi_thread")]
async fn between_approved_and_rejected_the_first_wins() {
    with(async |db| {
        let (yes, no) = (simple(), simple());
        db.register(&yes, at(0)).await;
        db.register(&no, at(0)).await;
        assert_eq!(bind(&db, yes.approval("d1")).await, Bound::Bound);
        assert_eq!(bind(&db, no.verdict("d1", "rejected", &json!({}))).await, Bound::Bound);
        let late = parked(&db, yes.verdict("d2", "rejected", &json!({}))).await;
        assert!(matches!(late, Conflict::TooLate(_)), "{late}");
        assert!(matches!(parked(&db, no.approval("d2")).await, Conflict::TooLate(_)));
        assert!(matches!(parked(&db, yes.approval("d3")).await, Conflict::TooLate(_)));
        let same_id = parked(&db, yes.verdict("d1", "rejected", &json!({}))).await;
        assert!(matches!(same_id, Conflict::TooLate(_)), "{same_id}");
        assert_eq!(db.plan_state(&yes).await, PlanState::Approved);
        assert_eq!(db.plan_state(&no).await, PlanState::Rejected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_verdicts_one_binds() {
    with(async |db| {
        let plan = simple();
        db.register(&plan, at(0)).await;
        let verdicts = (0..6).map(|n| {
            let outcome = if n % 2 == 0 { "approved" } else { "rejected" };
            let (store, verdict) = (db.store.clone(), plan.verdict(&format!("d{n}"), outcome, &json!({})));
            tokio::spawn(async move {
                store.bind_verdicts(&[verdict], &KeyRing::default(), at(1)).await.unwrap().remove(0)
            })
        });
        let mut bound = 0;
        for verdict in verdicts.collect::<Vec<_>>() {
            bound += usize::from(verdict.await.unwrap() == Bound::Bound);
        }
        assert_eq!(bound, 1);
        assert_eq!(db.number("SELECT count(*) FROM plan_verdict").await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_matches_nothing_or_widens_is_parked() {
    with(async |db| {
        let plan = simple();
        let unknown = parked(&db, plan.approval("d1")).await;
        assert!(matches!(unknown, Conflict::NoSuchPlan(_)), "{unknown}");
        db.register(&plan, at(0)).await;
        let other = plan.verdict("d1", "approved", &json!({"plan_hash": OTHER_HASH}));
        assert!(matches!(parked(&db, other).await, Conflict::OtherHash { .. }));
        for wider in [json!({"amount": 101, "currency": "usd"}), json!({"amount": 1, "currency": "eur"})] {
            let verdict = plan.verdict("d1", "approved", &json!({"budget": wider}));
            assert_eq!(parked(&db, verdict).await, Conflict::Widens);
        }
        let revoked = plan.verdict("d1", "revoked", &json!({"plan_hash": OTHER_HASH}));
        assert!(matches!(parked(&db, revoked).await, Conflict::OtherHash { .. }));
        let tighter = json!({"budget": {"amount": 60, "currency": "usd"}});
        assert_eq!(bind(&db, plan.verdict("d1", "approved", &tighter)).await, Bound::Bound);
        db.store.admit(&[plan.admission()], at(1)).await.unwrap();
        assert_eq!(db.number("SELECT limit_amount FROM budget_account").await, 60);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_changes_nothing() {
    with(async |db| {
        let plan = simple();
        db.register(&plan, at(0)).await;
        let batch = [plan.approval("d1"), plan.approval("d1")];
        let said = db.store.bind_verdicts(&batch, &KeyRing::default(), at(1)).await.unwrap();
        assert_eq!(said, [Bound::Bound, Bound::Repeat]);
        let before = db.dump().await;
        assert_eq!(bind(&db, plan.approval("d1")).await, Bound::Repeat);
        assert_eq!(db.dump().await, before);
        // The same id over another hash repeats nothing.
        let other = plan.verdict("d1", "approved", &json!({"plan_hash": OTHER_HASH}));
        assert!(matches!(parked(&db, other).await, Conflict::OtherHash { .. }));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_binds_before_its_approval_which_is_then_parked() {
    with(async |db| {
        let plan = simple();
        db.register(&plan, at(0)).await;
        assert_eq!(bind(&db, plan.verdict("r1", "revoked", &json!({}))).await, Bound::Bound);
        assert_eq!(db.plan_state(&plan).await, PlanState::Aborted);
        assert!(matches!(parked(&db, plan.approval("d1")).await, Conflict::TooLate(_)));
        let told =
            "SELECT count(*) FROM execution_event WHERE kind = 'plan.aborted' AND data->>'decision_id' = 'r1'
                    AND data ? 'spent' AND data ? 'steps' AND data ? 'duration_ms'";
        assert_eq!(db.number(told).await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_stops_a_plan_in_every_state_also_under_the_id_that_it_takes_back() {
    with(async |db| {
        let (approved, executing) = (simple(), simple());
        db.approve(&approved, at(0)).await;
        db.start(&executing, at(0)).await;
        for plan in [&approved, &executing] {
            assert_eq!(bind(&db, plan.verdict("d1", "revoked", &json!({}))).await, Bound::Bound);
            assert_eq!(bind(&db, plan.verdict("d1", "revoked", &json!({}))).await, Bound::Repeat);
        }
        assert_eq!(db.plan_state(&approved).await, PlanState::Aborted);
        assert_eq!(db.plan_state(&executing).await, PlanState::RollingBack);
        db.assert_sound().await;
    })
    .await;
}
