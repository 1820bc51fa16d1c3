//! The log: gapless, chained, and equal to what the ledger and the rows say; whatever is changed afterwards is found.

use dat_plan::PlanKey;
use dat_plan::clock::{Entropy, SeededEntropy};
use dat_plan::event::{ControlAct, EventKind, NewEvent};
use dat_plan::signing::Trust;
use dat_store::Finding;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::database::{Db, at, with};
use crate::fleet::Fleet;
use crate::plans::{Plan, done, plan, step};

/// Nothing to be asked after each transaction.
const NOTHING: &str = "SELECT 0::bigint";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_random_fleet_logs_holds_together_at_every_moment() {
    let seed = SeededEntropy::from_os().below(u64::MAX);
    with(async move |db| {
        let fleet = Fleet::start(&db, seed, 15).await;
        let running = tokio::spawn({
            let fleet = std::sync::Arc::clone(&fleet);
            async move { fleet.run(4, NOTHING).await }
        });
        // The audit is of one moment: what is written meanwhile makes no fault.
        while !running.is_finished() {
            db.assert_sound().await;
        }
        running.await.unwrap();
        db.assert_sound().await;
        let gaps = "SELECT count(*) FROM event_stream s WHERE last_sequence <>
                        (SELECT count(*) FROM execution_event e
                         WHERE e.plan_id = s.plan_id AND e.plan_version = s.plan_version)";
        assert_eq!(db.number(gaps).await, 0, "seed {seed}");
        // One event a state that an ended plan came to.
        let ends = "SELECT count(*) FROM execution_event WHERE kind IN ('plan.completed', 'plan.aborted')";
        assert_eq!(usize::try_from(db.number(ends).await).unwrap(), fleet.ends().await.len(), "seed {seed}");
    })
    .await;
}

async fn completed(db: &Db) -> Plan {
    let plan = plan("acme", 100, vec![step("a", &[], 10, 1), step("b", &["a"], 10, 1)]);
    db.start(&plan, at(0)).await;
    let refund = Finding::Done { result: json!({"id": "x"}), cost: 5, refund: 2 };
    db.go(&plan, plan.unit(0), refund, at(1)).await;
    db.go(&plan, plan.unit(1), done(5), at(2)).await;
    plan
}

/// Changes of one plan's records, `$P` standing for its id, and words of the fault that names each.
const TAMPERED: &[(&str, &str)] = &[
    ("UPDATE execution_event SET data = data || '{\"tenant\": \"evil\"}' WHERE plan_id = $P AND sequence = 3", "event 3"),
    ("UPDATE execution_event SET kind = 'plan.paused' WHERE plan_id = $P AND sequence = 2", "event 2 (plan.paused)"),
    ("UPDATE execution_event SET at = at + interval '1 us' WHERE plan_id = $P AND sequence = 4", "event 4"),
    ("UPDATE execution_event SET hash = sha256('x') WHERE plan_id = $P AND sequence = 5", "event 5"),
    ("DELETE FROM execution_event WHERE plan_id = $P AND sequence = 4", "event 5 follows event 3"),
    (
        "DELETE FROM execution_event WHERE plan_id = $P
         AND sequence = (SELECT last_sequence FROM event_stream WHERE plan_id = $P)",
        "the stream ends at",
    ),
    (
        "UPDATE execution_event a SET kind = b.kind, at = b.at, data = b.data, hash = b.hash FROM execution_event b
         WHERE a.plan_id = $P AND b.plan_id = $P AND a.sequence + b.sequence = 15 AND a.sequence IN (7, 8)",
        "event 7",
    ),
    (
        "INSERT INTO execution_event SELECT partition_date, plan_id, plan_version, sequence + 1, kind, at, data, hash
         FROM execution_event WHERE plan_id = $P ORDER BY sequence DESC LIMIT 1",
        "the stream ends at",
    ),
    (
        "INSERT INTO execution_event SELECT partition_date, plan_id, plan_version, sequence + 1, kind, at, data, hash
         FROM execution_event WHERE plan_id = $P ORDER BY sequence DESC LIMIT 1",
        "does not hash to what was chained",
    ),
    ("UPDATE event_stream SET last_hash = sha256('x') WHERE plan_id = $P", "the stream ends at"),
    (
        "UPDATE budget_entry SET amount = amount + 1 WHERE plan_id = $P AND entry = 'incurred' AND step_index = 0",
        "the ledger has 11 incurred, the events 10",
    ),
    (
        "UPDATE budget_entry SET amount = amount + 1 WHERE plan_id = $P AND entry = 'refund'",
        "the ledger has 3 refund, the events 2",
    ),
    ("DELETE FROM budget_entry WHERE plan_id = $P AND entry = 'released' AND part = 'undo'", "released"),
    ("UPDATE budget_account SET settled = settled - 1 WHERE plan_id = $P", "the account says 7 spent, the ledger 8"),
    ("UPDATE budget_account SET reserved = 1 WHERE plan_id = $P", "the account holds 1 reserved"),
    (
        "UPDATE budget_reservation SET undo_open = true, undo_amount = 1 WHERE plan_id = $P AND step_index = 0",
        "the open reservations 1",
    ),
];

/// As the owner of the tables, who can switch the triggers off.
async fn tamper(db: &Db, plan: &Plan, change: &str) {
    let change = change.replace("$P", &format!("'{}'", plan.id()));
    let mut tx = db.sql.begin().await.unwrap();
    sqlx::query("ALTER TABLE execution_event DISABLE TRIGGER USER").execute(&mut *tx).await.unwrap();
    let changed = sqlx::query(AssertSqlSafe(change)).execute(&mut *tx).await.unwrap();
    assert!(changed.rows_affected() > 0, "nothing was changed");
    sqlx::query("ALTER TABLE execution_event ENABLE TRIGGER USER").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_made_afterwards_is_named_by_the_audit() {
    with(async |db| {
        let untouched = completed(&db).await;
        let mut unseen = Vec::new();
        for (change, words) in TAMPERED {
            let plan = completed(&db).await;
            db.assert_plan_sound(&plan).await;
            tamper(&db, &plan, change).await;
            let faults = db.store.audit(Some(plan.key()), &Trust::default()).await.unwrap().faults;
            if !faults.iter().any(|fault| fault.plan == plan.key() && fault.message.contains(words)) {
                unseen.push((change, words, faults));
            }
        }
        assert!(unseen.is_empty(), "the audit does not say: {unseen:#?}");
        db.assert_plan_sound(&untouched).await;
        let all = db.store.audit(None, &Trust::default()).await.unwrap().faults;
        assert!(all.len() >= TAMPERED.len() && all.iter().all(|fault| fault.plan != untouched.key()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_number_that_can_be_logged_reads_back_as_it_was_chained() {
    let seed = SeededEntropy::from_os().below(u64::MAX);
    with(async move |db| {
        let dice = SeededEntropy::new(seed);
        let mut numbers = vec![
            json!(0.1 + 0.2),
            json!(1e21),
            json!(-0.0),
            json!(5e-324),
            json!(f64::MAX),
            json!(1.0),
            json!(1e-7),
            json!(9_007_199_254_740_993_i64),
            json!(i64::MIN),
            json!(u64::MAX),
            json!("\u{1F600}\u{7f}\u{2028}"),
        ];
        while numbers.len() < 2_000 {
            let number = f64::from_bits(dice.below(u64::MAX));
            if number.is_finite() {
                numbers.push(json!(number));
            }
        }
        let act = EventKind::Control(ControlAct::Pause);
        let events: Vec<NewEvent> = numbers
            .iter()
            .map(|n: &Value| NewEvent::of_plan(PlanKey::CONTROL, "", act, at(0)).with("n", n.clone()))
            .collect();
        db.store.record_refused(&events).await.unwrap();
        let report = db.store.audit(Some(PlanKey::CONTROL), &Trust::default()).await.unwrap();
        assert!(report.faults.is_empty(), "seed {seed}: {:#?}", report.faults);
        assert_eq!(report.events, 2_000);
    })
    .await;
}
