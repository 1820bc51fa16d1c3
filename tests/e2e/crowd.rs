//! Many plans at once, of every way that a plan can go, each with the end that it must come to whatever happens to the
//! fleet meanwhile.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use dat_plan::{PlanKey, PlanState};
use dat_tests::{Fleet, FleetOptions, PlanDraft, Producer, StepDraft, eventually};
use serde_json::json;

/// The slots of each worker, so that [`MORE_THAN_ONE`] requests in flight are not those of one alone.
const SLOTS: u64 = 16;

/// So many held requests: every worker of two has some.
pub(crate) const MORE_THAN_ONE: u64 = SLOTS + SLOTS / 2;

/// Short leases, so that a dead worker is noticed soon, and few slots.
pub(crate) fn settings() -> String {
    format!("[worker]\nlease_ms = 1500\nsweep_ms = 100\nconnections = 5\nslots = {SLOTS}\n")
}

/// So many workers with those settings.
pub(crate) async fn fleet(workers: usize) -> Fleet {
    Fleet::start(FleetOptions { workers, settings: settings(), ..FleetOptions::default() }).await
}

/// A plan and what must come of it.
struct Member {
    plan: PlanKey,
    state: PlanState,
    spent: i64,
    /// Steps that took effect, and steps whose undo did.
    effects: BTreeSet<(String, bool)>,
}

/// Plans that were submitted.
#[derive(Default)]
pub(crate) struct Crowd {
    members: Vec<Member>,
}

impl Crowd {
    /// Submits so many more plans in `usd`: steps in order and side by side, errors, lost answers, refusals.
    pub(crate) async fn submit(&mut self, producer: &Producer, plans: usize) {
        for _ in 0..plans {
            let number = self.members.len();
            let name = format!("crowd {number}");
            let draft = match number % 10 {
                2 | 5 => refused(&name),
                3 => plan(&name, &json!({"outcome": "error", "times": 1, "cost": 10})),
                7 => lost(&name),
                8 => side_by_side(&name),
                9 => plan(&name, &json!({"delay_ms": 30, "cost": 10})),
                _ => PlanDraft::in_order(&name, 3),
            };
            self.add(producer, draft).await;
        }
    }

    /// Submits so many more plans in `token`.
    pub(crate) async fn submit_tokens(&mut self, producer: &Producer, plans: usize) {
        for _ in 0..plans {
            let draft = PlanDraft::in_order(&format!("crowd {}", self.members.len()), 3);
            self.add(producer, draft.set("budget", json!({"amount": 1_000, "currency": "token"}))).await;
        }
    }

    async fn add(&mut self, producer: &Producer, draft: PlanDraft) {
        let document = draft.document();
        let plan = producer.submit(&document).await;
        let steps = document["steps"].as_array().into_iter().flatten();
        let keys = steps.filter_map(|step| step["key"].as_str()).map(str::to_owned);
        let is_refused = document["labels"]["crowd"] == "refused";
        let effects = if is_refused {
            // The refused step had no effect; its undo finds nothing to undo, and makes sure of that.
            keys.flat_map(|key| [(key.clone(), false), (key, true)])
                .filter(|effect| *effect != ("s2".to_owned(), false))
                .collect()
        } else {
            keys.map(|key| (key, false)).collect()
        };
        let (state, spent) = if is_refused { (PlanState::Aborted, 6) } else { (PlanState::Completed, 30) };
        self.members.push(Member { plan, state, spent, effects });
    }

    /// Takes another crowd in.
    pub(crate) fn append(&mut self, other: Self) {
        self.members.extend(other.members);
    }

    /// The plans, in the order in which they were submitted.
    pub(crate) fn plans(&self) -> Vec<PlanKey> {
        self.members.iter().map(|member| member.plan).collect()
    }

    /// Waits until every plan has ended and checks that each came to its own end, with each effect exactly once, and
    /// that log, rows, ledger and the world outside agree.
    pub(crate) async fn check(&self, fleet: &Fleet, producer: &Producer) {
        let ends = producer.wait_for_ends(&self.plans()).await;
        self.compare(fleet, ends.iter().map(|end| (end.state, end.story())).collect()).await;
    }

    /// The same by the rows, where a producer lost its connection and so did not hear every event.
    pub(crate) async fn check_rows(&self, fleet: &Fleet) {
        let mut ends = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let what = format!("plan {} ends", member.plan);
            let end = eventually(what, async || {
                let seen = fleet.store().plan(member.plan).await.map_err(|error| error.to_string())?;
                match seen {
                    Some(plan) if plan.summary.state.is_end() => {
                        Ok((plan.summary.state, format!("{plan:#?}")))
                    }
                    other => Err(format!("{other:#?}")),
                }
            });
            ends.push(end.await);
        }
        self.compare(fleet, ends).await;
    }

    async fn compare(&self, fleet: &Fleet, ends: Vec<(PlanState, String)>) {
        fleet.check_everything().await;
        let mut effects: BTreeMap<PlanKey, Vec<(String, bool)>> = BTreeMap::new();
        for applied in fleet.sandbox().all_effects().await {
            let plan = PlanKey::new(applied.effect.plan_id, applied.effect.plan_version);
            let effect = (applied.effect.step, applied.effect.undo_of.is_some());
            effects.entry(plan).or_default().push(effect);
        }
        let summaries = fleet.store().summaries(&self.plans()).await.expect("the database answers");
        for ((member, (state, story)), summary) in self.members.iter().zip(ends).zip(summaries) {
            let story = || format!("plan {}:\n{story}", member.plan);
            assert_eq!(state, member.state, "{}", story());
            assert_eq!(summary.spent, member.spent, "{}", story());
            let mut had = effects.remove(&member.plan).unwrap_or_default();
            had.sort();
            let expected: Vec<_> = member.effects.iter().cloned().collect();
            assert_eq!(had, expected, "{}", story());
        }
        assert!(effects.is_empty(), "effects of plans that nobody submitted: {effects:#?}");
    }
}

/// Waits until so many plans have ended.
pub(crate) async fn wait_for_ended(producer: &Producer, plans: usize) {
    let ended = RefCell::new(HashSet::new());
    let what = format!("{plans} plans end");
    let told = producer.wait_for(&what, |event| {
        if event.is_end() {
            ended.borrow_mut().insert(event.plan);
        }
        ended.borrow().len() >= plans
    });
    told.await;
}

/// Three steps in order, of which the second does what it is told.
fn plan(name: &str, second: &serde_json::Value) -> PlanDraft {
    PlanDraft::new(name)
        .step(StepDraft::priced("s0", 10))
        .step(StepDraft::new("s1", second).undo(&json!({"refund": 10})))
        .step(StepDraft::priced("s2", 10))
}

/// The effect happens and the answer is lost, at first. However long MUX is held, there are enough attempts.
fn lost(name: &str) -> PlanDraft {
    let second = StepDraft::new("s1", &json!({"outcome": "lost_reply", "times": 1, "cost": 10}))
        .set("timeout_ms", 1_000)
        .set("retry", json!({"max_attempts": 50, "initial_ms": 20, "max_ms": 100}));
    PlanDraft::new(name).step(StepDraft::priced("s0", 10)).step(second).step(StepDraft::priced("s2", 10))
}

fn side_by_side(name: &str) -> PlanDraft {
    PlanDraft::new(name)
        .step(StepDraft::priced("s0", 10).needs(&[]))
        .step(StepDraft::priced("s1", 10).needs(&[]))
        .step(StepDraft::priced("s2", 10).needs(&["s0", "s1"]))
}

/// The last step is refused for good: what was done is undone, and seven of ten come back.
fn refused(name: &str) -> PlanDraft {
    let refund = json!({"refund": 7});
    PlanDraft::new(name)
        .label("crowd", "refused")
        .step(StepDraft::new("s0", &json!({"cost": 10})).undo(&refund))
        .step(StepDraft::new("s1", &json!({"cost": 10})).undo(&refund))
        .step(StepDraft::new("s2", &json!({"outcome": "refuse"})).undo(&json!({})))
}
