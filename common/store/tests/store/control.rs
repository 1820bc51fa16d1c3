//! Control: pause, resume and abort, and that none of them strands a plan.

use dat_plan::PlanState;
use dat_store::{ControlChange, ControlScope};

use crate::database::{at, with};
use crate::plans::{done, plan, step};

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_whose_last_step_completes_while_it_is_paused_completes_when_it_is_resumed() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 3)]);
        db.start(&plan, at(0)).await;
        let claimed = db.take(&plan, plan.unit(0), at(1)).await;
        let scope = ControlScope::Plan(plan.id());
        assert_eq!(db.store.control(&scope, true, "ann", "wait", at(2)).await.unwrap(), ControlChange::Done);
        db.settle(&plan, &claimed.lease, done(10), at(3)).await;
        assert_eq!(db.plan_state(&plan).await, PlanState::Paused);
        assert_eq!(db.store.control(&scope, false, "ann", "go", at(4)).await.unwrap(), ControlChange::Done);
        assert_eq!(db.plan_state(&plan).await, PlanState::Completed);
        assert_eq!(db.number("SELECT reserved FROM budget_account").await, 0);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_act_is_an_event_and_an_act_that_changes_nothing_is_none() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0), step("b", &["a"], 10, 0)]);
        let scope = ControlScope::Plan(plan.id());
        let pause = db.store.control(&scope, true, "ann", "wait", at(0)).await.unwrap();
        assert_eq!(pause, ControlChange::NotThere);
        db.start(&plan, at(0)).await;
        db.store.control(&scope, true, "ann", "wait", at(1)).await.unwrap();
        let before = db.dump().await;
        let again = db.store.control(&scope, true, "bob", "wait too", at(2)).await.unwrap();
        assert_eq!(again, ControlChange::AlreadySo);
        assert_eq!(db.dump().await, before);
        assert_eq!(db.store.abort(plan.id(), "ann", "enough", at(3)).await.unwrap(), ControlChange::Done);
        assert_eq!(db.plan_state(&plan).await, PlanState::RollingBack);
        assert!(db.store.stops().await.unwrap().is_empty(), "the pause would hold the undos too");
        let again = db.store.abort(plan.id(), "ann", "enough", at(4)).await.unwrap();
        assert_eq!(again, ControlChange::AlreadySo);
        let acts = "SELECT string_agg(kind || ' by ' || (data->>'actor'), ', ' ORDER BY sequence)
                    FROM execution_event WHERE plan_version = 0";
        assert_eq!(db.text(acts).await.as_deref(), Some("control.pause by ann, control.abort by ann"));
        assert_eq!(
            (db.state(plan.unit(0)).await, db.state(plan.unit(1)).await),
            ("skipped".into(), "skipped".into())
        );
        db.assert_sound().await;
    })
    .await;
}
