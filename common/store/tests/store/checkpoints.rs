//! Sealing: one chain of checkpoints whoever seals, nothing sealed for nothing, and what an attacker who holds the whole
//! database can do without the key, each named.

use chrono::{DateTime, Utc};
use dat_plan::checkpoint::Checkpoint;
use dat_plan::signing::{KeyRing, Trust};
use sqlx::AssertSqlSafe;

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, plan, step};
use crate::seals::key;

fn trust() -> Trust {
    Trust { checkpoints: KeyRing::new([key("log").trusted()]).unwrap(), ..Trust::default() }
}

/// Seals what grew; gives the checkpoints that it took.
pub(crate) async fn seal(db: &Db, now: DateTime<Utc>) -> Vec<Checkpoint> {
    let mut made = Vec::new();
    while let Some(new) = db.store.seal("dat", Some(&key("log")), now, now).await.unwrap() {
        made.push(new.checkpoint);
    }
    made
}

/// A plan of which one step completed and another may be claimed.
async fn half_done(db: &Db) -> Plan {
    let plan = plan("acme", 100, vec![step("a", &[], 10, 1), step("b", &["a"], 10, 1)]);
    db.start(&plan, at(0)).await;
    db.go(&plan, plan.unit(0), done(5), at(1)).await;
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_seals_there_is_one_chain_and_every_event_is_in_it() {
    with(async |db| {
        let mut sealers = Vec::new();
        for _ in 0..4 {
            let db = db.clone();
            sealers.push(tokio::spawn(async move {
                let mut made = 0;
                for round in 0..10 {
                    half_done(&db).await;
                    made += seal(&db, at(round)).await.len();
                }
                made
            }));
        }
        let mut made = 0;
        for sealer in sealers {
            made += sealer.await.unwrap();
        }
        made += seal(&db, at(99)).await.len();
        let report = db.store.audit(None, &trust()).await.unwrap();
        assert!(report.faults.is_empty(), "{:#?}", report.faults);
        assert_eq!(report.checkpoints, made as u64);
        assert_eq!((report.signatures, report.unsealed), (report.checkpoints, 0));
        assert!(report.leaves >= 40, "{} leaves", report.leaves);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sealed_twice_nor_before_it_is_due_and_a_checkpoint_is_no_reason_for_another() {
    with(async |db| {
        let plan = half_done(&db).await;
        assert!(db.store.has_grown().await.unwrap());
        let first = db.store.seal("dat", None, at(60), at(10)).await.unwrap().unwrap();
        assert_eq!((first.checkpoint.number, &first.checkpoint.signature, first.more), (1, &None, false));
        assert!(!db.store.has_grown().await.unwrap());
        db.go(&plan, plan.unit(1), done(5), at(20)).await;
        assert!(db.store.has_grown().await.unwrap());
        assert_eq!(db.store.seal("dat", None, at(90), at(30)).await.unwrap(), None);
        let second = db.store.seal("dat", None, at(90), at(61)).await.unwrap().unwrap().checkpoint;
        assert_eq!((second.number, second.previous), (2, first.checkpoint.hash().unwrap()));
        // Its plan's stream, and the control stream with what announced the first.
        assert_eq!(second.leaves, 2);
        assert_eq!(db.store.seal("dat", None, at(200), at(199)).await.unwrap(), None);
        assert_eq!(db.store.checkpoint(None).await.unwrap(), Some(second));
        assert_eq!(db.store.checkpoint(Some(1)).await.unwrap().map(|one| one.number), Some(1));
        assert_eq!(db.store.checkpoint(Some(3)).await.unwrap(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_committed_yet_holds_up_no_sealer_and_is_sealed_by_the_next() {
    with(async |db| {
        let early = half_done(&db).await;
        // Has written its growth and its event, and not committed.
        let mut late = db.sql.begin().await.unwrap();
        let grows = format!(
            "INSERT INTO stream_growth (plan_ids, plan_versions) VALUES (ARRAY['{}'::uuid], ARRAY[1])",
            early.id()
        );
        sqlx::query(AssertSqlSafe(grows)).execute(&mut *late).await.unwrap();
        assert_eq!(seal(&db, at(10)).await.len(), 1);
        db.go(&early, early.unit(1), done(5), at(11)).await;
        assert_eq!(seal(&db, at(12)).await.len(), 1);
        late.commit().await.unwrap();
        // What it grew by is sealed: there is nothing to say about it, and nobody looks at it again.
        assert_eq!(seal(&db, at(13)).await.len(), 0);
        assert!(!db.store.has_grown().await.unwrap());
        let report = db.store.audit(None, &trust()).await.unwrap();
        assert!(report.faults.is_empty() && report.unsealed == 0, "{report:#?}");
    })
    .await;
}

/// Tables that only take what is new.
const SEALED: [&str; 3] = ["execution_event", "audit_checkpoint", "audit_leaf"];

/// Cuts the last event of a stream off, head and all, so that what is left holds together by itself.
const CUT: &str = "WITH cut AS (
        DELETE FROM execution_event e USING event_stream s
        WHERE s.plan_id = $P AND e.plan_id = s.plan_id AND e.plan_version = s.plan_version
          AND e.sequence = s.last_sequence)
    UPDATE event_stream s SET last_sequence = e.sequence, last_hash = e.hash
    FROM execution_event e
    WHERE s.plan_id = $P AND e.plan_id = s.plan_id AND e.plan_version = s.plan_version
      AND e.sequence = s.last_sequence - 1";

/// Changes of what was sealed, `$P` standing for the plan's id, and words of the fault that names each.
const TAMPERED: &[(&[&str], &str)] = &[
    (&[CUT], "checkpoint 2 sealed the stream up to event"),
    (
        &["DELETE FROM execution_event WHERE plan_id = $P", "DELETE FROM event_stream WHERE plan_id = $P"],
        "the stream is gone; it was sealed by checkpoint 1, 2",
    ),
    (&["DELETE FROM audit_leaf WHERE plan_id = $P AND number = 2"], "1 leaves are there"),
    (
        &["UPDATE audit_leaf SET last_hash = sha256('x') WHERE plan_id = $P AND number = 2"],
        "its root is not that of its leaves",
    ),
    (
        &["UPDATE audit_leaf SET last_hash = sha256('x') WHERE plan_id = $P AND number = 2"],
        "is another than checkpoint 2 sealed",
    ),
    (
        &["UPDATE audit_leaf SET last_sequence = last_sequence - 1 WHERE plan_id = $P AND number = 2"],
        "is another than checkpoint 2 sealed",
    ),
    (
        &["UPDATE audit_checkpoint SET root = sha256('x') WHERE number = 1"],
        "checkpoint 1: its root is not that of its leaves",
    ),
    (
        &["UPDATE audit_checkpoint SET root = sha256('x') WHERE number = 1"],
        "the signature is not that of key 'log'",
    ),
    (
        &["UPDATE audit_checkpoint SET at = at - interval '1 s' WHERE number = 1"],
        "checkpoint 2: it is chained to",
    ),
    (&["UPDATE audit_checkpoint SET at = at + interval '1 h' WHERE number = 1"], "before the one before it"),
    (
        &["UPDATE audit_checkpoint SET origin = 'evil' WHERE number = 2"],
        "checkpoint 2: the signature is not that of key 'log'",
    ),
    (
        &["UPDATE audit_checkpoint SET origin = 'evil' WHERE number = 2"],
        "checkpoint 2: it is another than was announced",
    ),
    (
        &["UPDATE audit_checkpoint SET key_id = NULL, signature = NULL WHERE number = 2"],
        "checkpoint 2: it is not signed",
    ),
    (&["DELETE FROM audit_checkpoint WHERE number = 1"], "checkpoint 2: it follows checkpoint 0"),
    (
        &["DELETE FROM audit_checkpoint WHERE number = 2", "DELETE FROM audit_leaf WHERE number = 2"],
        "checkpoint 2 was announced, and is not there",
    ),
    (&["DELETE FROM audit_checkpoint WHERE number = 2"], "checkpoint 2 has leaves, and is not there"),
];

/// As the owner of the tables, who can switch the triggers off.
async fn tamper(db: &Db, plan: &Plan, changes: &[&str]) {
    let mut tx = db.sql.begin().await.unwrap();
    for table in SEALED {
        let off = format!("ALTER TABLE {table} DISABLE TRIGGER USER");
        sqlx::query(AssertSqlSafe(off)).execute(&mut *tx).await.unwrap();
    }
    for change in changes {
        let change = change.replace("$P", &format!("'{}'", plan.id()));
        let done = sqlx::query(AssertSqlSafe(change.clone())).execute(&mut *tx).await.unwrap();
        assert!(done.rows_affected() > 0, "nothing was changed by {change}");
    }
    for table in SEALED {
        let on = format!("ALTER TABLE {table} ENABLE TRIGGER USER");
        sqlx::query(AssertSqlSafe(on)).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// A plan whose stream two checkpoints seal, on a database of its own.
async fn sealed_twice(db: &Db) -> Plan {
    let plan = half_done(db).await;
    assert_eq!(seal(db, at(10)).await.len(), 1);
    db.go(&plan, plan.unit(1), done(5), at(11)).await;
    assert_eq!(seal(db, at(20)).await.len(), 1);
    let report = db.store.audit(None, &trust()).await.unwrap();
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_what_was_sealed_is_named_by_the_audit() {
    for (changes, words) in TAMPERED {
        with(async move |db| {
            let plan = sealed_twice(&db).await;
            tamper(&db, &plan, changes).await;
            let faults = db.store.audit(None, &trust()).await.unwrap().faults;
            assert!(
                faults.iter().any(|fault| fault.message.contains(words)),
                "{changes:?}: {words}: {faults:#?}"
            );
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_rewritten_with_its_checkpoints_is_named_by_a_checkpoint_that_is_held_elsewhere() {
    with(async |db| {
        let plan = sealed_twice(&db).await;
        let held = [db.store.checkpoint(Some(2)).await.unwrap().unwrap()];
        let sound = db.store.audit_against(&held, &trust()).await.unwrap();
        assert!(sound.faults.is_empty(), "{:#?}", sound.faults);
        // The last event goes, and with it everything that tells of it: what is left holds together by itself.
        let control = CUT.replace("$P", "'00000000-0000-0000-0000-000000000000'");
        let rewritten = [
            CUT,
            "DELETE FROM audit_checkpoint WHERE number = 2",
            "DELETE FROM audit_leaf WHERE number = 2",
            &control,
        ];
        tamper(&db, &plan, &rewritten).await;
        let told = |faults: &[dat_store::AuditFault]| -> Vec<String> {
            faults
                .iter()
                .map(|fault| fault.message.clone())
                .filter(|said| said.contains("checkpoint"))
                .collect()
        };
        let alone = db.store.audit(None, &trust()).await.unwrap();
        assert!(told(&alone.faults).is_empty(), "{:#?}", alone.faults);
        let against = db.store.audit_against(&held, &trust()).await.unwrap();
        assert_eq!(told(&against.faults), ["checkpoint 2 is held elsewhere, the chain ends at 1"]);
        // Another one of the same number, even by the key itself, is not the one that is held.
        half_done(&db).await;
        seal(&db, at(40)).await;
        let against = db.store.audit_against(&held, &trust()).await.unwrap();
        assert_eq!(
            told(&against.faults),
            ["checkpoint 2: it is another than the one that is held elsewhere"]
        );
    })
    .await;
}
