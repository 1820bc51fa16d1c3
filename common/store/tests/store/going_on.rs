//! Going on: the transaction that completes a step claims its successor, by the full claim and by nothing less.

use chrono::{DateTime, Utc};
use dat_plan::StepState;
use dat_store::{ClaimReport, ClaimRequest, ControlScope, GoingOn, Lease, SettleReport, Settled};
use serde_json::json;

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, plan, refused, step};

/// A chain of three steps that cost ten each, whose first runs.
async fn chain(db: &Db, budget: i64) -> (Plan, Lease) {
    let steps = vec![step("a", &[], 10, 0), step("b", &["a"], 10, 0), step("c", &["b"], 10, 0)];
    let plan = plan("acme", budget, steps);
    db.start(&plan, at(0)).await;
    let lease = db.take(&plan, plan.unit(0), at(1)).await.lease;
    (plan, lease)
}

/// Settles the first step, and asks for the second.
async fn go_on(
    db: &Db,
    (plan, lease): (&Plan, &Lease),
    era: Option<i64>,
    now: DateTime<Utc>,
) -> (SettleReport, ClaimReport) {
    let requests = [plan.run(plan.unit(1))];
    let next = GoingOn { requests: &requests, era, worker: "w", until: at(1_000) };
    let settlement = plan.settlement(lease, done(10));
    db.store.settle_and_go_on(&[settlement], Some(next), now).await.unwrap()
}

/// The second step is ready, was not claimed, and is to be rung for.
async fn left_ready(db: &Db, plan: &Plan, reports: &(SettleReport, ClaimReport)) {
    assert!(reports.1.claimed.is_empty(), "{:?}", reports.1);
    assert_eq!(reports.0.settled, [Settled::Written(StepState::Completed)]);
    assert_eq!(reports.0.ready, [plan.unit(1)]);
    assert_eq!(db.state(plan.unit(1)).await, "ready");
    assert_eq!(db.number("SELECT count(*) FROM step_attempt WHERE step_index = 1").await, 0);
    db.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_completed_and_its_successor_claimed_in_one_transaction() {
    with(async |db| {
        let (plan, lease) = chain(&db, 100).await;
        let before = db.number("SELECT count(*) FROM stream_growth").await;
        let (settled, claimed) = go_on(&db, (&plan, &lease), None, at(2)).await;
        assert_eq!(settled.ready, [], "there is nothing to be rung for");
        assert_eq!(claimed.claimed.len(), 1, "{claimed:?}");
        assert_eq!(db.number("SELECT count(*) FROM stream_growth").await, before + 1, "one transaction");
        let next = claimed.claimed[0].lease.clone();
        assert_eq!((next.unit, db.state(next.unit).await.as_str()), (plan.unit(1), "running"));
        let kinds = "SELECT string_agg(kind, ' ' ORDER BY sequence) FROM
                     (SELECT kind, sequence FROM execution_event WHERE plan_version > 0
                      ORDER BY sequence DESC LIMIT 5) AS last";
        let last = db.text(kinds).await.unwrap();
        assert_eq!(last, "spend.incurred step.completed step.ready spend.reserved step.running");
        // On to the end, as if each had been looked for.
        let requests = [plan.run(plan.unit(2))];
        let going = GoingOn { requests: &requests, era: None, worker: "w", until: at(1_000) };
        let second = plan.settlement(&next, done(10));
        let (_, third) = db.store.settle_and_go_on(&[second], Some(going), at(3)).await.unwrap();
        db.settle(&plan, &third.claimed[0].lease, done(10), at(4)).await;
        assert_eq!(db.plan_state(&plan).await, dat_plan::PlanState::Completed);
        assert_eq!(db.number("SELECT settled FROM budget_account WHERE plan_version IS NOT NULL").await, 30);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_was_stopped_does_not_go_on() {
    with(async |db| {
        let (paused, lease) = chain(&db, 100).await;
        db.store.control(&ControlScope::Plan(paused.id()), true, "ann", "a look", at(2)).await.unwrap();
        left_ready(&db, &paused, &go_on(&db, (&paused, &lease), None, at(3)).await).await;
    })
    .await;
    with(async |db| {
        // What stops the fleet is read in the claim: the step waits, and says for what.
        let (plan, lease) = chain(&db, 100).await;
        db.store.control(&ControlScope::Fleet, true, "ann", "a look", at(2)).await.unwrap();
        let (_, claimed) = go_on(&db, (&plan, &lease), None, at(3)).await;
        assert!(claimed.claimed.is_empty() && claimed.waiting == [plan.unit(1)], "{claimed:?}");
        let why = db.text("SELECT wait_reason FROM execution_step WHERE step_index = 1").await;
        assert!(why.is_some_and(|why| why.contains("ann")));
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_budget_is_refused_as_by_any_claim() {
    with(async |db| {
        let (plan, lease) = chain(&db, 15).await;
        let (settled, claimed) = go_on(&db, (&plan, &lease), None, at(2)).await;
        assert_eq!((claimed.refused.as_slice(), settled.ready.len()), (&[plan.unit(1)][..], 0));
        assert_eq!(db.state(plan.unit(1)).await, "failed");
        assert_eq!(db.number("SELECT count(*) FROM execution_event WHERE kind = 'budget.refused'").await, 1);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_in_an_era_that_is_over_or_with_a_lease_that_was_lost() {
    with(async |db| {
        let (plan, lease) = chain(&db, 100).await;
        let over = db.number("SELECT era FROM runtime_state").await - 1;
        left_ready(&db, &plan, &go_on(&db, (&plan, &lease), Some(over), at(2)).await).await;
    })
    .await;
    with(async |db| {
        let (plan, lease) = chain(&db, 100).await;
        let lost = Lease { epoch: lease.epoch - 1, ..lease };
        let (settled, claimed) = go_on(&db, (&plan, &lost), None, at(2)).await;
        assert_eq!(settled.settled, [Settled::Fenced]);
        assert!(claimed.claimed.is_empty());
        assert_eq!(db.state(plan.unit(1)).await, "pending");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_more_than_this_step_or_for_its_time_is_left_alone() {
    with(async |db| {
        let later = {
            let mut later = step("b", &["a"], 10, 0);
            later["not_before"] = json!(at(60));
            later
        };
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0), later]);
        db.start(&plan, at(0)).await;
        let lease = db.take(&plan, plan.unit(0), at(1)).await.lease;
        left_ready(&db, &plan, &go_on(&db, (&plan, &lease), None, at(2)).await).await;
    })
    .await;
    with(async |db| {
        let steps = vec![step("a", &[], 10, 0), step("b", &["a", "c"], 10, 0), step("c", &[], 10, 0)];
        let plan = plan("acme", 100, steps);
        db.start(&plan, at(0)).await;
        let lease = db.take(&plan, plan.unit(0), at(1)).await.lease;
        let (settled, claimed) = go_on(&db, (&plan, &lease), None, at(2)).await;
        assert!(claimed.claimed.is_empty() && settled.ready.is_empty());
        assert_eq!(db.state(plan.unit(1)).await, "pending");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_limit_keeps_its_reason_and_its_turn() {
    with(async |db| {
        let (plan, lease) = chain(&db, 100).await;
        let wait = ClaimRequest::Defer {
            unit: plan.unit(1),
            until: at(30),
            reason: "its rate".to_owned(),
            rate_slot: Some(at(30)),
        };
        let requests = [wait];
        let next = GoingOn { requests: &requests, era: None, worker: "w", until: at(1_000) };
        let settlement = plan.settlement(&lease, done(10));
        let (settled, claimed) = db.store.settle_and_go_on(&[settlement], Some(next), at(2)).await.unwrap();
        assert_eq!((claimed.waiting.as_slice(), settled.ready.len()), (&[plan.unit(1)][..], 0));
        let slot =
            "SELECT count(*) FROM execution_step WHERE rate_slot IS NOT NULL AND wait_reason = 'its rate'";
        assert_eq!(db.number(slot).await, 1);
        assert_eq!(db.store.candidates(10, at(29)).await.unwrap().len(), 0);
        assert_eq!(db.store.candidates(10, at(30)).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_failed_goes_on_with_nothing() {
    with(async |db| {
        let (plan, lease) = chain(&db, 100).await;
        let requests = [plan.run(plan.unit(1))];
        let next = GoingOn { requests: &requests, era: None, worker: "w", until: at(1_000) };
        let settlement = plan.settlement(&lease, refused());
        let (_, claimed) = db.store.settle_and_go_on(&[settlement], Some(next), at(2)).await.unwrap();
        assert!(claimed.claimed.is_empty());
        assert_eq!(db.state(plan.unit(1)).await, "pending");
        db.assert_sound().await;
    })
    .await;
}
