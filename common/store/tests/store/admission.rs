//! Admission: one version of a plan at a time, exactly the document that was approved, and no step that can never fit.

use dat_plan::{PlanHash, PlanState};
use dat_store::{Admitted, Blocked};
use serde_json::json;

use crate::database::{at, with};
use crate::plans::{Plan, done, plan, step};

/// Two approved versions of one plan.
fn versions() -> [Plan; 2] {
    let first = plan("acme", 100, vec![step("a", &[], 10, 0)]);
    let second = first.with(json!({"plan_version": 2}));
    [first, second]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_waits_until_the_active_one_has_ended() {
    with(async |db| {
        let [first, second] = versions();
        db.start(&first, at(0)).await;
        db.approve(&second, at(1)).await;
        let said = db.store.admit(&[second.admission()], at(2)).await.unwrap();
        assert!(matches!(&said[0].1, Admitted::Waiting(why) if why.contains("version 1")), "{said:?}");
        assert_eq!(db.plan_state(&second).await, PlanState::Approved);
        assert_eq!(db.number("SELECT count(*) FROM execution_step").await, 1);
        db.go(&first, first.unit(0), done(1), at(3)).await;
        let said = db.store.admit(&[second.admission()], at(4)).await.unwrap();
        assert!(matches!(said[0].1, Admitted::Executing { .. }), "{said:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_versions_in_one_batch_one_is_admitted() {
    with(async |db| {
        let [first, second] = versions();
        db.approve(&first, at(0)).await;
        db.approve(&second, at(0)).await;
        let said = db.store.admit(&[first.admission(), second.admission()], at(1)).await.unwrap();
        assert!(matches!(said[0].1, Admitted::Executing { .. }), "{said:?}");
        assert!(matches!(said[1].1, Admitted::Waiting(_)), "{said:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_versions_admitted_at_once_one_is() {
    with(async |db| {
        for _ in 0..10 {
            let [first, second] = versions();
            db.approve(&first, at(0)).await;
            db.approve(&second, at(0)).await;
            let (one, other) = ([first.admission()], [second.admission()]);
            let (one, other) = tokio::join!(db.store.admit(&one, at(1)), db.store.admit(&other, at(1)));
            let said = [one.unwrap().remove(0).1, other.unwrap().remove(0).1];
            assert_eq!(
                said.iter().filter(|s| matches!(s, Admitted::Executing { .. })).count(),
                1,
                "{said:?}"
            );
        }
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_approved_or_can_never_pass_is_aborted() {
    with(async |db| {
        let other_document = plan("acme", 100, vec![step("a", &[], 10, 0)]);
        let too_dear = plan("acme", 100, vec![step("a", &[], 95, 6)]);
        let forbidden = plan("acme", 100, vec![step("a", &[], 10, 0)]);
        let mut asked = Vec::new();
        for plan in [&other_document, &too_dear, &forbidden] {
            db.approve(plan, at(0)).await;
            asked.push(plan.admission());
        }
        asked[0].hash = PlanHash::of(&json!("another document")).unwrap();
        asked[2].blocked = Some(Blocked { reason: "a hard constraint".to_owned(), until: None });
        let said = db.store.admit(&asked, at(1)).await.unwrap();
        assert!(said.iter().all(|(_, said)| matches!(said, Admitted::Aborted(_))), "{said:?}");
        for plan in [&other_document, &too_dear, &forbidden] {
            assert_eq!(db.plan_state(plan).await, PlanState::Aborted);
        }
        db.assert_sound().await;
    })
    .await;
}
