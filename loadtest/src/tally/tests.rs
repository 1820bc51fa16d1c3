//! The account, event by event.

use super::*;
use crate::event::tests::{event, plan};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// An account of plan 1, of two steps, due at 10 ms and expected to complete.
fn tally() -> Tally {
    let mut tally = Tally::new(2).expect("valid bounds");
    tally.expect(plan(1), End::Completed, ms(10));
    tally
}

fn step(key: &str) -> News {
    News::StepCompleted(key.to_owned())
}

/// What there is to say of plan 1 after these events, at places 1, 2, ….
fn after(news: impl IntoIterator<Item = News>) -> Faults {
    let mut tally = tally();
    for (sequence, news) in (1..).zip(news) {
        tally.observe(event(plan(1), sequence, news), ms(20));
    }
    tally.faults(1)
}

#[test]
fn a_plan_that_goes_right_has_no_faults() {
    let mut tally = tally();
    for (sequence, news) in (1..).zip([News::Approved, step("s0"), step("s1"), News::Ended(End::Completed)]) {
        tally.observe(event(plan(1), sequence, news), ms(20 * sequence));
    }
    assert!(tally.faults(1).none(), "{:?}", tally.faults(1));
    assert_eq!((tally.counts.ended, tally.counts.steps, tally.last_end()), (1, 2, ms(80)));
    assert_eq!(tally.ends(), BTreeMap::from([(End::Completed, 1)]));
    let latency = tally.completed.percentiles().expect("one plan");
    assert!((latency.max - 70.0).abs() < 0.1, "{latency:?}: counted from when it was due");
    let executed = tally.executed.percentiles().expect("one plan");
    assert!((executed.max - 3.0).abs() < 0.1, "{executed:?}: by the times of the events");
}

#[test]
fn a_plan_without_an_end_is_missing_and_one_never_submitted_is_told_apart() {
    assert_eq!(after([step("s0"), step("s1")]).missing, 1);
    let faults = tally().faults(3);
    assert_eq!((faults.missing, faults.unsubmitted), (1, 2));
}

#[test]
fn a_duplicate_is_counted_and_ignored() {
    let mut tally = tally();
    let events = [(1, step("s0")), (2, step("s1")), (1, step("s0")), (3, News::Ended(End::Completed))];
    for (sequence, news) in events.iter().chain(&events).cloned() {
        tally.observe(event(plan(1), sequence, news), ms(20));
    }
    assert!(tally.faults(1).none(), "{:?}", tally.faults(1));
    assert_eq!((tally.counts.duplicates, tally.counts.steps, tally.counts.ended), (5, 2, 1));
}

#[test]
fn two_ends_are_one_too_many() {
    let faults = after([step("s0"), step("s1"), News::Ended(End::Completed), News::Ended(End::Completed)]);
    assert_eq!(faults, Faults { doubled: 1, examples: faults.examples.clone(), ..Faults::default() });
    assert!(faults.examples[0].ends_with("ended 2 times"), "{:?}", faults.examples);
}

#[test]
fn another_end_than_expected_is_told_with_its_reason() {
    let mut tally = tally();
    let mut aborted = event(plan(1), 1, News::Ended(End::Aborted));
    aborted.reason = Some("deadline".to_owned());
    tally.observe(aborted, ms(20));
    let faults = tally.faults(1);
    assert_eq!((faults.unexpected, faults.miscounted), (1, 0));
    assert!(faults.examples[0].ends_with("aborted instead of completed: deadline"), "{:?}", faults.examples);
}

#[test]
fn a_step_lost_or_done_again_is_seen_even_if_the_number_is_right() {
    assert_eq!(after([step("s0"), News::Ended(End::Completed)]).miscounted, 1);
    let faults = after([step("s0"), step("s0"), News::Ended(End::Completed)]);
    assert_eq!((faults.miscounted, faults.none()), (1, false));
}

#[test]
fn events_of_a_plan_come_in_its_order() {
    let mut tally = tally();
    for (sequence, news) in [(2, step("s1")), (1, step("s0")), (3, News::Ended(End::Completed))] {
        tally.observe(event(plan(1), sequence, news), ms(20));
    }
    assert_eq!(tally.faults(1).out_of_order, 1);
}

#[test]
fn plans_of_others_are_none_of_ours() {
    let mut tally = tally();
    tally.observe(event(plan(2), 1, News::Ended(End::Aborted)), ms(20));
    assert_eq!((tally.counts.foreign, tally.counts.ended), (1, 0));
}
