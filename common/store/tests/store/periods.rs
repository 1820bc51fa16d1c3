//! Calendar periods: a reservation belongs to the period in which it was made, whatever the date at its settlement.

use chrono::{DateTime, Utc};
use dat_plan::PlanState;
use dat_plan::rollback::Decision;
use dat_store::{Finding, RanStep, RollbackStart, Ruling, TenantLimit};
use serde_json::json;

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, error, plan, refused, step};

const DAY: i64 = 24 * 60 * 60;

async fn daily(db: &Db, amount: i64) {
    let limit = TenantLimit {
        tenant: "acme".to_owned(),
        currency: "usd".to_owned(),
        period: "day".to_owned(),
        amount,
    };
    db.store.set_limit(&limit, "ann", "a budget", at(0)).await.unwrap();
}

async fn rule(db: &Db, decision: Decision, now: DateTime<Utc>) {
    let failed = db.store.undecided(1, now).await.unwrap().remove(0);
    db.store.rule(&[Ruling { failed, decision }], now).await.unwrap();
}

/// `(settled, reserved)` of the tenant's days, oldest first.
async fn days(db: &Db) -> Vec<(i64, i64)> {
    sqlx::query_as("SELECT settled, reserved FROM budget_account WHERE period = 'day' ORDER BY period_start")
        .fetch_all(&db.sql)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_period_has_new_room_and_old_reservations_stay_where_they_are() {
    with(async |db| {
        daily(&db, 10).await;
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0), step("b", &[], 10, 0)]);
        db.start(&plan, at(0)).await;
        let first = db.take(&plan, plan.unit(0), at(1)).await;
        assert!(db.claim(&[plan.run(plan.unit(1))], at(2)).await.claimed.is_empty());
        db.go(&plan, plan.unit(1), done(6), at(DAY)).await;
        db.settle(&plan, &first.lease, done(3), at(DAY)).await;
        assert_eq!(days(&db).await, [(3, 0), (6, 0)]);
        assert_eq!(db.plan_state(&plan).await, PlanState::Completed);
        db.assert_sound().await;
    })
    .await;
}

/// A step of two attempts on two days, then undone on the third; the first attempt holds the undo's room.
async fn undone(db: &Db, plan: &Plan, undo: Finding) {
    db.start(plan, at(0)).await;
    db.go(plan, plan.unit(0), error(0), at(1)).await;
    assert_eq!(days(db).await, [(0, 7)]);
    rule(db, Decision::Retry { at: at(DAY) }, at(2)).await;
    db.go(plan, plan.unit(0), refused(), at(DAY)).await;
    rule(db, Decision::RollBack, at(DAY + 1)).await;
    let undos = |ran: &[RanStep]| plan.undos(ran);
    let start = RollbackStart { plan: plan.key(), undos: &undos };
    db.store.begin_undo(&[start], at(2 * DAY)).await.unwrap();
    db.go(plan, plan.undo(0), undo, at(2 * DAY)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_is_paid_where_its_room_is_held() {
    with(async |db| {
        daily(&db, 100).await;
        let plan = plan("acme", 100, vec![step("a", &[], 10, 7)]);
        undone(&db, &plan, Finding::Done { result: json!({}), cost: 5, refund: 0 }).await;
        assert_eq!(days(&db).await[..2], [(5, 0), (0, 0)]);
        assert_eq!(db.plan_state(&plan).await, PlanState::Aborted);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_costs_more_than_was_held_is_an_overrun_there() {
    with(async |db| {
        daily(&db, 100).await;
        let plan = plan("acme", 100, vec![step("a", &[], 10, 7)]);
        undone(&db, &plan, Finding::Done { result: json!({}), cost: 9, refund: 0 }).await;
        assert_eq!(days(&db).await[..2], [(9, 0), (0, 0)]);
        assert_eq!(db.number("SELECT overrun FROM budget_account WHERE plan_id IS NOT NULL").await, 2);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_ends_gives_back_what_it_holds_in_an_earlier_period() {
    with(async |db| {
        daily(&db, 100).await;
        let plan = plan("acme", 100, vec![step("a", &[], 10, 7), step("b", &["a"], 10, 0)]);
        db.start(&plan, at(0)).await;
        db.go(&plan, plan.unit(0), done(4), at(1)).await;
        assert_eq!(days(&db).await, [(4, 7)]);
        db.go(&plan, plan.unit(1), done(2), at(DAY)).await;
        assert_eq!(db.plan_state(&plan).await, PlanState::Completed);
        assert_eq!(days(&db).await, [(4, 0), (2, 0)]);
        db.assert_sound().await;
    })
    .await;
}
