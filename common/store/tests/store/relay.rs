//! The relay: each stream in order, from where it was confirmed, by one relay at a time.

use chrono::TimeDelta;
use dat_plan::PlanKey;
use dat_store::ClaimedStream;

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, plan, step};

const LEASE: TimeDelta = TimeDelta::seconds(30);

/// A plan with events up to its completion, the only stream that is behind.
async fn completed(db: &Db) -> Plan {
    let plan = plan("acme", 100, vec![step("a", &[], 10, 1), step("b", &["a"], 10, 1)]);
    db.start(&plan, at(0)).await;
    db.go(&plan, plan.unit(0), done(5), at(1)).await;
    db.go(&plan, plan.unit(1), done(5), at(2)).await;
    plan
}

async fn claim(db: &Db, events: i64, now: i64) -> Option<ClaimedStream> {
    let mut streams = db.store.claim_streams(10, events, LEASE, at(now)).await.unwrap();
    assert!(streams.len() <= 1);
    streams.pop()
}

fn places(stream: &ClaimedStream) -> Vec<i64> {
    stream.events.iter().map(|event| event.sequence).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_in_order_without_a_gap_from_where_it_was_confirmed() {
    with(async |db| {
        let plan = completed(&db).await;
        let total = db.number("SELECT count(*) FROM execution_event").await;
        let mut read = Vec::new();
        // The broker confirms two of three each time, and none at the second.
        let mut now = 10;
        while let Some(stream) = claim(&db, 3, now).await {
            assert_eq!(stream.plan, plan.key());
            assert!(!stream.traceparent.is_empty());
            let confirmed = if now == 11 { 0 } else { stream.events.len().min(2) };
            read.extend(places(&stream).into_iter().take(confirmed));
            let again = at(now + 1);
            assert_eq!(
                db.store.record_relayed(&[stream.confirmed(confirmed, again)], &[]).await.unwrap().len(),
                1
            );
            now += 1;
        }
        assert_eq!(read, (1..=total).collect::<Vec<_>>());
        assert_eq!(db.store.relay_lag().await.unwrap().0, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_excludes_others_until_it_runs_out() {
    with(async |db| {
        completed(&db).await;
        let first = claim(&db, 3, 10).await.unwrap();
        assert!(claim(&db, 3, 39).await.is_none());
        // The relay died: another goes on from what was recorded.
        let second = claim(&db, 3, 40).await.unwrap();
        assert_eq!(places(&second), places(&first));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_claim_was_taken_over_records_nothing() {
    with(async |db| {
        completed(&db).await;
        let late = claim(&db, 3, 10).await.unwrap();
        let next = claim(&db, 2, 40).await.unwrap();
        let before = db.dump().await;
        assert_eq!(
            db.store.record_relayed(&[late.clone().confirmed(3, at(41))], &[]).await.unwrap().len(),
            0
        );
        assert_eq!(db.dump().await, before);
        assert_eq!(db.store.record_relayed(&[next.confirmed(2, at(42))], &[]).await.unwrap().len(), 1);
        assert_eq!(db.store.record_relayed(&[late.confirmed(1, at(43))], &[]).await.unwrap().len(), 0);
        assert_eq!(places(&claim(&db, 2, 44).await.unwrap()), [3, 4]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_only_goes_forwards() {
    with(async |db| {
        completed(&db).await;
        let stream = claim(&db, 5, 10).await.unwrap();
        let relayed = "SELECT max(relayed) FROM event_stream";
        db.store.record_relayed(&[stream.clone().confirmed(4, at(11))], &[]).await.unwrap();
        assert_eq!(db.number(relayed).await, 4);
        // The same claim again, with less: a record that was repeated, or came late.
        db.store.record_relayed(&[stream.clone().confirmed(1, at(11))], &[]).await.unwrap();
        db.store.record_relayed(&[stream.confirmed(0, at(11))], &[]).await.unwrap();
        assert_eq!(db.number(relayed).await, 4);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_stream_is_relayed_like_any_other() {
    with(async |db| {
        let fleet = dat_store::ControlScope::Fleet;
        db.store.control(&fleet, true, "ann", "stop", at(0)).await.unwrap();
        let stream = claim(&db, 5, 10).await.unwrap();
        assert_eq!((stream.plan, stream.events.len()), (PlanKey::CONTROL, 1));
        assert_eq!(stream.events[0].kind, "control.pause");
    })
    .await;
}
