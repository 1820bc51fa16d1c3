//! Operators' sets, and the rules that count: what runs at once, and what is spent, under concurrent claims.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use dat_plan::PlanHash;
use dat_plan::constraint::SpendPeriod;
use dat_store::{
    Admitted, ClaimRequest, CountLock, Counting, Guard, GuardFacts, GuardVerdict, SetConstraints, SetHead,
    SetScope, SpendCap,
};
use serde_json::{Value, json};

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, plan, step, wide};

async fn set(db: &Db, scope: &SetScope, document: &Value, seconds: i64) -> SetConstraints {
    let hash = PlanHash::of(document).unwrap();
    db.store.set_constraints(scope, (document, &hash), "ann", "a rule", at(seconds)).await.unwrap()
}

fn document(max: i64) -> Value {
    json!({"format": 1, "constraints": [
        {"id": "c", "enforcement": "hard", "kind": "concurrency", "max": max}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_a_set_have_no_gap_never_change_and_say_who_and_why() {
    with(async |db| {
        let (fleet, acme) = (SetScope::Fleet, SetScope::Tenant("acme".to_owned()));
        assert_eq!(set(&db, &fleet, &document(1), 0).await, SetConstraints::Registered(1));
        assert_eq!(set(&db, &fleet, &document(2), 1).await, SetConstraints::Registered(2));
        assert_eq!(set(&db, &fleet, &document(2), 2).await, SetConstraints::AlreadySo(2));
        assert_eq!(set(&db, &acme, &document(1), 3).await, SetConstraints::Registered(1));
        // An older text again is a newer version.
        assert_eq!(set(&db, &fleet, &document(1), 4).await, SetConstraints::Registered(3));
        let newest = db.store.newest_constraint_sets().await.unwrap();
        let heads: Vec<_> = newest.iter().map(|row| (row.head.scope.clone(), row.head.version)).collect();
        assert_eq!(heads, [(fleet.clone(), 3), (acme, 1)]);
        let versions = db.store.constraint_set_versions(&fleet).await.unwrap();
        assert_eq!(versions.iter().map(|row| row.head.version).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!((versions[1].set_by.as_str(), &versions[1].document), ("ann", &document(2)));
        let events = "SELECT count(*) FROM execution_event WHERE kind = 'control.set_constraints'
                      AND data->>'actor' = 'ann' AND data->>'reason' = 'a rule'";
        assert_eq!(db.number(events).await, 4);
        for statement in ["UPDATE constraint_set SET document = '{}'", "DELETE FROM constraint_set"] {
            let refused = sqlx::query(statement).execute(&db.sql).await.unwrap_err();
            assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("23001"), "{statement}");
        }
        let hash = PlanHash::of(&document(1)).unwrap().as_str().to_owned();
        let named = db.store.constraint_documents(&BTreeSet::from([hash.clone()])).await.unwrap();
        assert_eq!(named.get(&hash), Some(&document(1)));
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_registrations_of_a_set_each_get_a_version_of_their_own() {
    with(async |db| {
        let tasks: Vec<_> = (1..=8)
            .map(|max| {
                let db = db.clone();
                tokio::spawn(async move { set(&db, &SetScope::Fleet, &document(max), 0).await })
            })
            .collect();
        let mut versions = BTreeSet::new();
        for task in tasks {
            let SetConstraints::Registered(version) = task.await.unwrap() else { panic!("each is new") };
            versions.insert(version);
        }
        assert_eq!(versions, (1..=8).collect());
    })
    .await;
}

/// Says what the heads were, and is stale unless they are those it knows.
struct Knows(Vec<SetHead>);

impl Guard for Knows {
    fn decide(&self, facts: &GuardFacts<'_>) -> GuardVerdict {
        if facts.operators == self.0 {
            GuardVerdict::Go { decision: json!({}), violations: Vec::new(), counted_as: Vec::new() }
        } else {
            GuardVerdict::Stale
        }
    }
}

fn guarded<'a>(plan: &Plan, index: usize, counting: Counting, guard: &'a dyn Guard) -> ClaimRequest<'a> {
    let ClaimRequest::Run { unit, seal, max_cost, undo_max_cost, needs, .. } = plan.run(plan.unit(index))
    else {
        panic!("a plan's units are run");
    };
    ClaimRequest::Run { unit, seal, max_cost, undo_max_cost, needs, counting, guard: Some(guard) }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_claim_that_begins_after_a_set_was_registered_goes_by_an_earlier_one() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0)]);
        db.start(&plan, at(0)).await;
        set(&db, &SetScope::Tenant("bolt".to_owned()), &document(1), 1).await;
        set(&db, &SetScope::Fleet, &document(1), 1).await;
        let behind = Knows(Vec::new());
        let report = db.claim(&[guarded(&plan, 0, Counting::default(), &behind)], at(2)).await;
        assert_eq!((report.claimed.len(), report.stale, report.deferred), (0, 1, 0));
        assert_eq!(db.state(plan.unit(0)).await, "ready");
        // Another tenant's set is none of its business.
        let hash = PlanHash::of(&document(1)).unwrap().as_str().to_owned();
        let newest = Knows(vec![SetHead { scope: SetScope::Fleet, version: 1, hash }]);
        let report = db.claim(&[guarded(&plan, 0, Counting::default(), &newest)], at(2)).await;
        assert_eq!((report.claimed.len(), report.stale), (1, 0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_not_admitted_by_a_set_that_is_behind() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0)]);
        db.approve(&plan, at(0)).await;
        set(&db, &SetScope::Fleet, &document(1), 1).await;
        let mut admission = plan.admission();
        let stale = db.store.admit(&[admission.clone()], at(2)).await.unwrap();
        assert_eq!(stale[0].1, Admitted::Stale);
        admission.operators = vec![SetHead {
            scope: SetScope::Fleet,
            version: 1,
            hash: PlanHash::of(&document(1)).unwrap().as_str().to_owned(),
        }];
        let admitted = db.store.admit(&[admission], at(2)).await.unwrap();
        assert!(matches!(admitted[0].1, Admitted::Executing { .. }));
        let bound = "SELECT operator_sets->0->>'version' FROM constraint_snapshot";
        assert_eq!(db.text(bound).await.as_deref(), Some("1"));
    })
    .await;
}

/// Lets at most so many run at once.
struct AtMost {
    max: i64,
    key: &'static str,
}

impl Guard for AtMost {
    fn decide(&self, facts: &GuardFacts<'_>) -> GuardVerdict {
        if facts.running.get(self.key).copied().unwrap_or(0) < self.max {
            let counted_as = vec![self.key.to_owned()];
            return GuardVerdict::Go { decision: json!({}), violations: Vec::new(), counted_as };
        }
        let until = facts.now + TimeDelta::seconds(1);
        GuardVerdict::Wait { until, reason: "full".to_owned(), decision: json!({}) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_claims_of_many_plans_never_let_more_run_than_may() {
    with(async |db| {
        let plans: Vec<Plan> = (0..8).map(|_| wide("acme", 1_000, 4, 1)).collect();
        for plan in &plans {
            db.start(plan, at(0)).await;
        }
        let counting = || Counting { caps: Vec::new(), running: vec![CountLock::Fleet] };
        let tasks: Vec<_> = plans
            .iter()
            .cloned()
            .map(|plan| {
                let db = db.clone();
                tokio::spawn(async move {
                    let guard = AtMost { max: 5, key: "fleet/c" };
                    let asked: Vec<_> = (0..4).map(|i| guarded(&plan, i, counting(), &guard)).collect();
                    db.claim(&asked, at(1)).await.claimed
                })
            })
            .collect();
        let mut claimed = Vec::new();
        for task in tasks {
            claimed.extend(task.await.unwrap());
        }
        assert_eq!(claimed.len(), 5);
        let owner = |unit: dat_plan::UnitKey| plans.iter().find(|plan| plan.key() == unit.plan).unwrap();
        // One whose outcome is unknown may act still: it counts until it is settled.
        let first = &claimed[0].lease;
        let unknown = dat_store::Finding::Unanswered { detail: "no answer".to_owned() };
        db.settle(owner(first.unit), first, unknown, at(2)).await;
        let guard = AtMost { max: 5, key: "fleet/c" };
        let waiting: Vec<_> = plans
            .iter()
            .flat_map(|plan| (0..4).map(move |i| (plan, i)))
            .filter(|(plan, i)| claimed.iter().all(|one| one.lease.unit != plan.unit(*i)))
            .collect();
        let ask = async |seconds: i64| {
            let asked: Vec<_> =
                waiting.iter().map(|(plan, i)| guarded(plan, *i, counting(), &guard)).collect();
            db.claim(&asked, at(seconds)).await.claimed.len()
        };
        assert_eq!(ask(10).await, 0);
        let second = &claimed[1].lease;
        db.settle(owner(second.unit), second, done(1), at(11)).await;
        assert_eq!(ask(20).await, 1);
        assert_eq!(ask(30).await, 0);
    })
    .await;
}

/// Goes while the account of a `spend` rule has room.
struct Within {
    max: i64,
}

impl Guard for Within {
    fn decide(&self, facts: &GuardFacts<'_>) -> GuardVerdict {
        let on = facts.spent["fleet/s"];
        if on.settled + on.reserved + facts.need <= self.max {
            return GuardVerdict::Go { decision: json!({}), violations: Vec::new(), counted_as: Vec::new() };
        }
        let until = facts.now + TimeDelta::seconds(1);
        GuardVerdict::Wait { until, reason: "full".to_owned(), decision: json!({}) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_claims_of_many_tenants_stay_within_what_a_rule_lets_them_spend() {
    with(async |db| {
        let tenants = ["acme", "bolt", "core", "dora"];
        let plans: Vec<Plan> =
            tenants.iter().map(|tenant| plan(tenant, 1_000, vec![step("a", &[], 10, 2)])).collect();
        for plan in &plans {
            db.start(plan, at(0)).await;
        }
        let counting = |max: i64| Counting {
            caps: vec![SpendCap { key: "fleet/s".to_owned(), period: SpendPeriod::Day, max, own: false }],
            running: Vec::new(),
        };
        let tasks: Vec<_> = plans
            .iter()
            .cloned()
            .map(|plan| {
                let (db, counting) = (db.clone(), counting(30));
                tokio::spawn(async move {
                    let guard = Within { max: 30 };
                    db.claim(&[guarded(&plan, 0, counting, &guard)], at(1)).await.claimed
                })
            })
            .collect();
        let mut claimed = Vec::new();
        for task in tasks {
            claimed.extend(task.await.unwrap());
        }
        assert_eq!(claimed.len(), 2, "12 each, of 30");
        let account = "SELECT count(*) FROM budget_account WHERE cap_key = 'fleet/s' AND reserved = 24
                       AND limit_amount = 30";
        assert_eq!(db.number(account).await, 1);
        let owner = |unit: dat_plan::UnitKey| plans.iter().find(|plan| plan.key() == unit.plan).unwrap();
        let lease = &claimed[0].lease;
        db.settle(owner(lease.unit), lease, done(3), at(2)).await;
        // The plan is over: 3 spent, and nothing held any more; 12 of the other are.
        let account = "SELECT count(*) FROM budget_account WHERE cap_key = 'fleet/s' AND settled = 3
                       AND reserved = 12";
        assert_eq!(db.number(account).await, 1);
        // The rule's newest limit is the account's, at the next claim.
        let rest: Vec<&Plan> =
            plans.iter().filter(|plan| claimed.iter().all(|one| one.lease.unit.plan != plan.key())).collect();
        let guard = Within { max: 26 };
        assert!(db.claim(&[guarded(rest[0], 0, counting(26), &guard)], at(3)).await.claimed.is_empty());
        let account = "SELECT limit_amount FROM budget_account WHERE cap_key = 'fleet/s'";
        assert_eq!(db.number(account).await, 26);
        // Another day is another account.
        let guard = Within { max: 26 };
        let report = db.claim(&[guarded(rest[0], 0, counting(26), &guard)], at(86_400)).await;
        assert_eq!(report.claimed.len(), 1);
        db.assert_sound().await;
    })
    .await;
}
