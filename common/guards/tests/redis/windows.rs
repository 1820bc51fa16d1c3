//! Token windows: all levels or none, once for each reservation, closed until rebuilt.

use chrono::{DateTime, TimeDelta, Utc};
use dat_guards::{
    Period, RuntimeStore, TokenWindow, TokenWindows, WindowAnswer, WindowAnswers, WindowEntry, WindowRequest,
};

use crate::server::Server;
use crate::{TIMEOUT, shared_url, store};

/// Runs a test whose windows last an hour; again, where the hour turned while it ran.
async fn within_an_hour<T: Future<Output = ()> + Send + 'static>(test: impl Fn() -> T) {
    let hour = async || redis_time(&shared_url()).await.timestamp() / 3_600;
    loop {
        let before = hour().await;
        match tokio::spawn(test()).await {
            Ok(()) => return,
            Err(failed) if hour().await == before => std::panic::resume_unwind(failed.into_panic()),
            Err(_) => {}
        }
    }
}

fn window(connector: Option<&str>, limit: i64) -> TokenWindow {
    TokenWindow {
        tenant: Some("acme".to_owned()),
        connector: connector.map(str::to_owned),
        action: None,
        period: Period::Hour,
        limit,
    }
}

async fn open(store: RuntimeStore) -> TokenWindows {
    let windows = TokenWindows::new(store, "w0");
    assert!(windows.rebuild(1, &[]).await.unwrap());
    windows
}

async fn reserve(windows: &TokenWindows, id: &str, amount: i64, at: &[&TokenWindow]) -> WindowAnswer {
    let request = WindowRequest { reservation: id, amount, windows: at };
    windows.reserve(&[request]).await.unwrap().answers[0]
}

fn is_full(answer: WindowAnswer) -> bool {
    matches!(answer, WindowAnswer::Full(_))
}

#[tokio::test]
async fn a_full_window_refuses_until_it_turns() {
    within_an_hour(|| async {
        let windows = open(store()).await;
        let hour = window(None, 100);
        assert_eq!(reserve(&windows, "a", 60, &[&hour]).await, WindowAnswer::Reserved);
        let WindowAnswer::Full(turn) = reserve(&windows, "b", 41, &[&hour]).await else {
            panic!("over the limit")
        };
        assert_eq!(turn.timestamp() % 3_600, 0, "{turn}");
        assert_eq!(reserve(&windows, "c", 40, &[&hour]).await, WindowAnswer::Reserved);
        assert_eq!(reserve(&windows, "d", 101, &[&hour]).await, WindowAnswer::TooLarge { limit: 100 });
        assert_eq!(reserve(&windows, "e", 1_000, &[]).await, WindowAnswer::Reserved, "no window counts it");
    })
    .await;
}

#[tokio::test]
async fn a_reservation_counts_once_however_often_it_is_made_settled_or_released() {
    within_an_hour(|| async {
        let windows = open(store()).await;
        let hour = window(None, 100);
        for _ in 0..3 {
            assert_eq!(reserve(&windows, "a", 60, &[&hour]).await, WindowAnswer::Reserved);
        }
        for _ in 0..3 {
            windows.settle(&[("a", 10), ("never-reserved", 50)]).await.unwrap();
        }
        assert_eq!(
            reserve(&windows, "a", 60, &[&hour]).await,
            WindowAnswer::Reserved,
            "settled is reserved already"
        );
        assert!(is_full(reserve(&windows, "b", 91, &[&hour]).await));
        assert_eq!(reserve(&windows, "b", 90, &[&hour]).await, WindowAnswer::Reserved);
        for _ in 0..3 {
            windows.release(&["b"]).await.unwrap();
        }
        assert!(is_full(reserve(&windows, "c", 91, &[&hour]).await));
        assert_eq!(
            reserve(&windows, "b", 90, &[&hour]).await,
            WindowAnswer::Reserved,
            "released may reserve again"
        );
        windows.settle(&[("b", 500)]).await.unwrap();
        assert!(is_full(reserve(&windows, "d", 1, &[&hour]).await), "an overrun counts");
    })
    .await;
}

#[tokio::test]
async fn concurrent_reservers_hold_every_level_or_none() {
    within_an_hour(|| async {
        let windows = open(store()).await;
        let (wide, narrow) = (window(None, 100), window(Some("mux"), 30));
        let reservers = (0..40).map(|n| {
            let (windows, wide, narrow) = (windows.clone(), wide.clone(), narrow.clone());
            tokio::spawn(async move { reserve(&windows, &format!("r{n}"), 10, &[&wide, &narrow]).await })
        });
        let mut reserved = 0;
        for reserver in reservers {
            reserved += usize::from(reserver.await.unwrap() == WindowAnswer::Reserved);
        }
        assert_eq!(reserved, 3, "as many as the narrow one holds");
        assert_eq!(
            reserve(&windows, "rest", 70, &[&wide]).await,
            WindowAnswer::Reserved,
            "the refused held nothing"
        );
        assert!(is_full(reserve(&windows, "more", 1, &[&wide]).await));
    })
    .await;
}

#[tokio::test]
async fn a_batch_is_served_in_its_order() {
    within_an_hour(|| async {
        let windows = open(store()).await;
        let (hour, other) = (window(None, 100), window(Some("http"), 5));
        let levels = [&hour];
        let both = [&hour, &other];
        let requests =
            [("a", 60, &levels[..]), ("b", 6, &both[..]), ("c", 50, &levels[..]), ("d", 40, &levels[..])]
                .map(|(reservation, amount, windows)| WindowRequest { reservation, amount, windows });
        let WindowAnswers { era, answers } = windows.reserve(&requests).await.unwrap();
        assert_eq!(era, Some(1));
        assert_eq!(answers[0], WindowAnswer::Reserved);
        assert_eq!(answers[1], WindowAnswer::TooLarge { limit: 5 });
        assert!(is_full(answers[2]));
        assert_eq!(answers[3], WindowAnswer::Reserved);
    })
    .await;
}

#[tokio::test]
async fn what_was_lost_stays_closed_until_it_is_rebuilt_from_the_ledger() {
    within_an_hour(|| async {
        let server = Server::start_anywhere().await;
        let store = server.store(TIMEOUT);
        let windows = open(store).await;
        let hour = window(None, 100);
        assert_eq!(reserve(&windows, "a", 60, &[&hour]).await, WindowAnswer::Reserved);
        server.flush().await;
        assert_eq!(reserve(&windows, "b", 1, &[&hour]).await, WindowAnswer::Lost);
        assert_eq!(reserve(&windows, "a", 60, &[&hour]).await, WindowAnswer::Lost);

        let now = redis_time(&server.url()).await;
        let entry = |reservation: &str, amount, settled| WindowEntry {
            windows: vec![hour.at(now)],
            reservation: reservation.to_owned(),
            amount,
            settled,
        };
        assert!(windows.rebuild(2, &[entry("a", 60, false), entry("s", 15, true)]).await.unwrap());
        assert!(!windows.rebuild(2, &[entry("a", 60, false)]).await.unwrap(), "somebody was first");
        assert!(!windows.rebuild(1, &[]).await.unwrap(), "a worker that was slow");
        assert_eq!(windows.era().await.unwrap(), Some(2));
        assert_eq!(reserve(&windows, "a", 60, &[&hour]).await, WindowAnswer::Reserved, "it is known again");
        windows.settle(&[("s", 0)]).await.unwrap();
        assert!(is_full(reserve(&windows, "c", 26, &[&hour]).await));
        assert_eq!(reserve(&windows, "c", 25, &[&hour]).await, WindowAnswer::Reserved);
        windows.settle(&[("a", 0)]).await.unwrap();
        assert_eq!(
            reserve(&windows, "d", 60, &[&hour]).await,
            WindowAnswer::Reserved,
            "settled in its window"
        );
    })
    .await;
}

#[tokio::test]
async fn a_reservation_that_two_workers_made_stays_until_both_took_it_back() {
    within_an_hour(|| async {
        let store = store();
        let (one, two) = (open(store.clone()).await, TokenWindows::new(store, "w1"));
        let hour = window(None, 100);
        for worker in [&one, &two, &one] {
            assert_eq!(reserve(worker, "a", 60, &[&hour]).await, WindowAnswer::Reserved);
        }
        assert_eq!(one.release(&["a"]).await.unwrap(), 0, "the other one may have claimed it");
        assert!(is_full(reserve(&one, "b", 41, &[&hour]).await));
        assert_eq!(two.release(&["a"]).await.unwrap(), 1);
        assert_eq!(reserve(&one, "b", 100, &[&hour]).await, WindowAnswer::Reserved);
        assert_eq!(two.take_back(&["b"]).await.unwrap(), 1, "whoever made it");
        assert_eq!(reserve(&one, "c", 100, &[&hour]).await, WindowAnswer::Reserved);
    })
    .await;
}

#[tokio::test]
async fn what_a_stale_worker_sends_changes_nothing_of_a_new_era() {
    within_an_hour(|| async {
        let server = Server::start_anywhere().await;
        let windows = open(server.store(TIMEOUT)).await;
        let hour = window(None, 100);
        assert_eq!(reserve(&windows, "a", 60, &[&hour]).await, WindowAnswer::Reserved);
        assert_eq!(reserve(&windows, "b", 40, &[&hour]).await, WindowAnswer::Reserved);
        let now = redis_time(&server.url()).await;
        // Without a flush: what the old era left lies there still. The ledger knows of a alone.
        let entry = WindowEntry {
            windows: vec![hour.at(now)],
            reservation: "a".to_owned(),
            amount: 60,
            settled: false,
        };
        assert!(windows.rebuild(2, &[entry]).await.unwrap());
        assert_eq!(windows.release(&["a", "b"]).await.unwrap(), 0, "a is the ledger's, b is of no era");
        assert_eq!(windows.settle(&[("b", 0)]).await.unwrap(), 0);
        assert!(is_full(reserve(&windows, "c", 41, &[&hour]).await));
        assert_eq!(reserve(&windows, "c", 40, &[&hour]).await, WindowAnswer::Reserved);
        assert_eq!(windows.settle(&[("a", 10)]).await.unwrap(), 1);
        assert_eq!(reserve(&windows, "d", 50, &[&hour]).await, WindowAnswer::Reserved);
    })
    .await;
}

/// A server that took over, or was started again with data from before: what it lacks nobody can tell.
#[tokio::test]
async fn a_marker_of_another_server_process_does_not_hold() {
    let server = Server::start_anywhere().await;
    let windows = open(server.store(TIMEOUT)).await;
    assert_eq!(windows.era().await.unwrap(), Some(1));
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let marker: String = redis::cmd("GET").arg("t:windows").query_async(&mut connection).await.unwrap();
    let (era, process) = marker.split_once(' ').unwrap();
    let other: String = process.chars().rev().collect();
    redis::cmd("SET")
        .arg("t:windows")
        .arg(format!("{era} {other}"))
        .exec_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(windows.era().await.unwrap(), None);
    let hour = window(None, 100);
    assert_eq!(reserve(&windows, "a", 1, &[&hour]).await, WindowAnswer::Lost);
    assert!(windows.rebuild(2, &[]).await.unwrap());
    assert_eq!(reserve(&windows, "a", 1, &[&hour]).await, WindowAnswer::Reserved);
}

#[tokio::test]
async fn what_is_open_is_found_again_and_windows_say_what_they_count() {
    within_an_hour(|| async {
        let windows = open(store()).await;
        let (hour, other) = (window(None, 100), window(Some("mux"), 100));
        assert_eq!(reserve(&windows, "a", 30, &[&hour, &other]).await, WindowAnswer::Reserved);
        assert_eq!(reserve(&windows, "b", 20, &[&hour]).await, WindowAnswer::Reserved);
        windows.settle(&[("b", 15)]).await.unwrap();
        let count = async || -> Vec<(i64, Option<i64>)> {
            let counts = windows.counts(&[hour.clone(), other.clone()]).await.unwrap().unwrap();
            assert_eq!(counts.era, 1);
            counts.windows.iter().map(|count| (count.counted, count.held)).collect()
        };
        assert_eq!(count().await, [(45, Some(30)), (30, Some(30))]);
        assert_eq!(windows.open_since(TIMEOUT, 10).await.unwrap(), [""; 0], "none is so old");
        assert_eq!(windows.open_since(std::time::Duration::ZERO, 10).await.unwrap(), ["a"]);
        windows.take_back(&["a"]).await.unwrap();
        assert_eq!(windows.open_since(std::time::Duration::ZERO, 10).await.unwrap(), [""; 0]);
        assert_eq!(count().await, [(15, Some(0)), (0, Some(0))]);
    })
    .await;
}

#[test]
fn a_window_counts_what_it_selects_and_turns_with_the_clock() {
    let mux = window(Some("mux"), 1);
    assert!(
        mux.counts("acme", "mux", "any")
            && !mux.counts("acme", "http", "any")
            && !mux.counts("b", "mux", "any")
    );
    let turn = DateTime::UNIX_EPOCH + TimeDelta::hours(7);
    assert_eq!(mux.at(turn), mux.at(turn + TimeDelta::minutes(59)));
    assert_ne!(mux.at(turn), mux.at(turn - TimeDelta::milliseconds(1)));
}

async fn redis_time(url: &str) -> DateTime<Utc> {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let (seconds, _): (i64, i64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
    DateTime::from_timestamp(seconds, 0).unwrap()
}
