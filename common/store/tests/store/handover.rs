//! From a transaction to its own process's relay: once it is committed, claimed, and never the only way.

use chrono::TimeDelta;
use dat_plan::PlanKey;
use dat_store::{ControlScope, Progress, RelayPort, Store, Written};
use tokio::sync::mpsc::Receiver;
use uuid::Uuid;

use crate::database::{Db, at, with};

const LEASE: TimeDelta = TimeDelta::seconds(5);
const STREAM: &str = "SELECT max(last_sequence) - max(relayed) FROM event_stream";

/// A process with a relay of its own.
fn process(db: &Db, owner: u128) -> (Store, Receiver<Written>) {
    let (port, written) = RelayPort::new(Uuid::from_u128(owner), LEASE);
    (db.store.clone().relayed_by(port), written)
}

/// Writes one event, to the control stream.
async fn write(store: &Store, now: i64) {
    let paused = now % 2 == 0;
    store.control(&ControlScope::Fleet, paused, "ann", "a test", at(now)).await.unwrap();
}

fn places(written: &Written) -> Vec<i64> {
    written.streams.iter().flat_map(|stream| stream.events.iter().map(|event| event.sequence)).collect()
}

async fn due(db: &Db) -> i64 {
    db.number("SELECT count(*) FROM relay_due").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_handed_over_claimed_and_no_longer_due_once_it_is_recorded() {
    with(async |db| {
        let (store, mut written) = process(&db, 1);
        write(&store, 0).await;
        let first = written.try_recv().unwrap();
        assert_eq!(places(&first), [1]);
        // What comes while it is held goes the same way, under the same claim.
        write(&store, 1).await;
        let second = written.try_recv().unwrap();
        assert_eq!((places(&second), second.streams[0].epoch), (vec![2], first.streams[0].epoch));
        assert!(db.store.claim_streams(10, 10, LEASE, at(4)).await.unwrap().is_empty(), "it is held");
        assert_eq!(due(&db).await, 2);
        let progress = Progress::kept(PlanKey::CONTROL, second.streams[0].epoch, 2, at(9));
        let done: Vec<i64> = [first.due, second.due].into_iter().flatten().collect();
        let recorded = store.record_relayed(&[progress], &done).await.unwrap();
        assert_eq!((recorded.len(), recorded[0].relayed, recorded[0].last_sequence), (1, 2, 2));
        assert_eq!((due(&db).await, db.number(STREAM).await), (0, 0));
        // Published to its end: nobody holds it, and the next to write does.
        let (other, mut others) = process(&db, 2);
        write(&other, 2).await;
        assert!(others.try_recv().unwrap().streams[0].epoch > second.streams[0].epoch);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_writes_to_a_held_stream_is_the_holders_to_publish() {
    with(async |db| {
        let (store, mut written) = process(&db, 1);
        let (other, mut others) = process(&db, 2);
        write(&store, 0).await;
        let held = written.try_recv().unwrap();
        write(&other, 1).await;
        assert!(others.try_recv().is_err(), "it is held by the first");
        let progress = Progress::kept(PlanKey::CONTROL, held.streams[0].epoch, 1, at(9));
        let recorded = store.record_relayed(&[progress], &[]).await.unwrap();
        assert_eq!((recorded[0].relayed, recorded[0].last_sequence), (1, 2));
        let read = store.read_streams(&[(PlanKey::CONTROL, 1)], 10).await.unwrap();
        assert_eq!(read.iter().map(|event| event.sequence).collect::<Vec<_>>(), [2]);
        // It holds on to it meanwhile, and gives it back with the rest still to be published.
        assert!(db.store.claim_streams(10, 10, LEASE, at(8)).await.unwrap().is_empty());
        let progress = Progress::given_back(PlanKey::CONTROL, held.streams[0].epoch, 1, at(8));
        store.record_relayed(&[progress], &[]).await.unwrap();
        let claimed = db.store.claim_streams(10, 10, LEASE, at(8)).await.unwrap();
        assert_eq!(claimed[0].events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [2]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_process_held_is_found_when_its_claim_has_run_out() {
    with(async |db| {
        let (store, written) = process(&db, 1);
        drop(written);
        write(&store, 0).await;
        assert!(db.store.claim_streams(10, 10, LEASE, at(4)).await.unwrap().is_empty());
        let claimed = db.store.claim_streams(10, 10, LEASE, at(5)).await.unwrap();
        assert_eq!((claimed.len(), claimed[0].events.len()), (1, 1));
        // And by whoever writes next in that process, which no longer holds it.
        write(&store, 7).await;
        assert_eq!(db.number(STREAM).await, 2);
        let progress: Vec<Progress> = claimed.into_iter().map(|stream| stream.confirmed(1, at(8))).collect();
        db.store.record_relayed(&progress, &[]).await.unwrap();
        let claimed = db.store.claim_streams(10, 10, LEASE, at(8)).await.unwrap();
        assert_eq!(claimed[0].events[0].sequence, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_without_a_relay_writes_is_due_at_once() {
    with(async |db| {
        write(&db.store, 0).await;
        let claimed = db.store.claim_streams(10, 10, LEASE, at(0)).await.unwrap();
        let progress: Vec<Progress> = claimed.into_iter().map(|stream| stream.confirmed(1, at(1))).collect();
        db.store.record_relayed(&progress, &[]).await.unwrap();
        // Its row goes when it is next looked at, after the claim that it was for.
        assert!(db.store.claim_streams(10, 10, LEASE, at(5)).await.unwrap().is_empty());
        assert_eq!(due(&db).await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_due_by_no_row_is_found_by_a_look_at_all() {
    with(async |db| {
        write(&db.store, 0).await;
        sqlx::query("DELETE FROM relay_due").execute(&db.sql).await.unwrap();
        assert!(db.store.claim_streams(10, 10, LEASE, at(1)).await.unwrap().is_empty());
        assert_eq!(db.store.find_strays(at(1)).await.unwrap(), 1);
        assert_eq!(db.store.find_strays(at(1)).await.unwrap(), 0, "once");
        assert_eq!(db.store.claim_streams(10, 10, LEASE, at(1)).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_have_grown_are_analysed() {
    with(async |db| {
        assert_eq!(db.store.refresh_statistics().await.unwrap(), 0);
        let grown = "INSERT INTO plan_owner (plan_id, tenant)
                     SELECT gen_random_uuid(), 'acme' FROM generate_series(1, 1000)";
        // What a connection did is counted when it is idle: asked for here.
        let mut connection = db.sql.acquire().await.unwrap();
        sqlx::query(grown).execute(&mut *connection).await.unwrap();
        sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
        while db.store.refresh_statistics().await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
        let rows = "SELECT reltuples::bigint FROM pg_class WHERE relname = 'plan_owner'";
        assert_eq!(db.number(rows).await, 1000);
    })
    .await;
}
