//! The seal: verdicts are signed by whom the keys believe, and rows that are not what was approved let nothing be claimed.

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::check::CheckedVerdict;
use dat_plan::signing::{KeyRing, SigningKey, Trust, TrustedKey};
use dat_plan::{FaultCode, PlanHash, PlanState};
use dat_store::{Bound, Conflict, SEAL_BROKEN, Seal, SetScope};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, plan, refused, step};

pub(crate) fn key(id: &str) -> SigningKey {
    let seed = format!("{:0>64}", hex::encode(id));
    SigningKey::from_seed(id, &seed).unwrap()
}

/// Governance's keys: the present one, one whose time is over at 50, one whose time begins at 60.
fn keys() -> KeyRing {
    let until = TrustedKey { not_after: Some(at(50)), ..key("old").trusted() };
    let from = TrustedKey { not_before: Some(at(60)), ..key("next").trusted() };
    KeyRing::new([key("ggp").trusted(), until, from]).unwrap()
}

pub(crate) fn trust() -> Trust {
    Trust { verdicts: keys(), ..Trust::default() }
}

fn simple() -> Plan {
    plan("acme", 100, vec![step("a", &[], 10, 1), step("b", &["a"], 10, 1)])
}

/// The verdict with that key's signature.
pub(crate) fn signed(key: &SigningKey, verdict: CheckedVerdict) -> CheckedVerdict {
    let mut value = verdict.value;
    key.sign(&mut value).unwrap();
    CheckedVerdict { verdict: serde_json::from_value(value.clone()).unwrap(), value }
}

/// The verdict with a field changed since it was signed.
fn altered(verdict: &CheckedVerdict, field: &str, to: Value) -> CheckedVerdict {
    let mut value = verdict.value.clone();
    value[field] = to;
    CheckedVerdict { verdict: serde_json::from_value(value.clone()).unwrap(), value }
}

pub(crate) async fn bind(db: &Db, verdict: CheckedVerdict, now: DateTime<Utc>) -> Bound {
    db.store.bind_verdicts(&[verdict], &keys(), now).await.unwrap().remove(0)
}

/// The verdict is parked, and nothing is written.
async fn parked(db: &Db, verdict: CheckedVerdict, now: DateTime<Utc>) -> FaultCode {
    let before = db.dump().await;
    let Bound::Parked(conflict) = bind(db, verdict, now).await else { panic!("it was not parked") };
    assert_eq!(db.dump().await, before, "a parked verdict changed something");
    conflict.fault().code
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keys_a_verdict_binds_only_if_its_signature_stands_when_it_is_received() {
    with(async |db| {
        use FaultCode as F;
        let plan = simple();
        db.register(&plan, at(0)).await;
        let good = || signed(&key("ggp"), plan.approval("d1"));
        let of_another = SigningKey::from_seed("ggp", &"ee".repeat(32)).unwrap();
        let mut no_key = good();
        no_key.value.as_object_mut().unwrap().remove("key_id");
        let cases = [
            ("unsigned", plan.approval("d1"), F::Unsigned),
            ("without a key's id", no_key, F::Unsigned),
            ("by an unknown key", signed(&key("evil"), plan.approval("d1")), F::UnknownKey),
            ("by an expired key", signed(&key("old"), plan.approval("d1")), F::KeyExpired),
            ("by a key to come", signed(&key("next"), plan.approval("d1")), F::KeyNotYetValid),
            ("by another key of that id", signed(&of_another, plan.approval("d1")), F::WrongSignature),
            ("no signature", altered(&good(), "signature", json!("abc")), F::WrongSignature),
            ("altered", altered(&good(), "approver", json!("eve")), F::WrongSignature),
            ("grown", altered(&good(), "reason", json!("because")), F::WrongSignature),
            ("a revocation, unsigned", plan.verdict("r", "revoked", &json!({})), F::Unsigned),
            ("a rejection, unsigned", plan.verdict("d2", "rejected", &json!({})), F::Unsigned),
        ];
        for (what, verdict, code) in cases {
            assert_eq!(parked(&db, verdict, at(50)).await, code, "{what}");
        }
        // Each key in its own time.
        let [early, late] = [simple(), simple()];
        for (plan, by, now) in [(&plan, "ggp", at(50)), (&early, "old", at(49)), (&late, "next", at(60))] {
            db.store.register(&[plan.registration()], at(0)).await.unwrap();
            let verdict = || signed(&key(by), plan.approval("d1"));
            assert_eq!(bind(&db, verdict(), now).await, Bound::Bound, "{by}");
            // What was bound is not asked again: its key may be over by the time that it is delivered once more.
            assert_eq!(bind(&db, verdict(), at(1_000)).await, Bound::Repeat, "{by}");
        }
        // The log holds what was received, to the letter that is signed.
        let logged: Value = sqlx::query_scalar(
            "SELECT data->'verdict' FROM execution_event WHERE plan_id = $1 AND kind = 'plan.approved'",
        )
        .bind(plan.id())
        .fetch_one(&db.sql)
        .await
        .unwrap();
        assert_eq!(logged, good().value);
        let revoked = signed(&key("ggp"), plan.verdict("r", "revoked", &json!({})));
        assert_eq!(bind(&db, revoked, at(50)).await, Bound::Bound);
        assert_eq!(db.plan_state(&plan).await, PlanState::Aborted);
        let faults = db.store.audit(None, &trust()).await.unwrap().faults;
        assert!(faults.is_empty(), "{faults:#?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_verdict_counts_for_no_other_plan_version_or_content() {
    with(async |db| {
        let [plan, other] = [simple(), simple()];
        let next = plan.with(json!({"plan_version": 2}));
        for plan in [&plan, &other, &next] {
            db.register(plan, at(0)).await;
        }
        let verdict = signed(&key("ggp"), plan.approval("d1"));
        // Signed or not, the hash is another's.
        let again = |field: &str, to: Value| signed(&key("ggp"), altered(&verdict, field, to));
        for replayed in [again("plan_version", json!(2)), again("plan_id", json!(other.id()))] {
            assert_eq!(parked(&db, replayed, at(1)).await, FaultCode::VerdictMismatch);
        }
        let misnamed = altered(&verdict, "plan_version", json!(2));
        assert_eq!(parked(&db, misnamed, at(1)).await, FaultCode::WrongSignature);
        let of_content = again("plan_hash", json!(other.hash));
        assert_eq!(parked(&db, of_content, at(1)).await, FaultCode::VerdictMismatch);
        let unknown = again("plan_version", json!(3));
        assert_eq!(parked(&db, unknown, at(1)).await, FaultCode::VerdictMismatch);
        assert_eq!(bind(&db, verdict.clone(), at(1)).await, Bound::Bound);
        // Sent once more it is the first version's again, and the second waits for its own.
        assert_eq!(bind(&db, verdict, at(2)).await, Bound::Repeat);
        assert_eq!(db.plan_state(&next).await, PlanState::SubmittedForApproval);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_of_other_rules_than_governance_was_told_of_is_parked() {
    with(async |db| {
        let none = PlanHash::of(&json!([])).unwrap();
        let [plan, older] = [simple(), simple()];
        for plan in [&plan, &older] {
            db.register(plan, at(0)).await;
        }
        let document = json!({"format": 1, "constraints": []});
        let hash = PlanHash::of(&document).unwrap();
        db.store.set_constraints(&SetScope::Fleet, (&document, &hash), "ann", "rules", at(1)).await.unwrap();
        let after = simple();
        db.register(&after, at(1)).await;
        let head = json!([{"scope": "fleet", "version": 1, "hash": hash}]);
        let rules = PlanHash::of(&head).unwrap();
        // A worker one version back wrote no column: then the package in the log says it.
        altered_rows(&db, "UPDATE execution_plan SET constraint_set_hash = NULL WHERE plan_id = $P", &older)
            .await;
        for (plan, seen, other) in [(&plan, &none, &rules), (&older, &none, &rules), (&after, &rules, &none)]
        {
            let of =
                |rules: &PlanHash| plan.verdict("d1", "approved", &json!({"constraint_set_hash": rules}));
            let answer = db.store.bind_verdicts(&[of(other)], &KeyRing::default(), at(2)).await.unwrap();
            let [Bound::Parked(conflict)] = answer.as_slice() else { panic!("it was not parked") };
            assert!(matches!(conflict, Conflict::OtherConstraints { .. }), "{conflict}");
            assert_eq!(conflict.fault().code, FaultCode::OtherConstraints);
            let answer = db.store.bind_verdicts(&[of(seen)], &KeyRing::default(), at(2)).await.unwrap();
            assert_eq!(answer, [Bound::Bound]);
        }
    })
    .await;
}

/// Changes rows as a superuser could who switches every guard of the tables off.
pub(crate) async fn altered_rows(db: &Db, change: &str, plan: &Plan) {
    let change = change
        .replace("$P", &format!("'{}'", plan.id()))
        .replace("$V", &format!("{}", plan.document.plan_version));
    let mut tx = db.sql.begin().await.unwrap();
    let tables = ["execution_plan", "plan_verdict", "execution_event", "budget_account"];
    for table in tables {
        let off = format!("ALTER TABLE {table} DISABLE TRIGGER USER");
        sqlx::query(AssertSqlSafe(off)).execute(&mut *tx).await.unwrap();
    }
    let changed = sqlx::query(AssertSqlSafe(change.clone())).execute(&mut *tx).await.unwrap();
    assert!(changed.rows_affected() > 0, "nothing was changed by {change}");
    for table in tables {
        let on = format!("ALTER TABLE {table} ENABLE TRIGGER USER");
        sqlx::query(AssertSqlSafe(on)).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// An approval with a budget of 60 that ends at 3600, signed.
pub(crate) fn approval(plan: &Plan) -> CheckedVerdict {
    let limits = json!({"budget": {"amount": 60, "currency": "usd"}, "expires_at": at(3_600)});
    signed(&key("ggp"), plan.verdict("d1", "approved", &limits))
}

/// Registered, approved by [`approval`], admitted; and what a worker found to be approved.
pub(crate) async fn started(db: &Db) -> (Plan, Seal) {
    let plan = simple();
    db.register(&plan, at(0)).await;
    assert_eq!(bind(db, approval(&plan), at(0)).await, Bound::Bound);
    db.store.admit(&[plan.admission()], at(0)).await.unwrap();
    let stored = db.store.sealed(&[plan.key()]).await.unwrap().remove(0);
    assert_eq!(stored.approval.unwrap().verdict, approval(&plan).value);
    let (expires_at, approved_amount) = (Some(at(3_600)), Some(60));
    let seal =
        Seal { expires_at, approved_amount, limit: 60, digest: Some(stored.digest.unwrap()), ..plan.seal() };
    (plan, seal)
}

pub(crate) const DOCUMENT: &str = "UPDATE execution_plan SET
    document = convert_to(replace(convert_from(document, 'UTF8'), '\"max_cost\":10', '\"max_cost\":11'), 'UTF8')
    WHERE plan_id = $P AND plan_version = $V";

/// Changes of rows that say what was approved, and words of the reason why nothing is claimed.
const ALTERED: &[(&str, &str)] = &[
    (DOCUMENT, "document or verdict was altered"),
    (
        "UPDATE plan_verdict SET verdict = jsonb_set(verdict, '{budget,amount}', '61') WHERE plan_id = $P",
        "document or verdict was altered",
    ),
    ("DELETE FROM plan_verdict WHERE plan_id = $P", "document or verdict was altered"),
    ("UPDATE execution_plan SET approved_amount = 61 WHERE plan_id = $P", "approved amount is 61"),
    ("UPDATE execution_plan SET approved_amount = NULL WHERE plan_id = $P", "approved amount is none"),
    (
        "UPDATE execution_plan SET approval_expires_at = approval_expires_at + interval '1 us' WHERE plan_id = $P",
        "approval's end is 2026-03-01T13:00:00.000001",
    ),
    ("UPDATE execution_plan SET approval_expires_at = NULL WHERE plan_id = $P", "approval's end is without end"),
    ("UPDATE execution_plan SET approval_decision = 'd2' WHERE plan_id = $P", "decision is d2"),
    (
        "UPDATE execution_step SET action = 'evil' WHERE plan_id = $P AND step_index = 0",
        "step 0 is a (mux: evil) by its row",
    ),
    ("UPDATE execution_step SET step_key = 'z' WHERE plan_id = $P AND step_index = 0", "step 0 is z (mux: "),
    ("UPDATE budget_account SET limit_amount = 61 WHERE plan_id = $P", "account's limit is 61"),
    (
        "UPDATE execution_plan SET plan_hash = 'sha256:' || repeat('0', 64), approval_hash = 'sha256:' || repeat('0', 64)
         WHERE plan_id = $P",
        "is not what was approved",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_not_what_was_approved_let_nothing_be_claimed() {
    with(async |db| {
        for (change, words) in ALTERED {
            let (plan, seal) = started(&db).await;
            altered_rows(&db, change, &plan).await;
            let unit = plan.unit(0);
            for (look, now) in [at(1), at(40)].into_iter().enumerate() {
                let report = db.claim(&[plan.run_sealed(unit, seal.clone())], now).await;
                assert!(report.claimed.is_empty(), "{change}: {report:?}");
                assert_eq!((report.waiting.as_slice(), look < 2), (&[unit][..], true), "{change}");
            }
            let why: String = sqlx::query_scalar(
                "SELECT wait_reason FROM execution_step WHERE plan_id = $1 AND step_index = 0",
            )
            .bind(plan.id())
            .fetch_one(&db.sql)
            .await
            .unwrap();
            assert!(why.contains(words), "{change}: {why}");
            // Told once, with the words that `explain` has, as long as it is the same.
            let told: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM execution_event WHERE plan_id = $1 AND kind = 'seal.broken'",
            )
            .bind(plan.id())
            .fetch_one(&db.sql)
            .await
            .unwrap();
            assert_eq!(told, i64::from(why.starts_with(SEAL_BROKEN)), "{change}");
            let spent: i64 = sqlx::query_scalar("SELECT count(*) FROM step_attempt WHERE plan_id = $1")
                .bind(plan.id())
                .fetch_one(&db.sql)
                .await
                .unwrap();
            assert_eq!(spent, 0, "{change}");
        }
        let (plan, seal) = started(&db).await;
        let report = db.claim(&[plan.run_sealed(plan.unit(0), seal)], at(1)).await;
        assert_eq!(report.claimed.len(), 1, "what was not altered runs: {report:?}");
    })
    .await;
}

/// What a document of another's making cannot stop: it is unwound by what was approved.
#[tokio::test(flavor = "multi_thread")]
async fn an_undo_is_claimed_by_what_was_approved_whatever_rows_say_since() {
    with(async |db| {
        let (plan, seal) = started(&db).await;
        let claimed = db.claim(&[plan.run_sealed(plan.unit(0), seal.clone())], at(1)).await.claimed.remove(0);
        db.settle(&plan, &claimed.lease, done(5), at(2)).await;
        let revoked = signed(&key("ggp"), plan.verdict("r", "revoked", &json!({})));
        assert_eq!(bind(&db, revoked, at(3)).await, Bound::Bound);
        let undos = |ran: &[dat_store::RanStep]| plan.undos(ran);
        let start = dat_store::RollbackStart { plan: plan.key(), undos: &undos };
        db.store.begin_undo(&[start], at(4)).await.unwrap();
        altered_rows(&db, "UPDATE execution_plan SET approved_amount = 61 WHERE plan_id = $P", &plan).await;
        let report = db.claim(&[plan.run_sealed(plan.undo(0), seal)], at(5)).await;
        assert_eq!(report.claimed.len(), 1, "{report:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_of_a_verdict_never_changes() {
    with(async |db| {
        let (plan, _) = started(&db).await;
        for change in [
            "UPDATE plan_verdict SET approver = 'eve'",
            "DELETE FROM plan_verdict",
            "UPDATE execution_plan SET constraint_set_hash = NULL",
            "UPDATE execution_plan SET supersedes = NULL",
            "UPDATE execution_plan SET submitter = 'eve'",
        ] {
            let refused = sqlx::query(change).execute(&db.sql).await.unwrap_err().to_string();
            assert!(refused.contains("is refused"), "{change}: {refused}");
        }
        assert_eq!(db.plan_state(&plan).await, PlanState::Executing);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_whose_approval_is_not_believed_is_left_as_it_is_and_says_so() {
    with(async |db| {
        let plan = simple();
        db.register(&plan, at(0)).await;
        assert_eq!(bind(&db, approval(&plan), at(0)).await, Bound::Bound);
        let reason = format!("{SEAL_BROKEN}a test");
        for now in [at(1), at(11)] {
            let until = now + TimeDelta::seconds(10);
            db.store.hold(plan.key(), &reason, until, now).await.unwrap();
        }
        assert_eq!(db.plan_state(&plan).await, PlanState::Approved);
        let waits = db.text("SELECT wait_reason FROM execution_plan").await;
        assert_eq!(waits.as_deref(), Some(reason.as_str()));
        let told = "SELECT count(*) FROM execution_event WHERE kind = 'seal.broken'";
        assert_eq!(db.number(told).await, 1);
        let faults = db.store.audit(None, &trust()).await.unwrap().faults;
        assert!(faults.is_empty(), "{faults:#?}");
    })
    .await;
}

/// A plan that cannot be ruled on stands before nobody: its failed unit is looked at again later, and told of once.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_unit_of_a_plan_that_is_not_what_was_approved_stands_before_nobody() {
    with(async |db| {
        let (broken, seal) = started(&db).await;
        let claimed = db.claim(&[broken.run_sealed(broken.unit(0), seal)], at(1)).await.claimed.remove(0);
        db.settle(&broken, &claimed.lease, refused(), at(2)).await;
        let undecided = async |now| {
            let failed = db.store.undecided(1, now).await.unwrap();
            failed.into_iter().map(|row| row.unit).collect::<Vec<_>>()
        };
        assert_eq!(undecided(at(3)).await, [broken.unit(0)]);
        let units = [(broken.unit(0), format!("{SEAL_BROKEN}a test"))];
        assert_eq!(db.store.leave_undecided(&units, at(13), at(3)).await.unwrap(), 1);
        let (other, seal) = started(&db).await;
        let claimed = db.claim(&[other.run_sealed(other.unit(0), seal)], at(4)).await.claimed.remove(0);
        db.settle(&other, &claimed.lease, refused(), at(5)).await;
        assert_eq!(
            undecided(at(6)).await,
            [other.unit(0)],
            "one at a time, and the other is not kept waiting"
        );
        db.store.leave_undecided(&[(other.unit(0), units[0].1.clone())], at(99), at(6)).await.unwrap();
        assert_eq!(undecided(at(13)).await, [broken.unit(0)], "and it is looked at again");
        assert_eq!(db.store.leave_undecided(&units, at(23), at(13)).await.unwrap(), 0, "it was told of");
        let told = "SELECT count(*) FROM execution_event WHERE kind = 'seal.broken'";
        assert_eq!(db.number(told).await, 2);
        // Another reason is news, and what was decided meanwhile is left alone.
        let otherwise = [(broken.unit(0), format!("{SEAL_BROKEN}another test"))];
        assert_eq!(db.store.leave_undecided(&otherwise, at(23), at(14)).await.unwrap(), 1);
        assert_eq!(
            db.store.leave_undecided(&[(broken.unit(1), units[0].1.clone())], at(23), at(14)).await.unwrap(),
            0
        );
        let faults = db.store.audit(None, &trust()).await.unwrap().faults;
        assert!(faults.is_empty(), "{faults:#?}");
    })
    .await;
}
