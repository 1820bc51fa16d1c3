use serde_json::json;
use uuid::Uuid;

use super::*;

const LEASE: TimeDelta = TimeDelta::seconds(5);

fn at(millis: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::milliseconds(millis)
}

fn plan(n: u128) -> PlanKey {
    PlanKey::new(Uuid::from_u128(n), 1)
}

fn event(plan: PlanKey, sequence: i64) -> LoggedEvent {
    LoggedEvent { plan, sequence, kind: "step.running".to_owned(), at: at(0), data: json!({}) }
}

/// Events of a stream that was published up to `relayed` when they were written.
fn claimed(n: u128, epoch: i64, relayed: i64, events: std::ops::RangeInclusive<i64>) -> ClaimedStream {
    ClaimedStream {
        plan: plan(n),
        traceparent: String::new(),
        relayed,
        last_sequence: *events.end(),
        events: events.map(|sequence| event(plan(n), sequence)).collect(),
        epoch,
    }
}

fn written(due: i64, streams: Vec<ClaimedStream>) -> Written {
    Written { due: Some(due), streams }
}

/// Publishes all there is; what went, in order.
fn publish(held: &mut Held, now: DateTime<Utc>) -> Vec<i64> {
    let runs = held.next();
    for run in &runs {
        held.published(run, run.events.len(), now, now);
    }
    runs.iter().flat_map(|run| run.events.iter().map(|event| event.sequence)).collect()
}

/// Records what is to be recorded, as a database would in which each stream ends where `ends` says.
fn record(held: &mut Held, now: DateTime<Utc>, ends: &[(u128, i64, i64, i64)]) -> usize {
    let progress = held.progress(now, LEASE, false);
    let recorded: Vec<Recorded> = ends
        .iter()
        .map(|(n, epoch, relayed, last)| Recorded {
            plan: plan(*n),
            epoch: *epoch,
            relayed: *relayed,
            last_sequence: *last,
        })
        .collect();
    let deleted = held.done().len();
    held.recorded(&progress, &recorded, deleted, now)
}

#[test]
fn what_is_written_goes_at_once_and_is_recorded_when_it_is_quiet() {
    let mut held = Held::default();
    held.written(written(7, vec![claimed(1, 1, 0, 1..=2), claimed(2, 1, 0, 1..=1)]), at(0));
    assert_eq!(publish(&mut held, at(1)), [1, 2, 1]);
    assert!(held.progress(at(19), LEASE, false).is_empty());
    assert_eq!(held.record_at(), Some(at(20)));
    assert_eq!(held.progress(at(20), LEASE, false).len(), 2);
    assert_eq!(record(&mut held, at(20), &[(1, 1, 2, 2), (2, 1, 1, 1)]), 0);
    assert!(held.is_empty());
    assert_eq!(held.done(), [7], "the transaction's row is deleted with the next record");
}

#[test]
fn a_row_stays_due_while_one_of_its_streams_is_not_recorded() {
    let mut held = Held::default();
    held.written(written(7, vec![claimed(1, 1, 0, 1..=1), claimed(2, 1, 0, 1..=1)]), at(0));
    publish(&mut held, at(1));
    // The other was written to just now.
    held.written(written(8, vec![claimed(2, 1, 0, 2..=2)]), at(15));
    assert_eq!(record(&mut held, at(20), &[(1, 1, 1, 1)]), 0);
    assert!(held.done().is_empty());
    publish(&mut held, at(21));
    assert_eq!(record(&mut held, at(40), &[(2, 1, 2, 2)]), 0);
    assert_eq!(held.done(), [7, 8]);
}

#[test]
fn nothing_goes_before_what_is_ahead_of_it_in_its_stream() {
    let mut held = Held::default();
    // Two transactions, of which the second is handed over first.
    held.written(written(2, vec![claimed(1, 1, 0, 3..=4)]), at(0));
    assert!(publish(&mut held, at(0)).is_empty());
    assert_eq!(held.missing(), [(plan(1), 0)]);
    held.written(written(1, vec![claimed(1, 1, 0, 1..=2)]), at(1));
    assert_eq!(publish(&mut held, at(2)), [1, 2, 3, 4]);
    // Handed over again, by whatever way: nothing twice.
    held.written(written(1, vec![claimed(1, 1, 0, 1..=2)]), at(3));
    assert!(publish(&mut held, at(3)).is_empty());
}

#[test]
fn what_another_process_wrote_meanwhile_is_read() {
    let mut held = Held::default();
    held.written(written(1, vec![claimed(1, 1, 0, 1..=2)]), at(0));
    publish(&mut held, at(1));
    assert_eq!(record(&mut held, at(20), &[(1, 1, 2, 3)]), 0);
    let missing = held.missing();
    assert_eq!(missing, [(plan(1), 2)]);
    held.read(&missing, vec![event(plan(1), 3)], at(70));
    assert_eq!(publish(&mut held, at(21)), [3]);
}

#[test]
fn a_stream_of_which_nothing_can_be_read_is_given_back() {
    let mut held = Held::default();
    held.hold(ClaimedStream { events: Vec::new(), last_sequence: 3, ..claimed(1, 1, 0, 1..=1) }, None, at(0));
    let missing = held.missing();
    held.read(&missing, Vec::new(), at(50));
    assert!(held.missing().is_empty());
    assert_eq!(held.progress(at(0), LEASE, false).len(), 1);
}

#[test]
fn what_was_not_confirmed_is_given_back_with_what_comes_after() {
    let mut held = Held::default();
    held.written(written(1, vec![claimed(1, 1, 0, 1..=3)]), at(0));
    let runs = held.next();
    held.published(&runs[0], 2, at(1), at(1000));
    assert!(held.next().is_empty());
    let progress = held.progress(at(1), LEASE, false);
    assert_eq!((progress.len(), progress[0].is_kept()), (1, false));
    assert_eq!(record(&mut held, at(1), &[(1, 1, 2, 3)]), 0);
    assert!(held.is_empty() && held.done().is_empty(), "its row stays due");
}

#[test]
fn a_claim_that_was_taken_over_ends_and_a_newer_one_takes_its_place() {
    let mut held = Held::default();
    held.written(written(1, vec![claimed(1, 1, 0, 1..=2)]), at(0));
    publish(&mut held, at(1));
    assert_eq!(record(&mut held, at(20), &[]), 1);
    assert!(held.is_empty());
    held.written(written(2, vec![claimed(1, 1, 0, 1..=2)]), at(21));
    held.written(written(3, vec![claimed(1, 3, 2, 3..=3)]), at(22));
    assert_eq!(publish(&mut held, at(23)), [3]);
    // What was written under the older claim comes late.
    held.written(written(4, vec![claimed(1, 1, 0, 2..=2)]), at(24));
    assert!(publish(&mut held, at(24)).is_empty());
}

#[test]
fn when_everything_ends_all_claims_are_given_back() {
    let mut held = Held::default();
    held.written(written(1, vec![claimed(1, 1, 0, 1..=2), claimed(2, 1, 0, 1..=2)]), at(0));
    publish(&mut held, at(0));
    let progress = held.progress(at(0), LEASE, true);
    assert!(progress.len() == 2 && progress.iter().all(|told| !told.is_kept()));
}
