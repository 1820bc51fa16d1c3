//! Rollback: undos in the reverse of what was built, side by side where they may, and never beside a running step.

use chrono::{DateTime, Utc};
use dat_plan::rollback::Decision;
use dat_plan::{PlanState, UnitKey};
use dat_store::{CoordinateReport, Finding, RanStep, RollbackStart, Ruling};

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, error, plan, refused, step};

/// a, then b and c side by side, then d.
fn diamond() -> Plan {
    let steps = vec![
        step("a", &[], 10, 1),
        step("b", &["a"], 10, 1),
        step("c", &["a"], 10, 1),
        step("d", &["b", "c"], 10, 1),
    ];
    plan("acme", 100, steps)
}

async fn rule(db: &Db, decision: Decision, now: DateTime<Utc>) -> CoordinateReport {
    let failed = db.store.undecided(10, now).await.unwrap();
    let rulings: Vec<_> = failed.into_iter().map(|failed| Ruling { failed, decision }).collect();
    db.store.rule(&rulings, now).await.unwrap()
}

async fn begin(db: &Db, plan: &Plan, now: DateTime<Utc>) -> CoordinateReport {
    let undos = |ran: &[RanStep]| plan.undos(ran);
    db.store.begin_undo(&[RollbackStart { plan: plan.key(), undos: &undos }], now).await.unwrap()
}

async fn ready(db: &Db, now: DateTime<Utc>) -> Vec<UnitKey> {
    let mut units: Vec<_> = db.store.candidates(10, now).await.unwrap().into_iter().map(|c| c.unit).collect();
    units.sort_unstable();
    units
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diamond_is_undone_in_reverse_with_its_branches_side_by_side() {
    with(async |db| {
        let plan = diamond();
        db.start(&plan, at(0)).await;
        for (place, now) in [(0, 1), (1, 2), (2, 3)] {
            db.go(&plan, plan.unit(place), done(10), at(now)).await;
        }
        db.go(&plan, plan.unit(3), refused(), at(4)).await;
        assert_eq!(rule(&db, Decision::RollBack, at(5)).await.rolling_back, 1);
        assert_eq!(begin(&db, &plan, at(6)).await.ready, [plan.undo(3)]);
        assert_eq!(begin(&db, &plan, at(6)).await.ready, [], "the undos are registered once");
        for unit in [plan.unit(0), plan.unit(1), plan.unit(2), plan.unit(3)] {
            assert_eq!(db.state(unit).await, "compensating");
        }
        let waves = [vec![plan.undo(3)], vec![plan.undo(1), plan.undo(2)], vec![plan.undo(0)]];
        for (wave, now) in waves.iter().zip([10, 20, 30]) {
            assert_eq!(ready(&db, at(now)).await, *wave);
            for unit in wave {
                // An undo needs no approval any more, and names what it undoes.
                let claimed = db.take(&plan, *unit, at(now)).await;
                assert!(claimed.undo_of.as_ref().is_some_and(|key| key.ends_with("/1")), "{claimed:?}");
                assert!(claimed.idempotency_key.ends_with("/undo/1"), "{claimed:?}");
                db.settle(&plan, &claimed.lease, done(1), at(now + 1)).await;
                let forward = UnitKey { kind: dat_plan::UnitKind::Action, ..*unit };
                assert_eq!(db.state(forward).await, "rolled_back");
            }
        }
        assert_eq!(db.plan_state(&plan).await, PlanState::Aborted);
        assert_eq!(db.number("SELECT settled FROM budget_account").await, 34);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_undone_while_something_is_in_flight() {
    with(async |db| {
        let plan = diamond();
        db.start(&plan, at(0)).await;
        db.go(&plan, plan.unit(0), done(10), at(1)).await;
        let running = db.take(&plan, plan.unit(1), at(2)).await;
        db.go(&plan, plan.unit(2), refused(), at(3)).await;
        rule(&db, Decision::RollBack, at(4)).await;
        let begun = begin(&db, &plan, at(5)).await;
        assert!(begun.ready.is_empty() && begun.ended.is_empty());
        let unanswered = Finding::Unanswered { detail: "timeout".to_owned() };
        db.settle(&plan, &running.lease, unanswered, at(6)).await;
        assert!(begin(&db, &plan, at(7)).await.ready.is_empty(), "the outcome is not known");
        assert_eq!(db.number("SELECT count(*) FROM execution_step WHERE kind = 'undo'").await, 0);
        let probe = db.store.claim_probes("p", 1, at(99), at(8)).await.unwrap().remove(0);
        db.settle(&plan, &probe.lease, done(10), at(9)).await;
        assert_eq!(db.store.rollbacks_due(10, at(9)).await.unwrap(), [plan.key()], "its settlement wakes it");
        assert_eq!(begin(&db, &plan, at(9)).await.ready.len(), 2, "b and c");
        assert_eq!(db.state(plan.unit(3)).await, "skipped");
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_failed_during_the_rollback_is_undone_without_a_ruling() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 1), step("b", &[], 10, 1)]);
        db.start(&plan, at(0)).await;
        let running = db.take(&plan, plan.unit(1), at(1)).await;
        db.go(&plan, plan.unit(0), refused(), at(2)).await;
        rule(&db, Decision::RollBack, at(3)).await;
        // Another worker's pass comes to the undos before anyone ruled on this failure.
        db.settle(&plan, &running.lease, error(0), at(4)).await;
        assert_eq!(begin(&db, &plan, at(5)).await.ready.len(), 2);
        assert!(db.store.undecided(10, at(6)).await.unwrap().is_empty());
        for place in [0, 1] {
            db.go(&plan, plan.undo(place), done(0), at(7)).await;
        }
        assert_eq!(db.plan_state(&plan).await, PlanState::Aborted);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_with_nothing_to_undo_is_aborted_at_once() {
    with(async |db| {
        let plan = diamond();
        db.start(&plan, at(0)).await;
        db.store.abort(plan.id(), "ann", "no more", at(1)).await.unwrap();
        assert_eq!(begin(&db, &plan, at(2)).await.ended, [plan.key()]);
        assert_eq!(db.plan_state(&plan).await, PlanState::Aborted);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_fails_for_good_makes_the_plan_stuck_and_what_waits_for_it_waits() {
    with(async |db| {
        let plan = diamond();
        db.start(&plan, at(0)).await;
        for (place, now) in [(0, 1), (1, 2)] {
            db.go(&plan, plan.unit(place), done(10), at(now)).await;
        }
        db.store.abort(plan.id(), "ann", "no more", at(3)).await.unwrap();
        assert_eq!(begin(&db, &plan, at(4)).await.ready, [plan.undo(1)]);
        db.go(&plan, plan.undo(1), refused(), at(5)).await;
        assert_eq!(rule(&db, Decision::Stuck, at(6)).await.stuck, 1);
        assert_eq!(db.plan_state(&plan).await, PlanState::Stuck);
        assert_eq!(db.state(plan.unit(1)).await, "stuck");
        assert_eq!(db.state(plan.undo(0)).await, "pending");
        assert!(ready(&db, at(7)).await.is_empty());
        assert!(
            db.number("SELECT count(wait_reason) FROM execution_plan").await == 1,
            "it says what blocks it"
        );
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ruling_on_a_unit_that_moved_is_void() {
    with(async |db| {
        let plan = diamond();
        db.start(&plan, at(0)).await;
        db.go(&plan, plan.unit(0), error(0), at(1)).await;
        let failed = db.store.undecided(1, at(1)).await.unwrap().remove(0);
        rule(&db, Decision::Retry { at: at(1) }, at(1)).await;
        let stale = Ruling { failed: failed.clone(), decision: Decision::RollBack };
        assert_eq!(db.store.rule(&[stale], at(2)).await.unwrap().rolling_back, 0);
        db.go(&plan, plan.unit(0), error(0), at(3)).await;
        let stale = Ruling { failed, decision: Decision::RollBack };
        assert_eq!(db.store.rule(&[stale], at(4)).await.unwrap().rolling_back, 0, "another attempt failed");
        assert_eq!(db.plan_state(&plan).await, PlanState::Executing);
    })
    .await;
}
