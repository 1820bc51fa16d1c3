//! Control: pause, resume and abort, and that none of them strands a plan.

use dat_plan::PlanState;
use dat_store::{BreakerForce, ControlChange, ControlScope, Postponed, breaker_wait};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_that_is_closed_or_freed_wakes_what_it_put_off_and_nothing_else() {
    with(async |db| {
        let steps = ["a", "b", "c"].map(|key| step(key, &[], 10, 0));
        let plan = plan("acme", 100, steps.to_vec());
        db.start(&plan, at(0)).await;
        let put_off = async |reasons: [String; 3], now| {
            let waits: Vec<Postponed> = (0..3)
                .zip(reasons)
                .map(|(step, reason)| Postponed {
                    unit: plan.unit(step),
                    until: at(3_600),
                    reason,
                    rate_slot: None,
                })
                .collect();
            assert_eq!(db.store.postpone(&waits, at(now)).await.unwrap().len(), 3);
        };
        let due = async |now: i64| {
            let asleep = "SELECT coalesce(string_agg(step_key, '' ORDER BY step_key), '') FROM execution_step
                          WHERE not_before > to_timestamp($1)";
            let at = at(now).timestamp();
            sqlx::query_scalar::<_, String>(asleep).bind(at).fetch_one(&db.sql).await.unwrap()
        };
        let open = |connector: &str| format!("{}open until later", breaker_wait(connector));
        let force = async |force, now| {
            db.store.force_breaker("mux", force, "ann", "they are back", at(now)).await.unwrap()
        };
        // One waits for the breaker, one for another connector's, and one for its turn.
        put_off([open("mux"), open("mux2"), "its turn".to_owned()], 1).await;
        assert_eq!(force(Some(BreakerForce::Open), 2).await, ControlChange::Done);
        assert_eq!(due(2).await, "abc", "what is forced open wakes nobody");
        assert_eq!(force(Some(BreakerForce::Closed), 3).await, ControlChange::Done);
        assert_eq!(due(3).await, "bc");
        db.run("UPDATE execution_step SET not_before = '2026-03-01T12:00:00Z'".to_owned()).await;
        put_off([open("mux"), open("mux"), "its turn".to_owned()], 4).await;
        assert_eq!(force(None, 5).await, ControlChange::Done);
        assert_eq!(due(5).await, "c");
        // A connector that is enabled wakes what waited for that.
        db.run("UPDATE execution_step SET not_before = '2026-03-01T12:00:00Z'".to_owned()).await;
        let disabled = || "connector mux is disabled by ann: wait".to_owned();
        let scope = ControlScope::Connector("mux".to_owned());
        db.store.control(&scope, true, "ann", "wait", at(6)).await.unwrap();
        put_off([disabled(), open("mux"), "its turn".to_owned()], 7).await;
        db.store.control(&scope, false, "ann", "go", at(8)).await.unwrap();
        assert_eq!(due(8).await, "bc");
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_that_is_forced_open_lets_nothing_be_claimed_and_each_act_is_an_event() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0)]);
        db.start(&plan, at(0)).await;
        let force = async |force, now| {
            db.store.force_breaker("mux", force, "ann", "they asked", at(now)).await.unwrap()
        };
        assert_eq!(force(None, 1).await, ControlChange::AlreadySo);
        assert_eq!(force(Some(BreakerForce::Open), 2).await, ControlChange::Done);
        assert_eq!(force(Some(BreakerForce::Open), 3).await, ControlChange::AlreadySo);
        let held = db.claim(&[plan.run(plan.unit(0))], at(4)).await;
        assert_eq!((held.claimed.len(), held.deferred), (0, 1), "{held:?}");
        let why = "the breaker of connector mux is forced open by ann: they asked";
        let said = "SELECT wait_reason FROM execution_step WHERE kind = 'action'";
        assert_eq!(db.text(said).await.as_deref(), Some(why));
        let stops = db.store.stops().await.unwrap();
        assert_eq!(
            stops.iter().map(|s| (s.scope.as_str(), s.subject.as_str())).collect::<Vec<_>>(),
            [("breaker", "mux")]
        );
        // Closed by force it holds nothing either, and is one row still.
        assert_eq!(force(Some(BreakerForce::Closed), 5).await, ControlChange::Done);
        assert!(db.store.stops().await.unwrap().is_empty());
        assert_eq!(db.store.forced_breakers().await.unwrap().len(), 1);
        assert_eq!(force(None, 6).await, ControlChange::Done);
        assert!(db.store.forced_breakers().await.unwrap().is_empty());
        db.go(&plan, plan.unit(0), done(10), at(60)).await;
        let acts = "SELECT string_agg(kind || ' by ' || (data->>'actor'), ', ' ORDER BY sequence)
                    FROM execution_event WHERE plan_version = 0";
        assert_eq!(
            db.text(acts).await.as_deref(),
            Some("control.open_breaker by ann, control.close_breaker by ann, control.free_breaker by ann")
        );
        db.assert_sound().await;
    })
    .await;
}
