//! Outcomes are committed as they come, grouped by arrival: while one group is in the database the next gathers, so that
//! a slow step delays nobody and a commit's cost is shared under load (group commit). The transaction that completes a
//! step claims its successor, where it may (`going_on`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use dat_plan::PlanKey;
use dat_store::{ClaimReport, ClaimRequest, GoingOn, SettleReport, Settlement, StoreError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::dispatcher::Dispatcher;
use crate::ended::Ended;
use crate::fleet::Fleet;
use crate::going_on::{GoneOn, Next};
use crate::landed::{Landed, Part};
use crate::lanes::{Lane, Lanes};

/// Groups in the database at once. Two, so that a plan's outcome waits for no other plan's lock; more would share a
/// commit's cost among fewer.
const FLIGHTS: usize = 2;

/// Groups that are in the database, and of which something is still to be told to Redis or the broker.
const FOLLOWED: usize = 64;

/// From so many outcomes of one plan on, they are a group of their own.
const MANY: usize = 16;

/// What has come and is not in the database yet.
#[derive(Default)]
struct Waiting {
    outcomes: Vec<Ended>,
    /// Plans whose outcomes are being committed. Others of theirs wait here: in the database they would wait for a lock,
    /// and everything in their group with them.
    flying: BTreeSet<PlanKey>,
}

/// A group of outcomes on its way into the database, and the lanes of its tenants.
struct Flight {
    group: Vec<Ended>,
    lane: Lane,
}

impl Waiting {
    /// The next group: whatever waits of plans and tenants that are in no other, at most `most`, in the order in which it
    /// came.
    fn take(&mut self, lanes: &Arc<Lanes>, most: usize) -> Option<Flight> {
        let apart = self.apart();
        let may = |one: &Ended| !self.flying.contains(&one.plan()) && apart != Some(one.plan());
        let tenants = self.outcomes.iter().filter(|one| may(one)).map(|one| one.tenant.clone());
        let lane = lanes.take_free(tenants)?;
        let (mut group, mut left) = (Vec::new(), Vec::new());
        for one in std::mem::take(&mut self.outcomes) {
            if group.len() < most && lane.holds(&one.tenant) && may(&one) {
                group.push(one);
            } else {
                left.push(one);
            }
        }
        self.outcomes = left;
        self.flying.extend(group.iter().map(Ended::plan));
        Some(Flight { group, lane })
    }

    /// The plan with the most outcomes, where it has many and others have some: these do not wait until it is written.
    fn apart(&self) -> Option<PlanKey> {
        let mut counts: BTreeMap<PlanKey, usize> = BTreeMap::new();
        for plan in self.outcomes.iter().map(Ended::plan).filter(|plan| !self.flying.contains(plan)) {
            *counts.entry(plan).or_default() += 1;
        }
        let (plan, count) = counts.iter().max_by_key(|(_, count)| **count)?;
        (counts.len() > 1 && *count > MANY).then_some(*plan)
    }

    fn landed(&mut self, plans: &BTreeSet<PlanKey>) {
        self.flying.retain(|plan| !plans.contains(plan));
    }
}

/// Commits outcomes until every sender is gone.
pub(crate) async fn commit(
    fleet: Arc<Fleet>,
    dispatcher: Option<Weak<Dispatcher>>,
    mut ended: mpsc::UnboundedReceiver<Ended>,
) {
    let mut waiting = Waiting::default();
    let mut flights: JoinSet<(BTreeSet<PlanKey>, Landed)> = JoinSet::new();
    let mut followed = JoinSet::new();
    let mut open = true;
    while open || !flights.is_empty() || !waiting.outcomes.is_empty() {
        tokio::select! {
            Some(landed) = flights.join_next() => match landed {
                Ok((plans, landed)) => {
                    waiting.landed(&plans);
                    let (fleet, dispatcher) = (Arc::clone(&fleet), dispatcher.clone());
                    followed.spawn(async move { landed.follow(&fleet, dispatcher.as_ref()).await });
                }
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return,
                },
            },
            Some(_) = followed.join_next() => {}
            first = ended.recv(), if open => {
                open = first.is_some();
                waiting.outcomes.extend(first);
            }
            // A claim that held a lane has ended.
            () = fleet.lanes.freed(), if !waiting.outcomes.is_empty() => {}
        }
        while let Ok(more) = ended.try_recv() {
            waiting.outcomes.push(more);
        }
        while flights.len() < FLIGHTS && followed.len() < FOLLOWED {
            let Some(flight) = waiting.take(&fleet.lanes, fleet.settings.batch) else { break };
            flights.spawn(fly(Arc::clone(&fleet), dispatcher.clone(), flight));
        }
    }
    while followed.join_next().await.is_some() {}
}

/// Commits a group and gives its slots back; gives its plans, and what is left to be done about it.
async fn fly(
    fleet: Arc<Fleet>,
    dispatcher: Option<Weak<Dispatcher>>,
    Flight { group, lane }: Flight,
) -> (BTreeSet<PlanKey>, Landed) {
    // Held weakly until here: the dispatcher can hand out no more work once its own tasks have ended.
    let dispatcher = dispatcher.as_ref().and_then(Weak::upgrade);
    let plans = group.iter().map(Ended::plan).collect();
    let landed = settle(&fleet, dispatcher.as_deref(), group).await;
    drop(lane);
    if let Some(dispatcher) = &dispatcher {
        fleet.metrics.slots_busy(fleet.settings.slots - dispatcher.free());
        dispatcher.slot_freed();
    }
    (plans, landed)
}

/// Settles a group. A group that the database refuses is halved until the culprit stands alone; what *it* answered
/// cannot be kept, so it counts as failed, as sent, with its cost.
async fn settle(fleet: &Fleet, dispatcher: Option<&Dispatcher>, group: Vec<Ended>) -> Landed {
    let mut landed = Landed::default();
    let mut parts = vec![group];
    while let Some(mut part) = parts.pop() {
        match settle_part(fleet, dispatcher, &mut part).await {
            Ok((report, gone_on)) => landed.push(Part::new(part, report, gone_on)),
            Err(refusal) if part.len() == 1 => {
                let Some(culprit) = part.first_mut() else { continue };
                tracing::error!(plan = %culprit.plan(), %refusal, "an outcome cannot be stored");
                if culprit.give_up_answer() {
                    parts.push(part);
                } // else its lease runs out, and a probe tells what came of it
            }
            Err(_) => {
                let second = part.split_off(part.len() / 2);
                parts.push(part);
                parts.push(second);
            }
        }
    }
    landed
}

/// Settles a part, and starts what it goes on with.
async fn settle_part(
    fleet: &Fleet,
    dispatcher: Option<&Dispatcher>,
    part: &mut [Ended],
) -> Result<(SettleReport, Option<GoneOn>), StoreError> {
    let settlements: Vec<Settlement> = part.iter().map(|ended| ended.settlement.clone()).collect();
    if let Some(dispatcher) = dispatcher
        && let Some(next) = Next::of(fleet, dispatcher, part).await
    {
        let requests = next.requests(fleet);
        match settle_when_possible(fleet, &settlements, &requests, next.asked().era()).await {
            Ok((report, claimed)) => {
                drop(requests);
                let mut slots =
                    |plan| part.iter_mut().filter(|e| e.plan() == plan).find_map(|e| e.slot.take());
                let gone_on = dispatcher.go_on(next, claimed, &mut slots);
                return Ok((report, Some(gone_on)));
            }
            // Which of the two is refused is not known: the outcome alone is tried.
            Err(refusal) => {
                tracing::error!(%refusal, "outcomes cannot be stored with what they go on with");
                drop(requests);
                next.give_back(fleet).await;
            }
        }
    }
    Ok((settle_when_possible(fleet, &settlements, &[], None).await?.0, None))
}

/// Settles as soon as the database answers: what an outside system did must not be forgotten because of an outage.
async fn settle_when_possible(
    fleet: &Fleet,
    part: &[Settlement],
    requests: &[ClaimRequest<'_>],
    era: Option<i64>,
) -> Result<(SettleReport, ClaimReport), StoreError> {
    let mut wait = Duration::from_millis(50);
    loop {
        let timer = fleet.metrics.outcome_timer();
        let now = fleet.now();
        let next = GoingOn { requests, era, worker: &fleet.name, until: fleet.lease_end(now) };
        match fleet.store.settle_and_go_on(part, Some(next), now).await {
            Ok(reports) => {
                timer.observe_duration();
                return Ok(reports);
            }
            Err(error) if error.is_unavailable() => {
                timer.stop_and_discard();
                tracing::warn!(%error, outcomes = part.len(), "outcomes wait for the database");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(2));
            }
            Err(error) => {
                timer.stop_and_discard();
                return Err(error);
            }
        }
    }
}
