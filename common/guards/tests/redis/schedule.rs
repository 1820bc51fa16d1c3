//! Rates: judged by the slots that are handed out, not by a clock of ours.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dat_guards::{RateLimit, RateRequest, RateSchedule, Turn};

use crate::store;

const HORIZON: Duration = Duration::from_mins(1);

fn limit(count: u32, burst: u32) -> RateLimit {
    RateLimit::new(count, Duration::from_secs(1), burst).unwrap()
}

fn requests(ids: &[String], limit: RateLimit) -> Vec<RateRequest<'_>> {
    ids.iter().map(|id| RateRequest { tenant: "acme", name: "mux/x", request: id, limit }).collect()
}

fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

fn slots(turns: &[Turn]) -> Vec<DateTime<Utc>> {
    turns.iter().filter_map(|turn| if let Turn::Slot(at) = turn { Some(*at) } else { None }).collect()
}

#[tokio::test]
async fn a_burst_passes_and_then_slots_are_an_interval_apart() {
    let schedule = RateSchedule::new(store(), HORIZON);
    let limit = limit(2, 5);
    let turns = schedule.ask(&requests(&ids("r", 20), limit)).await.unwrap();
    assert_eq!(turns.iter().filter(|turn| **turn == Turn::Granted).count(), 5);
    let slots = slots(&turns);
    assert_eq!(slots.len(), 15);
    assert!(slots.windows(2).all(|pair| pair[1] - pair[0] == limit.interval()), "{slots:?}");
}

#[tokio::test]
async fn concurrent_askers_never_get_more_than_rate_and_burst() {
    let schedule = RateSchedule::new(store(), HORIZON);
    let limit = limit(5, 3);
    let askers = (0..8).map(|asker| {
        let schedule = schedule.clone();
        tokio::spawn(async move {
            let mut slots_of = vec![];
            for round in 0..5 {
                let ids = ids(&format!("{asker}-{round}-"), 4);
                slots_of.extend(schedule.ask(&requests(&ids, limit)).await.unwrap());
            }
            slots_of
        })
    });
    let mut turns = vec![];
    for asker in askers {
        turns.extend(asker.await.unwrap());
    }
    let mut slots = slots(&turns);
    slots.sort_unstable();
    assert!(slots.len() > 3, "more than a burst had to wait");
    // Any span of n slots takes at least the time that rate and burst allow for it.
    for first in 0..slots.len() {
        for last in first..slots.len() {
            let beyond_burst = i32::try_from(last - first).unwrap() + 1 - 3;
            assert!(slots[last] - slots[first] >= limit.interval() * beyond_burst.max(0), "{first}..{last}");
        }
    }
}

#[tokio::test]
async fn asking_again_takes_no_second_slot() {
    let schedule = RateSchedule::new(store(), HORIZON);
    // Slow enough that no slot comes while the test runs.
    let limit = RateLimit::new(1, Duration::from_secs(15), 1).unwrap();
    let ids = ids("r", 4);
    let first = schedule.ask(&requests(&ids, limit)).await.unwrap();
    let again = schedule.ask(&requests(&ids, limit)).await.unwrap();
    assert_eq!(slots(&first), slots(&again));
    let other = schedule.ask(&requests(&["other".to_owned()], limit)).await.unwrap();
    assert_eq!(
        slots(&other)[0],
        slots(&first)[2] + limit.interval(),
        "the schedule moved on once for each id"
    );
}

#[tokio::test]
async fn beyond_the_horizon_nothing_is_taken() {
    let schedule = RateSchedule::new(store(), Duration::from_secs(3));
    let limit = limit(1, 1);
    let turns = schedule.ask(&requests(&ids("r", 20), limit)).await.unwrap();
    assert_eq!(slots(&turns).len(), 3);
    let asks: Vec<_> = turns
        .iter()
        .filter_map(|turn| if let Turn::AskAgain(at) = turn { Some(*at) } else { None })
        .collect();
    assert_eq!(asks.len(), 16);
    assert!(asks[0] >= slots(&turns)[2] && asks[0] <= slots(&turns)[2] + TimeDelta::seconds(1));
}

#[tokio::test]
async fn tenants_and_names_have_schedules_of_their_own() {
    let schedule = RateSchedule::new(store(), HORIZON);
    let ask = |tenant, name| RateRequest { tenant, name, request: "r", limit: limit(1, 1) };
    let turns = schedule.ask(&[ask("a", "x"), ask("b", "x"), ask("a", "y")]).await.unwrap();
    assert_eq!(turns, [Turn::Granted; 3]);
    assert_eq!(schedule.ask(&[]).await.unwrap(), []);
}
