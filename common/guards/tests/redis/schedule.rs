//! Rates: judged by the turns that are handed out, not by a clock of ours.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dat_guards::{RateLimit, RateRequest, RateSchedule, Turn};

use crate::store;

const HORIZON: Duration = Duration::from_mins(1);

fn limit(count: u32, burst: u32) -> RateLimit {
    RateLimit::new(count, Duration::from_secs(1), burst).unwrap()
}

fn named(name: &str, limit: RateLimit) -> Vec<(String, RateLimit)> {
    vec![(name.to_owned(), limit)]
}

fn requests<'a>(ids: &'a [String], limits: &'a [(String, RateLimit)]) -> Vec<RateRequest<'a>> {
    ids.iter().map(|id| RateRequest { tenant: "acme", lane: "mux/x", request: id, limits }).collect()
}

fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

fn slots(turns: &[Turn]) -> Vec<DateTime<Utc>> {
    turns.iter().filter_map(|turn| if let Turn::Slot(at) = turn { Some(*at) } else { None }).collect()
}

fn granted(turns: &[Turn]) -> usize {
    turns.iter().filter(|turn| **turn == Turn::Granted).count()
}

#[tokio::test]
async fn half_a_burst_passes_at_once_and_then_turns_are_an_interval_apart() {
    let schedule = RateSchedule::new(store(), HORIZON);
    // Slow enough that no turn comes while the test runs.
    let limit = RateLimit::new(1, Duration::from_secs(15), 5).unwrap();
    let turns = schedule.ask(&requests(&ids("r", 20), &named("mux/x", limit))).await.unwrap();
    assert_eq!(granted(&turns), 3, "the other half is left for the way to the connector");
    let slots = slots(&turns);
    assert_eq!(slots.len(), 4, "the others are beyond the horizon");
    assert!(slots.windows(2).all(|pair| pair[1] - pair[0] == limit.interval()), "{slots:?}");
}

#[tokio::test]
async fn concurrent_askers_never_get_more_than_the_rate() {
    let schedule = RateSchedule::new(store(), HORIZON);
    let limit = limit(5, 3);
    let askers = (0..8).map(|asker| {
        let schedule = schedule.clone();
        tokio::spawn(async move {
            let mut slots_of = vec![];
            for round in 0..5 {
                let ids = ids(&format!("{asker}-{round}-"), 4);
                slots_of.extend(schedule.ask(&requests(&ids, &named("mux/x", limit))).await.unwrap());
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
    assert!(slots.len() > 100, "more than a burst had to wait");
    assert!(slots.windows(2).all(|pair| pair[1] - pair[0] >= limit.interval()), "{slots:?}");
}

#[tokio::test]
async fn asking_again_takes_no_second_turn() {
    let schedule = RateSchedule::new(store(), HORIZON);
    let limits = named("mux/x", RateLimit::new(1, Duration::from_secs(15), 1).unwrap());
    let ids = ids("r", 3);
    let first = schedule.ask(&requests(&ids, &limits)).await.unwrap();
    let again = schedule.ask(&requests(&ids, &limits)).await.unwrap();
    assert_eq!((granted(&first), slots(&first)), (1, slots(&again)));
    let other = schedule.ask(&requests(&["other".to_owned()], &limits)).await.unwrap();
    assert_eq!(
        slots(&other)[0],
        slots(&first)[1] + limits[0].1.interval(),
        "the schedule moved on once for each id"
    );
}

#[tokio::test]
async fn what_is_beyond_the_horizon_takes_nothing_and_comes_back_one_by_one() {
    let schedule = RateSchedule::new(store(), Duration::from_secs(30));
    let limits = named("mux/x", RateLimit::new(1, Duration::from_secs(10), 1).unwrap());
    let turns = schedule.ask(&requests(&ids("r", 20), &limits)).await.unwrap();
    assert_eq!((granted(&turns), slots(&turns).len()), (1, 3));
    let asks: Vec<_> = turns
        .iter()
        .filter_map(|turn| if let Turn::AskAgain(at) = turn { Some(*at) } else { None })
        .collect();
    assert_eq!(asks.len(), 16);
    assert!(asks.windows(2).all(|pair| pair[1] - pair[0] == limits[0].1.interval()), "{asks:?}");
    assert!(asks[0] < slots(&turns)[2], "the first is back before the schedule runs out");
}

#[tokio::test]
async fn tenants_and_names_have_schedules_of_their_own() {
    let schedule = RateSchedule::new(store(), HORIZON);
    let (x, y) = (named("x", limit(1, 1)), named("y", limit(1, 1)));
    let ask = |tenant, request, limits| RateRequest { tenant, lane: "mux/x", request, limits };
    let turns = schedule.ask(&[ask("a", "1", &x), ask("b", "2", &x), ask("a", "3", &y)]).await.unwrap();
    assert_eq!(turns, [Turn::Granted; 3]);
    assert_eq!(schedule.ask(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn under_two_limits_a_turn_is_one_moment_of_both_and_uses_up_nothing_else() {
    let schedule = RateSchedule::new(store(), HORIZON);
    let wide = ("mux/*".to_owned(), RateLimit::new(1, Duration::from_secs(2), 1).unwrap());
    let narrow = ("mux/rare".to_owned(), RateLimit::new(1, Duration::from_secs(8), 1).unwrap());
    let both = [wide.clone(), narrow];
    let rare = schedule.ask(&requests(&ids("rare", 5), &both)).await.unwrap();
    assert_eq!(granted(&rare), 1);
    let rare = slots(&rare);
    assert!(rare.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::seconds(8)), "{rare:?}");
    // The wide limit's turns between those are others': nobody waits for what the narrow one holds up.
    let wide_alone = [wide];
    let others = slots(&schedule.ask(&requests(&ids("other", 11), &wide_alone)).await.unwrap());
    assert_eq!(others.len(), 11);
    let mut all: Vec<_> = rare.iter().chain(&others).copied().collect();
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[1] - pair[0] >= TimeDelta::seconds(2)), "{all:?}");
    assert!(
        others[10] - others[0] <= TimeDelta::seconds(2 * 14),
        "only what the rare ones use is missing: {others:?}"
    );
}

#[tokio::test]
async fn a_turn_that_is_given_back_is_the_next_one_s() {
    let schedule = RateSchedule::new(store(), HORIZON);
    let limits = named("mux/x", RateLimit::new(1, Duration::from_secs(15), 2).unwrap());
    let ids = ids("r", 4);
    let turns = slots(&schedule.ask(&requests(&ids, &limits)).await.unwrap());
    let held = requests(&ids[2..3], &limits);
    assert_eq!(schedule.give_back(&held).await.unwrap(), 1);
    assert_eq!(schedule.give_back(&held).await.unwrap(), 0, "once");
    let next = schedule.ask(&requests(&["next".to_owned()], &limits)).await.unwrap();

    assert_eq!(slots(&next), turns[..1]);
    let behind = schedule.ask(&requests(&ids[2..3], &limits)).await.unwrap();
    assert_eq!(slots(&behind)[0], turns[turns.len() - 1] + limits[0].1.interval(), "it asks anew");
    // One that is granted and not used serves whoever comes within the time that it is good for.
    assert_eq!(schedule.give_back(&requests(&ids[1..2], &limits)).await.unwrap(), 1);
    let used = schedule.ask(&requests(&["last".to_owned()], &limits)).await.unwrap();
    assert_eq!(used, [Turn::Granted]);
}

#[tokio::test]
async fn a_connector_that_asks_for_a_pause_holds_its_lane_and_no_other() {
    let schedule = RateSchedule::new(store(), HORIZON);
    let limits = named("mux/x", RateLimit::new(1, Duration::from_secs(1), 1).unwrap());
    let ask = async |lane, request, limits: &[(String, RateLimit)]| {
        schedule.ask(&[RateRequest { tenant: "acme", lane, request, limits }]).await.unwrap()[0]
    };
    schedule.later("acme", "mux/x", Duration::from_secs(40)).await.unwrap();
    let Turn::AskAgain(until) = ask("mux/x", "free", &[]).await else { panic!("it waits without a rate") };
    schedule.later("acme", "mux/x", Duration::from_secs(1)).await.unwrap();
    assert_eq!(ask("mux/x", "free", &[]).await, Turn::AskAgain(until), "a shorter pause shortens none");
    assert_eq!(ask("mux/x", "rated", &limits).await, Turn::Slot(until), "its turn is after the pause");
    assert_eq!(ask("mux/y", "other", &limits).await, Turn::Granted, "the limit's other lanes go on");
    assert_eq!(ask("mux/y", "free", &[]).await, Turn::Granted);
}
