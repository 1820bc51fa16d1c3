//! The claim: nothing forward without a valid approval of exactly this hash, nothing against control, nothing twice.

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::signing::KeyRing;
use dat_plan::{PlanHash, PlanState};
use dat_store::{ClaimRequest, ControlScope, Counting, Guard, GuardFacts, GuardVerdict, Needed, Seal};
use serde_json::{Value, json};
use sqlx::Connection;

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, plan, step, wide};

/// The claim is not granted, and takes nothing from the budget.
async fn not_claimed(db: &Db, plan: &Plan, now: DateTime<Utc>) {
    let report = db.claim(&[plan.run(plan.unit(0))], now).await;
    assert!(report.claimed.is_empty(), "claimed: {report:?}");
    assert_ne!(db.state(plan.unit(0)).await, "running");
    assert_eq!(db.number("SELECT count(*) FROM step_attempt").await, 0);
    assert_eq!(db.number("SELECT count(*) FROM budget_reservation").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_without_an_approval() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0)]);
        db.register(&plan, at(0)).await;
        // Not even where rows say that it runs: the approval is read in the claim itself.
        let moved = db.store.admit(&[plan.admission()], at(1)).await.unwrap();
        assert_eq!(moved[0].1, dat_store::Admitted::Moved);
        let report = db.claim(&[plan.run(plan.unit(0))], at(2)).await;
        assert!(report.claimed.is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_after_an_approval_ended() {
    with(async |db| {
        let [late, early] = [(); 2].map(|()| plan("acme", 100, vec![step("a", &[], 10, 0)]));
        for plan in [&late, &early] {
            db.register(plan, at(0)).await;
            let until = plan.verdict("d1", "approved", &json!({"expires_at": at(60)}));
            db.store.bind_verdicts(&[until], &KeyRing::default(), at(0)).await.unwrap();
            db.store.admit(&[plan.admission()], at(0)).await.unwrap();
        }
        not_claimed(&db, &late, at(60)).await;
        let sealed = Seal { expires_at: Some(at(60)), ..early.seal() };
        let in_time = db.claim(&[early.run_sealed(early.unit(0), sealed)], at(59)).await;
        assert_eq!(in_time.claimed.len(), 1, "{in_time:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_after_a_revocation() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0)]);
        db.start(&plan, at(0)).await;
        // The row alone, so that only the claim's own reading of the approval stands in the way.
        sqlx::query("UPDATE execution_plan SET revoked_at = $1").bind(at(1)).execute(&db.sql).await.unwrap();
        not_claimed(&db, &plan, at(2)).await;
        sqlx::query("UPDATE execution_plan SET revoked_at = NULL").execute(&db.sql).await.unwrap();
        db.store
            .bind_verdicts(&[plan.verdict("r", "revoked", &json!({}))], &KeyRing::default(), at(3))
            .await
            .unwrap();
        not_claimed(&db, &plan, at(9)).await;
        assert_eq!(db.state(plan.unit(0)).await, "skipped");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_past_the_deadline() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0)]).with(json!({"deadline": at(60)}));
        db.start(&plan, at(0)).await;
        not_claimed(&db, &plan, at(60)).await;
        assert_eq!(db.store.stop_overdue(&[plan.key()], at(60)).await.unwrap(), 1);
        assert_eq!(db.plan_state(&plan).await, PlanState::RollingBack);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_of_another_hash_is_not_run() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0)]);
        db.start(&plan, at(0)).await;
        let other = PlanHash::of(&json!("another document")).unwrap();
        let report = db.claim_as(&plan, plan.unit(0), other, at(1)).await;
        assert!(report.claimed.is_empty(), "claimed: {report:?}");
        assert_eq!(report.deferred, 1);
        db.take(&plan, plan.unit(0), at(5)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_is_read_in_the_claim() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0)]);
        db.start(&plan, at(0)).await;
        let scopes = [
            ControlScope::Fleet,
            ControlScope::Tenant("acme".to_owned()),
            ControlScope::Plan(plan.id()),
            ControlScope::Connector("mux".to_owned()),
        ];
        let mut now = at(10);
        for scope in &scopes {
            db.store.control(scope, true, "ann", "stop", now).await.unwrap();
            not_claimed(&db, &plan, now).await;
            now += TimeDelta::seconds(10);
            db.store.control(scope, false, "ann", "go", now).await.unwrap();
        }
        for scope in [ControlScope::Tenant("other".to_owned()), ControlScope::Connector("echo".to_owned())] {
            db.store.control(&scope, true, "ann", "not about this plan", now).await.unwrap();
        }
        db.take(&plan, plan.unit(0), now + TimeDelta::seconds(10)).await;
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_claimers_never_get_the_same_unit() {
    with(async |db| {
        let plan = wide("acme", 1_000, 60, 1);
        db.start(&plan, at(0)).await;
        let claimers = (0..4).map(|_| {
            let (db, plan) = (db.clone(), plan.clone());
            tokio::spawn(async move {
                let mut mine = Vec::new();
                // While another transaction holds the plan, look again.
                while db.number("SELECT count(*) FROM execution_step WHERE state = 'ready'").await > 0 {
                    let found = db.store.candidates(10, at(1)).await.unwrap();
                    let requests: Vec<_> = found.iter().map(|c| plan.run(c.unit)).collect();
                    mine.extend(db.claim(&requests, at(1)).await.claimed.into_iter().map(|c| c.lease.unit));
                }
                mine
            })
        });
        let mut claimed = Vec::new();
        for claimer in claimers.collect::<Vec<_>>() {
            claimed.extend(claimer.await.unwrap());
        }
        let mut once = claimed.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!((claimed.len(), once.len()), (60, 60));
        assert_eq!(db.number("SELECT max(attempts)::bigint FROM execution_step").await, 1);
        assert_eq!(db.number("SELECT reserved FROM budget_account").await, 60);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_held_is_contended_and_not_waited_for() {
    with(async |db| {
        let (held, free) = (wide("acme", 10, 1, 1), wide("acme", 10, 1, 1));
        db.start(&held, at(0)).await;
        db.start(&free, at(0)).await;
        let mut other = sqlx::PgConnection::connect(&db.url).await.unwrap();
        let mut tx = other.begin().await.unwrap();
        sqlx::query("SELECT FROM execution_plan WHERE plan_id = $1 FOR NO KEY UPDATE")
            .bind(held.id())
            .execute(&mut *tx)
            .await
            .unwrap();
        // A claim that waited would end by its lock timeout, in an error.
        let report = db.claim(&[held.run(held.unit(0)), free.run(free.unit(0))], at(1)).await;
        assert_eq!(report.contended, 1);
        assert_eq!(report.claimed.iter().map(|c| c.lease.unit).collect::<Vec<_>>(), [free.unit(0)]);
        tx.rollback().await.unwrap();
        db.take(&held, held.unit(0), at(1)).await;
    })
    .await;
}

/// Goes once the step before it answered something.
struct WantsResult;

impl Guard for WantsResult {
    fn decide(&self, facts: &GuardFacts<'_>) -> GuardVerdict {
        let decision = json!({"spent": facts.account.settled, "attempt": facts.attempt});
        if facts.results.get("a") == Some(&json!({"id": 7})) {
            return GuardVerdict::Go {
                decision,
                violations: vec![json!({"id": "pace"})],
                counted_as: Vec::new(),
            };
        }
        GuardVerdict::Deny { reason: "no result".to_owned(), decision, violations: Vec::new() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guards_see_results_and_account_and_their_decision_is_logged() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0), step("b", &["a"], 10, 0)]);
        db.start(&plan, at(0)).await;
        let finding = dat_store::Finding::Done { result: json!({"id": 7}), cost: 4, refund: 0 };
        db.go(&plan, plan.unit(0), finding, at(1)).await;
        let request = |needs| ClaimRequest::Run {
            unit: plan.unit(1),
            seal: std::sync::Arc::new(plan.seal()),
            max_cost: 10,
            undo_max_cost: 0,
            needs,
            counting: Counting::default(),
            guard: Some(&WantsResult),
        };
        let report = db.claim(&[request(Needed::Steps(vec![0]))], at(2)).await;
        assert_eq!(Value::Object(report.claimed[0].results.clone()), json!({"a": {"id": 7}}));
        let logged = "SELECT data->>'decision' FROM execution_event
                      WHERE kind = 'step.running' AND data->>'step' = 'b'";
        assert_eq!(db.text(logged).await.as_deref(), Some(r#"{"spent": 4, "attempt": 1}"#));
        let flagged = "SELECT count(*) FROM execution_event WHERE kind = 'constraint.violated'";
        assert_eq!(db.number(flagged).await, 1);
        db.settle(&plan, &report.claimed[0].lease, done(1), at(3)).await;
        assert_eq!(db.plan_state(&plan).await, PlanState::Completed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_denies_refuses_the_step_for_good() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0)]);
        db.start(&plan, at(0)).await;
        let ClaimRequest::Run { unit, seal, max_cost, undo_max_cost, needs, counting, .. } =
            plan.run(plan.unit(0))
        else {
            panic!("a plan's units are run");
        };
        let guard: Option<&dyn Guard> = Some(&WantsResult);
        let request = ClaimRequest::Run { unit, seal, max_cost, undo_max_cost, needs, counting, guard };
        let report = db.claim(&[request], at(1)).await;
        assert_eq!(report.refused, [unit]);
        assert_eq!(db.state(unit).await, "failed");
        assert_eq!(db.number("SELECT count(*) FROM budget_reservation").await, 0);
    })
    .await;
}
