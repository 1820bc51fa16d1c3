//! Resolving: an operator settles what is unknown or stuck, once, with its money, and nothing that is not.

use chrono::{DateTime, Utc};
use dat_plan::rollback::{self, Decision, FailedUnit};
use dat_plan::{PlanState, UnitKey};
use dat_store::{Finding, NotResolved, RanStep, Resolution, Resolve, Resolved, RollbackStart, Ruling};
use serde_json::json;

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, error, plan, refused, step};

fn two() -> Plan {
    plan("acme", 100, vec![step("a", &[], 10, 4), step("b", &["a"], 10, 4)])
}

/// Two steps side by side, and one after them.
fn wide() -> Plan {
    plan("acme", 100, vec![step("a", &[], 10, 4), step("b", &[], 10, 4), step("c", &["a", "b"], 10, 4)])
}

async fn rule(db: &Db, decision: Decision, now: DateTime<Utc>) -> usize {
    let failed = db.store.undecided(10, now).await.unwrap();
    let rulings: Vec<_> = failed.into_iter().map(|failed| Ruling { failed, decision }).collect();
    db.store.rule(&rulings, now).await.unwrap();
    rulings.len()
}

async fn begin(db: &Db, plan: &Plan, now: DateTime<Utc>) {
    let undos = |ran: &[RanStep]| plan.undos(ran);
    db.store.begin_undo(&[RollbackStart { plan: plan.key(), undos: &undos }], now).await.unwrap();
}

/// A unit as an operator resolves it who has just looked at it.
async fn order(db: &Db, plan: &Plan, unit: UnitKey, resolution: Resolution) -> Resolve {
    let lease = dat_store::Lease { unit, epoch: 0, until: at(0) };
    let view = db.store.plan(unit.plan).await.unwrap().unwrap();
    let row = view.steps.iter().find(|row| row.kind == unit.kind.as_str() && row.index == unit.index);
    let attempt = row.map_or(0, |row| row.attempts);
    Resolve { unit, attempt, resolution, successors: plan.settlement(&lease, done(0)).successors }
}

/// Requests may be accepted for a second after they were sent, at the latest at the end of the lease of a minute.
const NO_EFFECT: Resolution = Resolution::NoEffect { timeout_ms: 1_000 };

async fn resolve(db: &Db, plan: &Plan, orders: &[Resolve], now: DateTime<Utc>) -> Resolved {
    db.store.resolve(plan.key(), orders, "ann", "I looked", now).await.unwrap()
}

fn in_state(plan: PlanState, stuck: i64) -> Resolved {
    Resolved::Done { plan, stuck }
}

/// A plan whose first step's outcome is unknown, and whose lease nobody holds.
async fn unknown(db: &Db, plan: &Plan) {
    db.start(plan, at(0)).await;
    let claimed = db.take(plan, plan.unit(0), at(1)).await;
    let unanswered = Finding::Unanswered { detail: "timeout".to_owned() };
    db.settle(plan, &claimed.lease, unanswered, at(2)).await;
}

/// A plan that is stuck in the undos of these steps, which cost 7 each.
async fn stuck(db: &Db, plan: &Plan, steps: &[usize]) {
    db.start(plan, at(0)).await;
    for place in steps {
        db.go(plan, plan.unit(*place), done(7), at(1)).await;
    }
    db.store.abort(plan.id(), "ann", "no more", at(2)).await.unwrap();
    begin(db, plan, at(3)).await;
    for place in steps {
        // The undo costs something, and fails all the same.
        db.go(plan, plan.undo(*place), Finding::Refused { cost: 1, detail: "no".to_owned() }, at(4)).await;
    }
    assert_eq!(rule(db, Decision::Stuck, at(5)).await, steps.len());
    assert_eq!(db.plan_state(plan).await, PlanState::Stuck);
}

const ACTS: &str =
    "SELECT string_agg((data->>'resolution') || ' by ' || (data->>'actor') || ': ' || (data->>'reason'),
                                      ', ' ORDER BY sequence)
                    FROM execution_event WHERE kind = 'control.resolve'";

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_step_is_resolved_as_done_with_its_result_and_cost() {
    with(async |db| {
        let plan = two();
        unknown(&db, &plan).await;
        let order =
            order(&db, &plan, plan.unit(0), Resolution::Done { result: json!({"n": 7}), cost: 6, refund: 1 })
                .await;
        assert_eq!(
            resolve(&db, &plan, std::slice::from_ref(&order), at(3)).await,
            in_state(PlanState::Executing, 0)
        );
        assert_eq!(db.state(plan.unit(0)).await, "completed");
        assert_eq!(db.state(plan.unit(1)).await, "ready", "what needs it goes on");
        assert_eq!(db.number("SELECT settled FROM budget_account").await, 5);
        let told = "SELECT (data->>'actor') || ', ' || (data->>'reason') || ', ' || (data->'result'->>'n')
                    FROM execution_event WHERE kind = 'step.completed'";
        assert_eq!(db.text(told).await.as_deref(), Some("ann, I looked, 7"));
        assert_eq!(db.text(ACTS).await.as_deref(), Some("done by ann: I looked"));
        // It is resolved once.
        let before = db.dump().await;
        let again = resolve(&db, &plan, &[order], at(4)).await;
        assert!(matches!(again, Resolved::Refused(NotResolved::NotSo { .. })), "{again:?}");
        assert_eq!(db.dump().await, before);
        db.go(&plan, plan.unit(1), done(1), at(5)).await;
        assert_eq!(db.plan_state(&plan).await, PlanState::Completed);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_step_that_had_no_effect_is_as_sealed_and_tried_under_another_key() {
    with(async |db| {
        let plan = two();
        unknown(&db, &plan).await;
        let order = order(&db, &plan, plan.unit(0), NO_EFFECT).await;
        // The request may have left until the end of the lease, and be accepted a second after that.
        let soon = resolve(&db, &plan, std::slice::from_ref(&order), at(61)).await;
        let Resolved::Refused(NotResolved::TooSoon { until, .. }) = &soon else { panic!("{soon:?}") };
        assert_eq!((*until, db.state(plan.unit(0)).await.as_str()), (at(62), "unknown"));
        let again = order.clone();
        assert_eq!(resolve(&db, &plan, &[order], at(62)).await, in_state(PlanState::Executing, 0));
        assert_eq!(db.state(plan.unit(0)).await, "failed");
        assert_eq!(db.number("SELECT settled FROM budget_account").await, 0);
        assert_eq!(rule(&db, Decision::Retry { at: at(63) }, at(63)).await, 1);
        let claimed = db.take(&plan, plan.unit(0), at(64)).await;
        // What was found out about the first attempt is not true of the second.
        let unanswered = Finding::Unanswered { detail: "timeout".to_owned() };
        db.settle(&plan, &claimed.lease, unanswered, at(65)).await;
        let moved = resolve(&db, &plan, &[again], at(300)).await;
        let Resolved::Refused(NotResolved::Moved { seen, made, .. }) = &moved else { panic!("{moved:?}") };
        assert_eq!((*seen, *made, db.state(plan.unit(0)).await.as_str()), (1, 2, "unknown"));
        assert_eq!(claimed.idempotency_key, format!("{}/a/2", plan.key()));
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_resolved_while_a_probe_holds_its_lease_or_that_is_not_so() {
    with(async |db| {
        let plan = two();
        unknown(&db, &plan).await;
        let probe = db.store.claim_probes("prober", 10, at(70), at(3)).await.unwrap().remove(0);
        let orders = [order(&db, &plan, plan.unit(0), NO_EFFECT).await];
        let before = db.dump().await;
        let held = resolve(&db, &plan, &orders, at(4)).await;
        let Resolved::Refused(NotResolved::Held { worker, until, .. }) = &held else { panic!("{held:?}") };
        assert_eq!((worker.as_str(), *until), ("prober", at(70)));
        for refused in [
            order(&db, &plan, plan.unit(0), Resolution::Retry).await,
            order(&db, &plan, plan.unit(0), Resolution::Undone { cost: 0, refund: 0 }).await,
            order(&db, &plan, plan.unit(1), NO_EFFECT).await,
            order(&db, &plan, plan.undo(1), Resolution::Retry).await,
        ] {
            let answer = resolve(&db, &plan, &[refused], at(5)).await;
            assert!(matches!(answer, Resolved::Refused(_)), "{answer:?}");
        }
        assert_eq!(db.dump().await, before);
        // The prober is gone: its lease ran out, and what it still finds changes nothing.
        assert_eq!(resolve(&db, &plan, &orders, at(70)).await, in_state(PlanState::Executing, 0));
        let before = db.without_late().await;
        let report = db.settle(&plan, &probe.lease, done(9), at(71)).await;
        assert_eq!((report.settled, report.late), (vec![dat_store::Settled::Fenced], 1));
        assert_eq!(db.without_late().await, before);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_undo_that_was_done_by_hand_lets_the_plan_end_with_its_refund() {
    with(async |db| {
        let plan = two();
        stuck(&db, &plan, &[0]).await;
        let orders = [order(&db, &plan, plan.undo(0), Resolution::Undone { cost: 2, refund: 7 }).await];
        assert_eq!(resolve(&db, &plan, &orders, at(6)).await, in_state(PlanState::Aborted, 0));
        assert_eq!(db.state(plan.unit(0)).await, "rolled_back");
        assert_eq!(db.state(plan.undo(0)).await, "completed");
        // 7 for the step, 1 for the undo that failed, 2 by hand, and 7 came back.
        assert_eq!(db.number("SELECT settled FROM budget_account").await, 3);
        assert_eq!(db.number("SELECT reserved FROM budget_account").await, 0);
        let refunds =
            "SELECT sum((data->>'amount')::bigint)::bigint FROM execution_event WHERE kind = 'refund.issued'";
        assert_eq!(db.number(refunds).await, 7);
        let way = "SELECT string_agg(kind, ' ' ORDER BY sequence) FROM execution_event
                   WHERE data->>'actor' = 'ann' AND plan_version = 1 AND kind !~ 'plan.paused'";
        assert_eq!(
            db.text(way).await.as_deref(),
            Some("undo.ready step.compensating undo.running plan.rolling_back undo.completed")
        );
        assert_eq!(db.text(ACTS).await.as_deref(), Some("undone by ann: I looked"));
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_undo_is_tried_again_with_its_attempts_anew() {
    with(async |db| {
        let plan = two();
        stuck(&db, &plan, &[0]).await;
        let orders = [order(&db, &plan, plan.undo(0), Resolution::Retry).await];
        assert_eq!(resolve(&db, &plan, &orders, at(6)).await, in_state(PlanState::RollingBack, 0));
        assert_eq!(db.state(plan.unit(0)).await, "compensating");
        db.go(&plan, plan.undo(0), error(0), at(7)).await;
        let failed = db.store.undecided(1, at(8)).await.unwrap().remove(0);
        assert_eq!(
            (failed.attempts, failed.counted, failed.lost),
            (2, 1, 0),
            "one of its two attempts is left"
        );
        let compensation = plan.document.steps[0].compensation.as_ref().unwrap();
        let unit = FailedUnit {
            kind: failed.unit.kind,
            last: failed.last,
            attempts: failed.counted,
            lost: failed.lost,
            retry: &compensation.retry,
            since: failed.since,
            retry_after: failed.retry_after,
            plan_goes_on: failed.plan_goes_on,
        };
        let dice = dat_plan::clock::SeededEntropy::new(7);
        let decision = rollback::decide(&unit, plan.document.rollback.kind, at(8), &dice);
        assert_eq!(decision, Decision::Retry { at: at(8) });
        db.store.rule(&[Ruling { failed, decision }], at(8)).await.unwrap();
        db.go(&plan, plan.undo(0), done(0), at(9)).await;
        assert_eq!(db.plan_state(&plan).await, PlanState::Aborted);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_goes_on_when_the_last_of_its_stuck_undos_is_resolved() {
    with(async |db| {
        let plan = wide();
        stuck(&db, &plan, &[0, 1]).await;
        let first = [order(&db, &plan, plan.undo(0), Resolution::Undone { cost: 0, refund: 7 }).await];
        assert_eq!(resolve(&db, &plan, &first, at(6)).await, in_state(PlanState::Stuck, 1));
        assert_eq!(db.state(plan.unit(0)).await, "rolled_back");
        assert_eq!(db.state(plan.unit(1)).await, "stuck");
        let last = [order(&db, &plan, plan.undo(1), Resolution::Undone { cost: 0, refund: 0 }).await];
        assert_eq!(resolve(&db, &plan, &last, at(7)).await, in_state(PlanState::Aborted, 0));
        db.assert_sound().await;

        // All of them at once, or none: one that is not stuck stops the others.
        let plan = wide();
        stuck(&db, &plan, &[0, 1]).await;
        let both = [
            order(&db, &plan, plan.undo(0), Resolution::Retry).await,
            order(&db, &plan, plan.undo(1), Resolution::Retry).await,
        ];
        let before = db.dump().await;
        let wrong = [both[0].clone(), order(&db, &plan, plan.unit(1), NO_EFFECT).await];
        assert!(matches!(resolve(&db, &plan, &wrong, at(8)).await, Resolved::Refused(_)));
        assert_eq!(db.dump().await, before);
        assert_eq!(resolve(&db, &plan, &both, at(8)).await, in_state(PlanState::RollingBack, 0));
        for place in [0, 1] {
            db.go(&plan, plan.undo(place), done(0), at(9)).await;
        }
        assert_eq!(db.plan_state(&plan).await, PlanState::Aborted);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_undo_is_resolved_like_a_step() {
    with(async |db| {
        let plan = two();
        db.start(&plan, at(0)).await;
        db.go(&plan, plan.unit(0), done(7), at(1)).await;
        db.go(&plan, plan.unit(1), refused(), at(2)).await;
        rule(&db, Decision::RollBack, at(3)).await;
        begin(&db, &plan, at(4)).await;
        db.go(&plan, plan.undo(1), done(0), at(5)).await;
        let claimed = db.take(&plan, plan.undo(0), at(6)).await;
        let unanswered = Finding::Unanswered { detail: "timeout".to_owned() };
        db.settle(&plan, &claimed.lease, unanswered, at(7)).await;
        let orders =
            [order(&db, &plan, plan.undo(0), Resolution::Done { result: json!({}), cost: 4, refund: 7 })
                .await];
        assert_eq!(resolve(&db, &plan, &orders, at(8)).await, in_state(PlanState::Aborted, 0));
        assert_eq!(db.number("SELECT settled FROM budget_account").await, 4);
        db.assert_sound().await;
    })
    .await;
}
