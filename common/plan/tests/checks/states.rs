//! State machines: whatever sequence of events is tried, only arrows of the lifecycles are taken; and what was gone
//! through live is what its log replays to.

use std::collections::BTreeSet;

use dat_plan::clock::{Entropy, SeededEntropy};
use dat_plan::event::EventKind;
use dat_plan::replay::{Impossible, Replay};
use dat_plan::{PlanState, StepState};

/// Sequences tried, and events of each.
const SEQUENCES: usize = 2_000;
const EVENTS: usize = 120;

const KEYS: [&str; 3] = ["a", "b", "c"];

fn pick<T: Copy>(dice: &SeededEntropy, of: &[T]) -> T {
    of[usize::try_from(dice.below(of.len() as u64)).expect("a place")]
}

/// Any event about a state, possible or not; every other one is an arrow from where things stand.
fn event(dice: &SeededEntropy, now: &Replay) -> (EventKind, Option<&'static str>) {
    let key = pick(dice, &KEYS);
    let any = dice.below(2) == 0;
    match dice.below(3) {
        0 => {
            let next: Vec<PlanState> = match now.plan() {
                None => vec![PlanState::Draft],
                Some(from) => PlanState::ALL.iter().copied().filter(|to| from.to(*to).is_ok()).collect(),
            };
            let to = if any || next.is_empty() { pick(dice, PlanState::ALL) } else { pick(dice, &next) };
            (EventKind::Plan(to), None)
        }
        kind => {
            let from = if kind == 1 { now.step(key) } else { now.undo(key) };
            let next: Vec<StepState> =
                StepState::ALL.iter().copied().filter(|to| from.to(*to).is_ok()).collect();
            let to = if any || next.is_empty() { pick(dice, StepState::ALL) } else { pick(dice, &next) };
            (if kind == 1 { EventKind::Step(to) } else { EventKind::Undo(to) }, Some(key))
        }
    }
}

#[test]
fn every_sequence_of_events_leads_to_a_legal_state_and_replays_to_the_same() {
    let seed = SeededEntropy::from_os().below(u64::MAX);
    let dice = SeededEntropy::new(seed);
    let mut came_to = BTreeSet::new();
    for sequence in 0..SEQUENCES {
        let (mut live, mut log) = (Replay::default(), Vec::new());
        for _ in 0..EVENTS {
            let (kind, step) = event(&dice, &live);
            let before = live.clone();
            match live.follow(kind, step) {
                Ok(()) => log.push((kind.routing_key(), step)),
                Err(error) => {
                    assert_eq!(live, before, "seed {seed}, {sequence}: {error}, and yet something changed");
                    continue;
                }
            }
            // One unit at most took one arrow; everything else stands where it stood.
            let mut arrows = 0;
            if before.plan() != live.plan() {
                let to = live.plan().expect("a plan does not vanish");
                let legal = before.plan().map_or(to == PlanState::Draft, |from| from.to(to).is_ok());
                assert!(legal, "seed {seed}, {sequence}: {:?} to {to}", before.plan());
                came_to.insert(to.as_str());
                arrows += 1;
            }
            for key in KEYS {
                for (from, to) in [(before.step(key), live.step(key)), (before.undo(key), live.undo(key))] {
                    if from != to {
                        assert_eq!(from.to(to), Ok(to), "seed {seed}, {sequence}");
                        came_to.insert(to.as_str());
                        arrows += 1;
                    }
                }
            }
            assert_eq!(arrows, 1, "seed {seed}, {sequence}: {kind:?} of {step:?} after {log:?}");
        }
        // The log as it is stored: words.
        let mut replayed = Replay::default();
        for (kind, step) in &log {
            let kind: EventKind = kind.parse().expect("a word of the contract");
            replayed.follow(kind, *step).expect("it went that way before");
        }
        assert_eq!(replayed, live, "seed {seed}, {sequence}");
    }
    // All but `pending`, which is where units begin, and no event says.
    let words: BTreeSet<&str> =
        PlanState::ALL.iter().map(|s| s.as_str()).chain(StepState::ALL.iter().map(|s| s.as_str())).collect();
    let missed: Vec<&&str> = words.difference(&came_to).collect();
    assert_eq!(missed, [&"pending"], "seed {seed}: states that no sequence came to");
}

/// So that nothing that runs is skipped, and nothing that ended goes on, by any number of arrows.
#[test]
fn arrows_never_lead_from_an_end_and_always_to_one() {
    for from in StepState::ALL {
        let mut reached = BTreeSet::from([*from]);
        loop {
            let next: BTreeSet<StepState> = reached
                .iter()
                .flat_map(|at| StepState::ALL.iter().filter(|to| at.to(**to).is_ok()).copied())
                .chain(reached.iter().copied())
                .collect();
            if next == reached {
                break;
            }
            reached = next;
        }
        let ends = [StepState::RolledBack, StepState::Skipped, StepState::Completed, StepState::Failed];
        assert!(ends.iter().any(|end| reached.contains(end)), "{from} never ends");
        if matches!(from, StepState::RolledBack | StepState::Skipped) {
            assert_eq!(reached, BTreeSet::from([*from]), "{from} goes on");
        }
    }
}

#[test]
fn what_cannot_be_is_named() {
    let mut replay = Replay::default();
    let executing = EventKind::Plan(PlanState::Executing);
    assert_eq!(replay.follow(executing, None), Err(Impossible::First(PlanState::Executing)));
    assert_eq!(replay.follow(EventKind::Step(StepState::Ready), None), Err(Impossible::NoStep));
    let rolled_back = EventKind::Undo(StepState::RolledBack);
    assert_eq!(replay.follow(rolled_back, Some("a")), Err(Impossible::NoUndo(StepState::RolledBack)));
    assert_eq!(replay, Replay::default());
    replay.follow(EventKind::Plan(PlanState::Draft), None).expect("the beginning");
    replay.follow(EventKind::Step(StepState::Ready), Some("a")).expect("an arrow");
    assert_eq!(replay.contradiction().as_deref(), Some("the plan is draft and step a is ready"));
}
