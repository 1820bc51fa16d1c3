//! Breakers: what a fleet of several workers is told, on a real Redis. Times are so long that none passes in a test, or so
//! short that each is waited for by asking.

use std::time::Duration;

use dat_guards::{BadBreaker, BreakerRequest, BreakerRule, Breakers, Health, Moved, Passage};

use crate::server::Server;
use crate::{TIMEOUT, shared_url, store};

const LONG: Duration = Duration::from_mins(10);
const SHORT: Duration = Duration::from_millis(30);

fn rule(failures: u32, pause: Duration) -> BreakerRule {
    BreakerRule::new(failures, LONG, pause).unwrap()
}

fn request(id: &str, rule: BreakerRule) -> BreakerRequest<'_> {
    BreakerRequest { connector: "mux", request: id, lifetime: LONG, rule }
}

async fn ask(breakers: &Breakers, id: &str, rule: BreakerRule) -> Passage {
    breakers.ask(&[request(id, rule)]).await.unwrap()[0]
}

/// Opens the breaker of `mux`.
async fn open(breakers: &Breakers, rule: BreakerRule) {
    assert_eq!(breakers.report(&request("f0", rule), Health::Ill).await, Ok(Moved::Opened));
}

/// Waits until the server's clock, by which breakers go, has gone on by so long.
async fn clock_goes_on(by: Duration) {
    let client = redis::Client::open(shared_url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut time = async || {
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    let until = time().await + by;
    while time().await <= until {
        tokio::task::yield_now().await;
    }
}

/// Asks until the pause is over and this request is the one that tries.
async fn try_alone(breakers: &Breakers, id: &str, rule: BreakerRule) {
    let asked = async {
        while ask(breakers, id, rule).await != Passage::Trial {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, asked).await.expect("the pause ends");
}

#[tokio::test]
async fn a_breaker_opens_for_the_whole_fleet_after_so_many_failures_and_counts_each_request_once() {
    let store = store();
    let (here, there) = (Breakers::new(store.clone(), "w1"), Breakers::new(store, "w2"));
    let rule = rule(3, LONG);
    for id in ["a", "b", "b", "a"] {
        assert_eq!(here.report(&request(id, rule), Health::Ill).await, Ok(Moved::No));
    }
    assert_eq!(here.report(&request("c", rule), Health::Well).await, Ok(Moved::No));
    assert_eq!(ask(&there, "x", rule).await, Passage::Closed);
    assert_eq!(there.report(&request("d", rule), Health::Ill).await, Ok(Moved::Opened));
    for breakers in [&here, &there] {
        assert!(matches!(ask(breakers, "x", rule).await, Passage::Open(_)));
    }
    // What was sent before it opened moves it no more.
    assert_eq!(here.report(&request("e", rule), Health::Ill).await, Ok(Moved::No));
    assert_eq!(here.report(&request("c", rule), Health::Well).await, Ok(Moved::No));
    assert!(matches!(ask(&here, "x", rule).await, Passage::Open(_)));
    let other = BreakerRequest { connector: "http", ..request("x", rule) };
    assert_eq!(here.ask(&[other]).await, Ok(vec![Passage::Closed]), "another connector's is closed");
}

#[tokio::test]
async fn failures_outside_of_the_window_do_not_count() {
    let breakers = Breakers::new(store(), "w1");
    let rule = BreakerRule::new(2, SHORT, LONG).unwrap();
    assert_eq!(breakers.report(&request("a", rule), Health::Ill).await, Ok(Moved::No));
    // Whoever comes after the window finds the first forgotten.
    clock_goes_on(SHORT + Duration::from_millis(1)).await;
    assert_eq!(breakers.report(&request("b", rule), Health::Ill).await, Ok(Moved::No));
}

#[tokio::test]
async fn a_half_open_breaker_lets_one_through_and_its_end_decides() {
    let store = store();
    let (here, there) = (Breakers::new(store.clone(), "w1"), Breakers::new(store, "w2"));
    let rule = rule(1, SHORT);
    open(&here, rule).await;
    try_alone(&here, "t", rule).await;
    let batch = ["t", "u", "v"].map(|id| request(id, rule));
    let said = here.ask(&batch).await.unwrap();
    assert_eq!(said[0], Passage::Trial, "it is its own");
    assert!(said[1..].iter().all(|said| matches!(said, Passage::Tried(_))), "{said:?}");
    assert!(matches!(ask(&there, "t", rule).await, Passage::Tried(_)), "the same step in another worker");
    // The trial fails: open again, for all.
    assert_eq!(here.report(&request("t", rule), Health::Ill).await, Ok(Moved::Opened));
    try_alone(&there, "u", rule).await;
    // Whoever does not try moves nothing; whoever does closes it.
    assert_eq!(here.report(&request("t", rule), Health::Well).await, Ok(Moved::No));
    assert_eq!(there.report(&request("u", rule), Health::Well).await, Ok(Moved::Closed));
    assert_eq!(ask(&here, "v", rule).await, Passage::Closed);
}

#[tokio::test]
async fn a_trial_that_is_not_used_or_lost_goes_to_another() {
    let breakers = Breakers::new(store(), "w1");
    let rule = rule(1, SHORT);
    open(&breakers, rule).await;
    try_alone(&breakers, "t", rule).await;
    assert_eq!(breakers.report(&request("t", rule), Health::Unasked).await, Ok(Moved::No));
    let brief = BreakerRequest { lifetime: SHORT, ..request("u", rule) };
    assert_eq!(breakers.ask(&[brief]).await, Ok(vec![Passage::Trial]), "given back");
    // Its worker died: after the time that it may take, another tries.
    try_alone(&breakers, "v", rule).await;
}

#[tokio::test]
async fn losing_redis_closes_every_breaker() {
    let server = Server::start_anywhere().await;
    let breakers = Breakers::new(server.store(TIMEOUT), "w1");
    let rule = rule(1, LONG);
    open(&breakers, rule).await;
    assert!(matches!(ask(&breakers, "x", rule).await, Passage::Open(_)));
    server.flush().await;
    assert_eq!(ask(&breakers, "x", rule).await, Passage::Closed);
    server.stop().await;
    assert!(breakers.ask(&[request("x", rule)]).await.is_err(), "whoever asks goes on without it");
}

#[test]
fn a_rule_that_cannot_work_is_refused() {
    assert_eq!(BreakerRule::new(0, LONG, LONG), Err(BadBreaker::Failures(0)));
    assert_eq!(BreakerRule::new(1, Duration::ZERO, LONG), Err(BadBreaker::Time(Duration::ZERO)));
    let day = Duration::from_hours(24);
    assert_eq!(BreakerRule::new(1, LONG, day), Err(BadBreaker::Time(day)));
}
