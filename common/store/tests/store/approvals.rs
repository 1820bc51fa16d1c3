//! The audit of what was approved: each change of it, by a superuser whom no guard of the tables stops, is named.

use dat_store::Bound;
use serde_json::{Value, json};

use crate::database::{Db, at, with};
use crate::plans::{Plan, done};
use crate::seals::{DOCUMENT, altered_rows, approval, bind, key, signed, started, trust};

/// One step ran, its plan goes on.
async fn half_done(db: &Db) -> Plan {
    let (plan, seal) = started(db).await;
    let claimed = db.claim(&[plan.run_sealed(plan.unit(0), seal)], at(1)).await.claimed.remove(0);
    db.settle(&plan, &claimed.lease, done(5), at(2)).await;
    plan
}

/// Changes of what says that a plan was approved, and words of the fault that names each.
const TAMPERED: &[(&str, &str)] = &[
    (DOCUMENT, "the document was altered: it hashes to"),
    ("UPDATE execution_step SET connector = 'evil' WHERE plan_id = $P AND step_index = 1", "step 1 was altered: it is b"),
    (
        "UPDATE plan_verdict SET verdict = jsonb_set(verdict, '{budget,amount}', '61') WHERE plan_id = $P",
        "the verdict d1 (approved) was altered",
    ),
    (
        "UPDATE plan_verdict SET verdict = jsonb_set(verdict, '{budget,amount}', '61') WHERE plan_id = $P",
        "does not stand: the signature is not that of key 'ggp'",
    ),
    (
        "UPDATE plan_verdict SET verdict = verdict - 'signature' WHERE plan_id = $P",
        "does not stand: it is not signed",
    ),
    (
        "UPDATE plan_verdict SET verdict = jsonb_set(verdict, '{key_id}', '\"evil\"') WHERE plan_id = $P",
        "key 'evil' is not one that is trusted here",
    ),
    ("UPDATE plan_verdict SET approver = 'eve' WHERE plan_id = $P", "says approver ann, its row eve"),
    (
        "UPDATE plan_verdict SET received_at = received_at + interval '1 s' WHERE plan_id = $P",
        "was received at",
    ),
    ("DELETE FROM plan_verdict WHERE plan_id = $P", "has 0 approving verdicts"),
    ("UPDATE execution_plan SET approved_amount = 61 WHERE plan_id = $P", "the approved amount is 61 by the row"),
    (
        "UPDATE execution_plan SET approval_expires_at = NULL WHERE plan_id = $P",
        "the approval's end is none by the row",
    ),
    ("UPDATE execution_plan SET approval_decision = 'd2' WHERE plan_id = $P", "the decision is d2 by the row"),
    ("UPDATE budget_account SET limit_amount = 61 WHERE plan_id = $P", "the account's limit is 61 by the row"),
    ("UPDATE execution_plan SET revoked_at = registered_at WHERE plan_id = $P", "is revoked by its row"),
    (
        "UPDATE execution_plan SET submitter = 'eve' WHERE plan_id = $P",
        "the row says that eve submitted it, its log that nobody did",
    ),
    (
        "UPDATE execution_plan SET plan_hash = 'sha256:' || repeat('0', 64), approval_hash = 'sha256:' || repeat('0', 64)
         WHERE plan_id = $P",
        "its log registered sha256:",
    ),
    ("DELETE FROM execution_event WHERE plan_id = $P AND kind = 'plan.approved'", "before any approval"),
    (
        "UPDATE execution_event SET kind = 'plan.revoked' WHERE plan_id = $P AND kind = 'plan.staged'",
        "after the approval was revoked",
    ),
    (
        "UPDATE plan_verdict SET verdict = jsonb_set(verdict, '{expires_at}', '\"2026-03-01T12:00:00.5Z\"')
         WHERE plan_id = $P",
        "the approval ended at 2026-03-01 12:00:00.5",
    ),
];

/// What the audit does not say of a plan that should be named by it.
async fn unsaid(db: &Db, plan: &Plan, words: &str) -> Option<String> {
    let faults = db.store.audit(Some(plan.key()), &trust()).await.unwrap().faults;
    let said = faults.iter().any(|fault| fault.plan == plan.key() && fault.message.contains(words));
    (!said).then(|| format!("{words}: {faults:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_what_was_approved_is_named_by_the_audit() {
    with(async |db| {
        let untouched = half_done(&db).await;
        let mut unseen = Vec::new();
        for (change, words) in TAMPERED {
            let plan = half_done(&db).await;
            let faults = db.store.audit(Some(plan.key()), &trust()).await.unwrap().faults;
            assert!(faults.is_empty(), "{faults:#?}");
            altered_rows(&db, change, &plan).await;
            unseen.extend(unsaid(&db, &plan, words).await.map(|unsaid| (change, unsaid)));
        }
        assert!(unseen.is_empty(), "the audit does not say: {unseen:#?}");
        let all = db.store.audit(None, &trust()).await.unwrap().faults;
        assert!(all.iter().all(|fault| fault.plan != untouched.key()), "{all:#?}");
    })
    .await;
}

async fn put_verdict(db: &Db, plan: &Plan, verdict: &Value) {
    let set = format!(
        "UPDATE plan_verdict SET verdict = '{verdict}', decision_id = '{}', plan_hash = '{}'
         WHERE plan_id = $P AND plan_version = $V",
        verdict["decision_id"].as_str().unwrap(),
        verdict["plan_hash"].as_str().unwrap(),
    );
    altered_rows(db, &set, plan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_was_put_in_anothers_place_is_named_by_the_audit() {
    with(async |db| {
        // Another plan's, as it was signed.
        let [other, plan] = [half_done(&db).await, half_done(&db).await];
        put_verdict(&db, &plan, &approval(&other).value).await;
        let words = format!("is of plan {}, not of this one", other.key());
        assert_eq!(unsaid(&db, &plan, &words).await, None);
        // The version's before it.
        let next = other.with(json!({"plan_version": 2}));
        db.register(&next, at(5)).await;
        assert_eq!(bind(&db, approval(&next), at(6)).await, Bound::Bound);
        put_verdict(&db, &next, &approval(&other).value).await;
        assert_eq!(unsaid(&db, &next, &words).await, None);
        // One that says the same, by a key that nobody knows.
        let plan = half_done(&db).await;
        put_verdict(&db, &plan, &signed(&key("evil"), approval(&plan)).value).await;
        assert_eq!(unsaid(&db, &plan, "key 'evil' is not one that is trusted here").await, None);
        // One by a key that was over when it came.
        let plan = half_done(&db).await;
        put_verdict(&db, &plan, &signed(&key("old"), approval(&plan)).value).await;
        let late = "UPDATE plan_verdict SET received_at = received_at + interval '51 s' WHERE plan_id = $P";
        altered_rows(&db, late, &plan).await;
        assert_eq!(unsaid(&db, &plan, "key 'old' is trusted no more since").await, None);
        // A second one beside it, where somebody took the guard of the table away.
        let plan = half_done(&db).await;
        sqlx::query("DROP INDEX plan_verdict_first_wins").execute(&db.sql).await.unwrap();
        let second =
            "INSERT INTO plan_verdict SELECT plan_id, plan_version, 'd2', outcome, plan_hash, approver,
                          verdict, received_at FROM plan_verdict WHERE plan_id = $P";
        altered_rows(&db, second, &plan).await;
        assert_eq!(unsaid(&db, &plan, "has 2 approving verdicts").await, None);
    })
    .await;
}
