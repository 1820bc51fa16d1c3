//! Token windows: all levels or none, once for each reservation, closed until rebuilt.

use chrono::{DateTime, TimeDelta, Utc};
use dat_guards::{Period, RuntimeStore, TokenWindow, TokenWindows, WindowAnswer, WindowEntry, WindowRequest};

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
    let windows = TokenWindows::new(store);
    assert!(windows.rebuild(&[]).await.unwrap());
    windows
}

async fn reserve(windows: &TokenWindows, id: &str, amount: i64, at: &[&TokenWindow]) -> WindowAnswer {
    let request = WindowRequest { reservation: id, amount, windows: at };
    windows.reserve(&[request]).await.unwrap()[0]
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
        let answers = windows.reserve(&requests).await.unwrap();
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
            window: hour.at(now),
            reservation: reservation.to_owned(),
            amount,
            settled,
        };
        assert!(windows.rebuild(&[entry("a", 60, false), entry("s", 15, true)]).await.unwrap());
        assert!(!windows.rebuild(&[entry("a", 60, false)]).await.unwrap(), "somebody was first");
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
