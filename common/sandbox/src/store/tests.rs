//! The store holds what the models decide: once, in order, and across a restart.

use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::mux::{ActionRequest, ActionStatus, ProbeStatus};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::mux::Moment;
use crate::mux::tests::request;
use crate::report::{LedgerLine, RequestStatus};

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

fn memory() -> Store {
    Store::open(None).expect("a store in memory").0
}

/// A file that is removed when the test ends.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        let file = Self(std::env::temp_dir().join(format!("dat-sandbox-{}-{name}.redb", std::process::id())));
        file.remove();
        file
    }

    fn remove(&self) {
        // Absent before the first use.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.remove();
    }
}

fn keyed(key: &str, told: Value) -> ActionRequest {
    ActionRequest { idempotency_key: key.to_owned(), ..request(told) }
}

async fn send(store: &Store, request: &ActionRequest) -> Option<ActionStatus> {
    let received = store.tick();
    let noted = request.clone();
    store.note(move |books| mux::receive(books, &noted, arrival(received))).await.expect("noted");
    settle(store, request, received).await
}

fn arrival(tick: u64) -> Moment {
    Moment { tick, at: now() }
}

async fn settle(store: &Store, request: &ActionRequest, received: u64) -> Option<ActionStatus> {
    let request = request.clone();
    let settled = store.write(move |books| mux::settle(books, &request, arrival(received), now())).await;
    settled.expect("settled").map(|reply| reply.status)
}

async fn probe(store: &Store, key: &'static str) -> ProbeStatus {
    store.write(move |books| mux::probe(books, key)).await.expect("probed").status
}

async fn summary(store: &Store) -> crate::report::MuxSummary {
    store.read(|books| mux::summary(books, Scope::default())).await.expect("a summary")
}

#[tokio::test]
async fn a_key_is_applied_once_and_replayed_ever_after() {
    let store = memory();
    for _ in 0..3 {
        assert_eq!(send(&store, &keyed("a", json!({"cost": 5}))).await, Some(ActionStatus::Ok));
    }
    let effects = store.read(|books| mux::effects(books, Scope::default())).await.expect("effects");
    assert!(matches!(&effects[..], [one] if one.applied == 1 && one.effect.cost == 5));
    let figures = summary(&store).await;
    assert_eq!((figures.effects, figures.replays, figures.requests, figures.max_in_flight), (1, 2, 3, 1));
}

#[tokio::test]
async fn an_error_is_evaluated_anew() {
    let store = memory();
    let mut failing = keyed("a", json!({"outcome": "error", "times": 1}));
    assert_eq!(send(&store, &failing).await, Some(ActionStatus::Error));
    failing.attempt = 2;
    assert_eq!(send(&store, &failing).await, Some(ActionStatus::Ok));
    assert_eq!(summary(&store).await.replays, 0);
}

#[tokio::test]
async fn a_probe_during_the_delay_seals() {
    let store = memory();
    let slow = keyed("a", json!({"delay_ms": 50}));
    let received = store.tick();
    assert_eq!(probe(&store, "a").await, ProbeStatus::Sealed);
    assert_eq!(settle(&store, &slow, received).await, Some(ActionStatus::Refused));
    assert_eq!(probe(&store, "a").await, ProbeStatus::Sealed);
    let figures = summary(&store).await;
    assert_eq!((figures.effects, figures.refused_sealed, figures.sealed, figures.probes), (0, 1, 1, 2));
}

#[tokio::test]
async fn an_undo_of_nothing_seals_the_forward_key() {
    let store = memory();
    let undo = ActionRequest { undo_of: Some("a".to_owned()), ..keyed("a/undo", json!({})) };
    assert_eq!(send(&store, &undo).await, Some(ActionStatus::Ok));
    assert_eq!(send(&store, &keyed("a", json!({}))).await, Some(ActionStatus::Refused));
    let figures = summary(&store).await;
    assert_eq!((figures.effects, figures.undos, figures.refused_sealed), (1, 1, 1));
}

#[tokio::test]
async fn what_is_late_is_counted_and_does_nothing() {
    let store = memory();
    let late = ActionRequest { not_after: now() - TimeDelta::milliseconds(1), ..keyed("a", json!({})) };
    assert_eq!(send(&store, &late).await, Some(ActionStatus::Refused));
    let figures = summary(&store).await;
    assert_eq!((figures.effects, figures.refused_late), (0, 1));
}

#[tokio::test]
async fn requests_in_flight_together_are_seen_together() {
    let store = memory();
    let (first, second) = (keyed("a", json!({})), keyed("b", json!({})));
    let both = [store.tick(), store.tick()];
    settle(&store, &first, both[0]).await;
    settle(&store, &second, both[1]).await;
    send(&store, &keyed("c", json!({}))).await;
    assert_eq!(summary(&store).await.max_in_flight, 2);
}

#[tokio::test]
async fn a_file_keeps_effects_seals_and_the_sequence() {
    let file = File::new("restart");
    let (store, writer) = Store::open(Some(file.0.clone())).expect("a store");
    send(&store, &keyed("done", json!({"cost": 5}))).await;
    probe(&store, "sealed").await;
    let stuck = keyed("stuck", json!({}));
    let received = store.tick();
    store.note(move |books| mux::receive(books, &stuck, arrival(received))).await.expect("noted");
    drop(store);
    writer.await.expect("ended").expect("without error");

    let (store, _writer) = Store::open(Some(file.0.clone())).expect("the same store");
    assert!(store.tick() > received);
    assert_eq!(send(&store, &keyed("done", json!({"cost": 9}))).await, Some(ActionStatus::Ok));
    assert_eq!(send(&store, &keyed("sealed", json!({}))).await, Some(ActionStatus::Refused));
    let figures = summary(&store).await;
    assert_eq!((figures.effects, figures.replays, figures.refused_sealed), (1, 1, 1));
    assert_eq!(figures.by_status.get(&RequestStatus::Interrupted), Some(&1));
}

async fn tell(store: &Store, sequence: &str, kind: &str, amount: i64) {
    let envelope = serde_json::from_value(json!({
        "id": format!("p/1/{sequence}"), "type": kind, "sequence": sequence,
        "data": {"plan_id": Uuid::max(), "plan_version": 1, "tenant": "acme", "amount": amount, "currency": "usd"}
    }))
    .expect("an event");
    store.write(|books| events::receive(books, &events::FLO, envelope)).await.expect("received");
}

#[tokio::test]
async fn flo_books_each_event_once_and_sees_what_is_misplaced() {
    let store = memory();
    for (sequence, kind, amount) in [
        ("9", "dat.spend.incurred", 70),
        ("10", "dat.refund.issued", 30),
        ("9", "dat.spend.incurred", 70),
        ("11", "dat.spend.released", 5),
        ("8", "dat.spend.reserved", 75),
    ] {
        tell(&store, sequence, kind, amount).await;
    }
    let lines = store.read(|books| events::ledger(books, Scope::default())).await.expect("a ledger");
    assert!(matches!(
        &lines[..],
        [LedgerLine { net: 40, incurred: 70, refunded: 30, released: 5, reserved: 75, .. }]
    ));
    let figures = store.read(|books| events::summary(books, &events::FLO)).await.expect("a summary");
    assert_eq!((figures.events, figures.duplicates, figures.out_of_order), (4, 1, 1));
    assert!(matches!(&figures.misplaced[..], [one] if one.sequence == 8 && one.after == 11));
    assert_eq!(figures.by_type.get("dat.refund.issued"), Some(&1));
}
