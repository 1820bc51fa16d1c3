//! A worker that dies before or after any write or send, once and twice: every plan ends as it would have, with the
//! same effects, ledger and lasting events.
//!
//! `make test` kills once at each point; `make faults` at each passing of each point, once and twice, with the scenarios
//! together and each alone, up to `DAT_TEST_KILLS` kills on `DAT_TEST_LANES` fleets side by side, from case
//! `DAT_TEST_FROM` on.

mod lane;
mod points;
mod post;
mod scenario;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::sync::Mutex;

use lane::{Case, Lane, Trace};

/// Points that these scenarios need not pass, each with a test that is about what is written there, without a kill.
const ELSEWHERE: [(&str, &str); 9] = [
    ("sweep.stop", "an_approval_that_expires_on_the_way_acts_as_a_revocation"),
    ("sweep.abort", "what_was_not_approved_or_can_never_pass_is_aborted"),
    (
        "undecided.leave",
        "what_failed_is_neither_ruled_on_nor_undone_by_a_worker_that_does_not_believe_its_approval",
    ),
    ("sweep.hold", "an_approval_that_a_worker_does_not_believe_is_held_and_not_lost"),
    ("orphan", "a_reservation_that_lost_its_owner_is_closed_and_counted"),
    ("rate.later", "a_connector_that_asks_for_a_pause_is_left_alone_by_every_step_of_that_kind"),
    ("rate.doubtful", "the_turn_of_a_plan_that_is_stopped_just_when_it_was_granted_is_the_next_ones"),
    ("late.note", "an_answer_that_comes_when_its_plan_was_unwound_is_told_and_changes_nothing"),
    ("reconciler.mend", "what_a_worker_reserved_in_a_window_and_never_claimed_is_taken_back"),
];

/// Points that no test passes: nothing is left stranded, and Redis would have to go away amid its filling.
const NOWHERE: [&str; 2] = ["sweep.release", "runtime.abandon"];

/// Where a first worker dies so that a second has something to recover.
const LEFT_RUNNING: &str = "runner.send.after:kill:3";

/// Fleets side by side, where `DAT_TEST_LANES` does not say.
const LANES: usize = 3;

/// After so many kills it says how far it is.
const TELL: usize = 250;

#[test]
fn nothing_writes_or_sends_without_a_point() {
    let bare = points::bare();
    assert!(bare.is_empty(), "write or send within dat_fault::around: {bare:#?}");
    let names = points::names();
    assert!(names.len() > 30, "{names:?}");
    for (point, test) in ELSEWHERE {
        assert!(names.contains(point), "{point} is no point any more");
        assert!(points::is_test(test), "{test}, which is about {point}, is not there");
    }
    assert!(NOWHERE.iter().all(|point| names.contains(*point)), "{NOWHERE:?}");
}

#[expect(clippy::print_stdout, reason = "the figure that make faults is asked for")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_at_any_write_or_send_changes_no_end() {
    let full = setting("DAT_TEST_KILLS");
    let starts = join_all((0..setting("DAT_TEST_LANES").unwrap_or(LANES)).map(|_| Lane::start())).await;
    let (mut lanes, traces): (Vec<Lane>, Vec<Trace>) = starts.into_iter().unzip();
    let recovery = lanes[0].recovery(LEFT_RUNNING).await;
    // What only some runs pass, such as what the sweeper comes upon, is tried, and need not be met.
    let certain: BTreeSet<String> = points_of_all(&traces, &recovery);
    let undisturbed = most(traces);
    let elsewhere: BTreeSet<&str> = ELSEWHERE.iter().map(|(point, _)| *point).chain(NOWHERE).collect();
    let unknown: Vec<String> = points::names()
        .into_iter()
        .filter(|name| !elsewhere.contains(name.as_str()))
        .filter(|name| {
            let before = format!("{name}.before");
            !undisturbed.contains_key(&before) && !recovery.contains_key(&before)
        })
        .collect();
    assert!(
        unknown.is_empty(),
        "no scenario passes {unknown:?}: add one, or name in ELSEWHERE the test that is about it"
    );
    let cases = if full.is_some() { product(&undisturbed, &recovery) } else { once(&undisturbed, &recovery) };
    let most = full.unwrap_or(usize::MAX);
    let all = cases.len();
    // A long run may be taken up where another ended.
    let from = setting("DAT_TEST_FROM").unwrap_or(0);
    let queue = Arc::new(Mutex::new(cases.into_iter().skip(from)));
    let told = AtomicUsize::new(0);
    let runs = lanes.into_iter().map(|mut lane| {
        let (queue, certain, told) = (Arc::clone(&queue), &certain, &told);
        async move {
            let mut unreached = Vec::new();
            while told.load(Ordering::Relaxed) < most {
                let next = {
                    let mut queue = queue.lock().await;
                    queue.next().map(|case| (case, queue.len()))
                };
                let Some((case, left)) = next else { break };
                let before = lane.kills;
                // Where a point is passed is a matter of time for some; that one has been is none.
                let reached = lane.run(&case).await || full.is_some() || {
                    let first = case.kills.iter().map(|kill| at_first(kill)).collect();
                    let again = Case { kills: first, ..case.clone() };
                    lane.run(&again).await || lane.run(&again).await
                };
                let now = lane.kills - before;
                let total = told.fetch_add(now, Ordering::Relaxed) + now;
                if total / TELL > (total - now) / TELL {
                    println!("{total} workers killed, {} of {all} cases run", all - left);
                }
                if !reached && case.kills.iter().all(|kill| certain.contains(point_of(kill))) {
                    unreached.push(case);
                }
            }
            lane.finish().await;
            (lane, unreached)
        }
    });
    let done = join_all(runs).await;
    let kills: usize = done.iter().map(|(lane, _)| lane.kills).sum();
    let unreached: Vec<Case> = done.into_iter().flat_map(|(_, unreached)| unreached).collect();
    println!("{kills} workers killed");
    assert!(unreached.is_empty(), "nobody died at {unreached:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_come_twice_or_swapped_change_no_end() {
    let (mut lane, _) = Lane::start().await;
    lane.delivered("twice").await;
    lane.delivered("swapped").await;
    lane.finish().await;
}

fn setting(name: &str) -> Option<usize> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is {value}, no number")))
}

/// Points that every undisturbed run passed, and those that recovery cannot do without.
fn points_of_all(traces: &[Trace], recovery: &Trace) -> BTreeSet<String> {
    let elsewhere = |point: &str| ELSEWHERE.iter().any(|(name, _)| point.starts_with(&format!("{name}.")));
    let all = traces[0].keys().filter(|point| traces.iter().all(|trace| trace.contains_key(*point)));
    let needed = recovery.keys().filter(|point| point.starts_with(lane::EXPIRY));
    all.chain(needed).filter(|point| !elsewhere(point)).cloned().collect()
}

/// The point of a kill.
fn point_of(kill: &str) -> &str {
    kill.split(':').next().unwrap_or(kill)
}

fn most(traces: Vec<Trace>) -> Trace {
    let mut most = Trace::new();
    for (point, count) in traces.into_iter().flatten() {
        let seen = most.entry(point).or_default();
        *seen = count.max(*seen);
    }
    most
}

/// Each point once, in the middle of what passes it.
fn once(undisturbed: &Trace, recovery: &Trace) -> Vec<Case> {
    let scenarios = scenario::NAMES.to_vec();
    let plain = undisturbed.iter().map(|(point, count)| Case {
        kills: vec![format!("{point}:kill:{}", count.div_ceil(2))],
        scenarios: scenarios.clone(),
    });
    let recovering = only(recovery, undisturbed).map(|(point, _)| Case {
        kills: vec![LEFT_RUNNING.to_owned(), format!("{point}:kill:1")],
        scenarios: scenarios.clone(),
    });
    plain.chain(recovering).collect()
}

/// Points that only recovery passes.
fn only<'a>(recovery: &'a Trace, undisturbed: &'a Trace) -> impl Iterator<Item = (&'a String, &'a u64)> {
    recovery.iter().filter(|(point, _)| !undisturbed.contains_key(*point))
}

/// Each passing of each point, once and twice, with the scenarios together and each alone; what differs most from each
/// other first, so that a part of it is worth most.
fn product(undisturbed: &Trace, recovery: &Trace) -> Vec<Case> {
    let mut sets: Vec<Vec<&'static str>> = vec![scenario::NAMES.to_vec()];
    sets.extend(scenario::NAMES.map(|name| vec![name]));
    let points: BTreeMap<&String, &u64> = undisturbed.iter().chain(only(recovery, undisturbed)).collect();
    let deepest = points.values().map(|count| **count).max().unwrap_or(0);
    let mut cases = Vec::new();
    for nth in 1..=deepest {
        for scenarios in &sets {
            for twice in [false, true] {
                for (point, count) in &points {
                    if nth > **count {
                        continue;
                    }
                    let mut kills = vec![format!("{point}:kill:{nth}")];
                    if !undisturbed.contains_key(*point) {
                        kills.insert(0, LEFT_RUNNING.to_owned());
                    }
                    if twice {
                        kills.push(format!("{point}:kill:1"));
                    }
                    cases.push(Case { kills, scenarios: scenarios.clone() });
                }
            }
        }
    }
    cases
}

/// The same kill at the first passing.
fn at_first(kill: &str) -> String {
    kill.rsplit_once(':').map_or_else(|| kill.to_owned(), |(point, _)| format!("{point}:1"))
}
