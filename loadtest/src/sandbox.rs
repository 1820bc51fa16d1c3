//! Whether the world agrees: what the sandbox did and booked for each plan, against what the fleet announced.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ureq::Agent;

use crate::blueprint::Charges;
use crate::event::End;
use crate::failure::Failure;
use crate::tally::EndedPlan;

/// How long the ledger may take to receive what the run has heard already.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before asking again.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest answer about one plan, in bytes.
const LONGEST: u64 = 64 * 1024 * 1024;
/// How many disagreements are told in words; all are counted.
const EXAMPLES: usize = 10;

/// What MUX did under one key.
#[derive(Debug, Clone, Default, Deserialize)]
struct Effect {
    undo_of: Option<String>,
    no_op: bool,
    cost: i64,
    refund: i64,
    applied: u64,
}

/// What FLO booked for a plan, in one currency.
#[derive(Debug, Deserialize)]
struct LedgerLine {
    net: i64,
}

/// What the comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct World {
    /// How many plans were compared.
    pub(crate) plans: usize,
    /// The effects of their steps.
    pub(crate) effects: usize,
    /// The effects that were undone.
    pub(crate) undone: usize,
    /// What FLO nets for them.
    pub(crate) net: i64,
    /// How many plans disagree with what was announced.
    pub(crate) disagreements: usize,
    /// The first of them, in words.
    pub(crate) examples: Vec<String>,
}

/// Fails if there is no sandbox at `url`, before a run that would be compared with it.
pub(crate) async fn find(url: &str) -> Result<(), Failure> {
    let url = format!("{}/healthz", url.trim_end_matches('/'));
    let found = move || agent().get(&url).call().map(drop).map_err(|error| silent(&url, &error));
    tokio::task::spawn_blocking(found).await?
}

/// Compares the plans that ended with the sandbox at `url`.
pub(crate) async fn compare(url: &str, plans: Vec<EndedPlan>, completed: Charges) -> Result<World, Failure> {
    let url = url.trim_end_matches('/').to_owned();
    tokio::task::spawn_blocking(move || compare_each(&url, plans, completed)).await?
}

/// One plan after another, over one connection. Those that disagree are asked about again: the ledger has a queue of
/// its own, and may be behind.
fn compare_each(url: &str, plans: Vec<EndedPlan>, completed: Charges) -> Result<World, Failure> {
    let agent = agent();
    let mut world = World { plans: plans.len(), ..World::default() };
    let mut open = plans;
    let mut patience: Option<Instant> = None;
    loop {
        let last = patience.is_some_and(|until| Instant::now() >= until);
        let mut disagreeing = Vec::new();
        for plan in open {
            let effects: Vec<Effect> = get(&agent, &format!("{url}/mux/effects?plan_id={}", plan.plan))?;
            let lines: Vec<LedgerLine> = get(&agent, &format!("{url}/flo/plans?plan_id={}", plan.plan))?;
            let net = lines.iter().map(|line| line.net).sum();
            let found = judge(plan, completed, &effects, net);
            if found.is_err() && !last {
                disagreeing.push(plan);
            } else {
                world.add(&effects, net, found.map_err(|why| format!("plan {}: {why}", plan.plan)));
            }
        }
        if disagreeing.is_empty() {
            return Ok(world);
        }
        open = disagreeing;
        patience.get_or_insert_with(|| Instant::now() + PATIENCE);
        sleep(PAUSE);
    }
}

fn get<T: DeserializeOwned>(agent: &Agent, url: &str) -> Result<T, Failure> {
    agent
        .get(url)
        .call()
        .and_then(|mut answer| answer.body_mut().with_config().limit(LONGEST).read_json())
        .map_err(|error| silent(url, &error))
}

fn agent() -> Agent {
    Agent::config_builder().timeout_global(Some(PATIENCE)).build().into()
}

fn silent(url: &str, error: &ureq::Error) -> Failure {
    Failure::Sandbox { url: url.to_owned(), why: error.to_string() }
}

/// How many effects a plan's steps had, and how many of them were undone.
fn count(effects: &[Effect]) -> (usize, usize) {
    let forward = effects.iter().filter(|effect| effect.undo_of.is_none()).count();
    let undone = effects.iter().filter(|effect| effect.undo_of.is_some() && !effect.no_op).count();
    (forward, undone)
}

/// Whether what the world did fits how the plan ended. Fails with the first thing that does not.
fn judge(plan: EndedPlan, completed: Charges, effects: &[Effect], net: i64) -> Result<(), String> {
    let (forward, undone) = count(effects);
    let spent: i64 = effects.iter().map(|effect| effect.cost - effect.refund).sum();
    let (meant_forward, meant_undone, meant_spent) = match plan.end {
        End::Completed => (completed.effects, 0, completed.cost),
        End::Aborted => (plan.steps, plan.steps, 0),
        End::Rejected | End::Refused => (0, 0, 0),
        // Whatever an operator will find.
        End::Stuck => (forward, undone, spent),
    };
    if let Some(effect) = effects.iter().find(|effect| effect.applied != 1) {
        return Err(format!("an effect was applied {} times", effect.applied));
    }
    if (forward, undone) != (meant_forward, meant_undone) {
        return Err(format!(
            "{}, with {forward} effects of which {undone} were undone, not {meant_forward} and {meant_undone}",
            plan.end
        ));
    }
    if (spent, net) != (meant_spent, meant_spent) {
        return Err(format!("{}, MUX took {spent} and FLO nets {net}, where {meant_spent} is due", plan.end));
    }
    Ok(())
}

impl World {
    fn add(&mut self, effects: &[Effect], net: i64, found: Result<(), String>) {
        let (forward, undone) = count(effects);
        self.effects += forward;
        self.undone += undone;
        self.net += net;
        if let Err(text) = found {
            self.disagreements += 1;
            if self.examples.len() < EXAMPLES {
                self.examples.push(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const COMPLETED: Charges = Charges { effects: 2, cost: 6 };

    fn plan(end: End, steps: usize) -> EndedPlan {
        EndedPlan { plan: Uuid::nil(), end, steps }
    }

    fn step() -> Effect {
        Effect { cost: 3, applied: 1, ..Effect::default() }
    }

    fn undo(no_op: bool) -> Effect {
        let refund = if no_op { 0 } else { 3 };
        Effect { undo_of: Some("key".to_owned()), no_op, refund, applied: 1, ..Effect::default() }
    }

    #[test]
    fn a_completed_plan_had_each_effect_once_and_cost_what_it_says() {
        let done = plan(End::Completed, 2);
        assert_eq!(judge(done, COMPLETED, &[step(), step()], 6), Ok(()));
        assert!(judge(done, COMPLETED, &[step()], 3).is_err());
        assert!(judge(done, COMPLETED, &[step(), step(), step()], 9).is_err());
        assert!(judge(done, COMPLETED, &[step(), step()], 3).is_err(), "FLO has lost an event");
        let twice = Effect { applied: 2, ..step() };
        assert!(judge(done, COMPLETED, &[step(), twice], 6).is_err());
    }

    #[test]
    fn an_aborted_plan_left_nothing_behind() {
        let aborted = plan(End::Aborted, 1);
        assert_eq!(judge(aborted, COMPLETED, &[step(), undo(false), undo(true)], 0), Ok(()));
        assert!(judge(aborted, COMPLETED, &[step(), undo(true)], 3).is_err());
        assert!(judge(aborted, COMPLETED, &[step(), step(), undo(false)], 3).is_err());
    }

    #[test]
    fn what_was_not_approved_did_nothing() {
        assert_eq!(judge(plan(End::Rejected, 0), COMPLETED, &[], 0), Ok(()));
        assert!(judge(plan(End::Refused, 0), COMPLETED, &[step()], 3).is_err());
    }
}
