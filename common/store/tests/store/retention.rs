//! Retention: a month of the log goes when everything of it is over, archived, published and sealed, and not before; the
//! checkpoints stay, and what was exported proves itself against them.

use chrono::{DateTime, NaiveDate, Utc};
use dat_plan::signing::{KeyRing, Trust};
use dat_plan::{PlanKey, PlanState};
use dat_store::{LateAnswer, LogMonth, StoreError};

use crate::checkpoints::seal;
use crate::database::{Db, at, with};
use crate::plans::{Plan, done, plan, step};
use crate::seals::key;

/// The month of [`at`].
fn march() -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 3, 1).unwrap()
}

/// Long after it.
fn later() -> DateTime<Utc> {
    at(60 * 24 * 3_600)
}

fn trust() -> Trust {
    Trust { checkpoints: KeyRing::new([key("log").trusted()]).unwrap(), ..Trust::default() }
}

/// A plan with one step, which runs.
async fn begun(db: &Db) -> (Plan, dat_store::Claimed) {
    let plan = plan("acme", 100, vec![step("a", &[], 10, 1)]);
    db.start(&plan, at(0)).await;
    let claimed = db.take(&plan, plan.unit(0), at(1)).await;
    (plan, claimed)
}

async fn month(db: &Db) -> LogMonth {
    let mut months = db.store.log_months(later()).await.unwrap();
    assert_eq!(months.len(), 1, "{months:?}");
    months.remove(0)
}

async fn refused(db: &Db) -> bool {
    matches!(db.store.detach_month(march(), 0, later()).await, Err(StoreError::Data(_)))
}

async fn publish(db: &Db) {
    db.run("UPDATE event_stream SET relayed = last_sequence".to_owned()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_is_detached_when_all_of_it_is_over_archived_published_and_sealed_and_stays_proved() {
    with(async |db| {
        db.store.ensure_partitions(at(0)).await.unwrap();
        let (ended, claimed) = begun(&db).await;
        db.settle(&ended, &claimed.lease, done(5), at(2)).await;
        let (open, running) = begun(&db).await;
        let seen = month(&db).await;
        assert_eq!((seen.first, seen.plans, seen.open, seen.ended), (march(), 2, 1, 1));
        assert_eq!(seen.blocker().as_deref(), Some("1 plan has not ended"));
        assert!(refused(&db).await);
        db.settle(&open, &running.lease, done(5), at(3)).await;
        // Over, but not long enough ago; and not a month that is over at all.
        let soon = db.store.log_months(at(31 * 24 * 3_600)).await.unwrap();
        assert_eq!(soon.len(), 1);
        assert_eq!(db.store.log_months(at(4)).await.unwrap(), []);
        assert_eq!(month(&db).await.blocker(), None);
        assert!(refused(&db).await);
        let plans = db.store.plans_of_month(march(), None, 1).await.unwrap();
        let rest = db.store.plans_of_month(march(), plans.last().copied(), 9).await.unwrap();
        let all: Vec<PlanKey> = plans.into_iter().chain(rest).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(db.store.archive_plans(&all, "old", at(10)).await.unwrap(), 2);
        assert_eq!(db.store.archive_plans(&all, "old", at(11)).await.unwrap(), 0);
        assert_eq!(db.plan_state(&ended).await, PlanState::Archived);
        assert!(refused(&db).await);
        seal(&db, at(12)).await;
        assert!(!month(&db).await.is_settled());
        assert!(refused(&db).await);
        publish(&db).await;
        assert!(month(&db).await.is_settled());
        // An answer that comes now is told by its attempt alone: the stream is closed.
        let late = LateAnswer { lease: claimed.lease, finding: done(9) };
        assert_eq!(db.store.note_late(&[late], at(13)).await.unwrap(), 0);
        assert_eq!(db.number("SELECT count(*) FROM step_attempt WHERE late_at IS NOT NULL").await, 1);
        assert!(month(&db).await.is_settled());
        let export = db.store.exporter().export(ended.key(), at(13)).await.unwrap().unwrap();
        assert!(export.verify(&trust()).unwrap().faults.is_empty());
        // One that nobody exported: it stays.
        let events = db.number("SELECT count(*) FROM execution_event_2026_03").await;
        assert!(events > 10, "{events} events");
        assert!(!db.store.detach_month(march(), events - 1, at(14)).await.unwrap());
        assert!(month(&db).await.is_settled());
        assert!(db.store.detach_month(march(), events, at(14)).await.unwrap());
        assert_eq!(db.store.log_months(later()).await.unwrap(), []);

        // The log is without it, and everything is proved as before.
        let report = db.store.audit(None, &trust()).await.unwrap();
        assert!(report.faults.is_empty(), "{:#?}", report.faults);
        assert_eq!(report.archived, 2);
        let proved = export.verify(&trust()).unwrap();
        assert!(proved.faults.is_empty(), "{:#?}", proved.faults);
        assert_eq!(proved.sealed.unsigned_abs(), proved.events);
        assert_eq!(db.store.exporter().export(ended.key(), at(15)).await.unwrap().unwrap().events, []);
        // Its table is there, and as closed as the log.
        assert_eq!(db.number("SELECT count(*) FROM execution_event_2026_03").await, events);
        let deleted = sqlx::query("DELETE FROM execution_event_2026_03").execute(&db.sql).await;
        assert!(deleted.is_err());
        // What it ended with is held by the checkpoints.
        let forged = format!(
            "UPDATE event_stream SET last_sequence = last_sequence + 1 WHERE plan_id = '{}'",
            open.id()
        );
        db.run(forged).await;
        let faults = db.store.audit(None, &trust()).await.unwrap().faults;
        assert!(
            faults
                .iter()
                .any(|fault| fault.plan == open.key() && fault.message.contains("it was archived up to"))
        );
    })
    .await;
}
