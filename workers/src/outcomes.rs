//! Outcomes are committed as they come, grouped by arrival: while one group is in the database the next gathers, so that
//! a slow step delays nobody and a commit's cost is shared under load (group commit).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use dat_plan::PlanKey;
use dat_store::{Finding, SettleReport, Settled, Settlement, StoreError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use crate::doorbell::{self, Doorbell};
use crate::fleet::Fleet;
use crate::step_dispatch::Dispatcher;

/// An attempt or a probe that ended.
pub(crate) struct Ended {
    settlement: Settlement,
    connector: String,
    currency: String,
    /// The attempt's number; a probe has none.
    attempt: Option<i32>,
    took: Duration,
    /// The slot is free again when this is dropped, after the commit: what is in flight stays bounded.
    permit: Option<OwnedSemaphorePermit>,
}

impl Ended {
    pub(crate) fn attempt(
        settlement: Settlement,
        connector: String,
        currency: String,
        attempt: i32,
        took: Duration,
    ) -> Self {
        Self { settlement, connector, currency, attempt: Some(attempt), took, permit: None }
    }

    pub(crate) fn probe(settlement: Settlement, connector: String, took: Duration) -> Self {
        Self { settlement, connector, currency: String::new(), attempt: None, took, permit: None }
    }

    fn plan(&self) -> PlanKey {
        self.settlement.lease.unit.plan
    }

    pub(crate) fn holding(mut self, permit: OwnedSemaphorePermit) -> Self {
        self.permit = Some(permit);
        self
    }
}

/// Groups in the database at once. Two, so that a plan's outcome waits for no other plan's lock; more would share a
/// commit's cost among fewer.
const FLIGHTS: usize = 2;

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

impl Waiting {
    /// The next group: whatever waits of plans that are in no other, at most `most`, in the order in which it came.
    fn take(&mut self, most: usize) -> Vec<Ended> {
        let apart = self.apart();
        let mut group = Vec::new();
        for one in std::mem::take(&mut self.outcomes) {
            if group.len() < most && !self.flying.contains(&one.plan()) && apart != Some(one.plan()) {
                group.push(one);
            } else {
                self.outcomes.push(one);
            }
        }
        self.flying.extend(group.iter().map(Ended::plan));
        group
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
    let mut flights = JoinSet::new();
    let mut open = true;
    while open || !flights.is_empty() {
        tokio::select! {
            Some(landed) = flights.join_next() => match landed {
                Ok(plans) => waiting.landed(&plans),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return,
                },
            },
            first = ended.recv(), if open => {
                open = first.is_some();
                waiting.outcomes.extend(first);
            }
        }
        while let Ok(more) = ended.try_recv() {
            waiting.outcomes.push(more);
        }
        while flights.len() < FLIGHTS {
            let group = waiting.take(fleet.settings.batch);
            if group.is_empty() {
                break;
            }
            flights.spawn(fly(Arc::clone(&fleet), dispatcher.clone(), group));
        }
    }
}

/// Commits a group and gives its slots back; gives its plans.
async fn fly(
    fleet: Arc<Fleet>,
    dispatcher: Option<Weak<Dispatcher>>,
    mut group: Vec<Ended>,
) -> BTreeSet<PlanKey> {
    // Held weakly until here: the dispatcher can hand out no more work once its own tasks have ended.
    let dispatcher = dispatcher.as_ref().and_then(Weak::upgrade);
    settle(&fleet, dispatcher.as_deref(), &mut group).await;
    let plans = group.iter().map(Ended::plan).collect();
    drop(group);
    if let Some(dispatcher) = &dispatcher {
        fleet.metrics.slots_busy(fleet.settings.slots - dispatcher.free());
        dispatcher.slot_freed();
    }
    plans
}

/// Settles a group. A group that the database refuses is halved until the culprit stands alone; what *it* answered
/// cannot be kept, so it counts as failed, as sent, with its cost.
async fn settle(fleet: &Fleet, dispatcher: Option<&Dispatcher>, group: &mut [Ended]) {
    let mut parts = vec![(0, group.len())];
    while let Some((from, to)) = parts.pop() {
        let part = &mut group[from..to];
        let settlements: Vec<Settlement> = part.iter().map(|e| e.settlement.clone()).collect();
        match settle_when_possible(fleet, &settlements).await {
            Ok(report) => after(fleet, dispatcher, part, report).await,
            Err(refusal) if part.len() == 1 => {
                let Some(culprit) = part.first_mut() else { continue };
                let already_replaced = matches!(&culprit.settlement.finding, Finding::Unusable { .. });
                tracing::error!(plan = %culprit.settlement.lease.unit.plan, %refusal, "an outcome cannot be stored");
                if already_replaced {
                    continue; // its lease runs out, and a probe tells what came of it
                }
                let (cost, refund) = match &culprit.settlement.finding {
                    Finding::Done { cost, refund, .. } => (*cost, *refund),
                    Finding::Error { cost, .. } | Finding::Refused { cost, .. } => (*cost, 0),
                    _ => (0, 0),
                };
                let detail = "the answer cannot be stored by the database".to_owned();
                culprit.settlement.finding = Finding::Unusable { cost, refund, detail };
                parts.push((from, to));
            }
            Err(_) => {
                let middle = from + (to - from) / 2;
                parts.push((from, middle));
                parts.push((middle, to));
            }
        }
    }
}

/// Settles as soon as the database answers: what an outside system did must not be forgotten because of an outage.
async fn settle_when_possible(fleet: &Fleet, part: &[Settlement]) -> Result<SettleReport, StoreError> {
    let mut wait = Duration::from_millis(50);
    loop {
        let timer = fleet.metrics.outcome_timer();
        match fleet.store.settle(part, fleet.now()).await {
            Ok(report) => {
                timer.observe_duration();
                return Ok(report);
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

async fn after(fleet: &Fleet, dispatcher: Option<&Dispatcher>, part: &[Ended], report: SettleReport) {
    let mut used = Vec::new();
    for (ended, settled) in part.iter().zip(&report.settled) {
        let unit = ended.settlement.lease.unit;
        fleet.live.touch(unit.plan);
        match settled {
            Settled::Fenced => {
                tracing::warn!(plan = %unit.plan, step = unit.index, "the lease was lost: its outcome changes nothing");
                fleet.metrics.fenced();
            }
            Settled::Written(state) => {
                let cost = match &ended.settlement.finding {
                    Finding::Done { cost, .. }
                    | Finding::Error { cost, .. }
                    | Finding::Refused { cost, .. }
                    | Finding::Unusable { cost, .. } => *cost,
                    _ => 0,
                };
                match ended.attempt {
                    Some(attempt) => {
                        fleet.metrics.attempt(&ended.connector, state.as_str(), ended.took.as_secs_f64());
                        fleet.metrics.spent(&ended.currency, cost);
                        if ended.currency == "token" && !state.is_in_flight() {
                            used.push((format!("{}/{}/{attempt}", unit.plan, unit.index), cost));
                        }
                    }
                    // Nobody was asked.
                    None if matches!(ended.settlement.finding, Finding::HeldBack { .. }) => {}
                    None => fleet.metrics.probe(state.as_str()),
                }
            }
        }
    }
    fleet.metrics.late_answers(report.late);
    for (plan, state) in &report.ended {
        tracing::info!(%plan, %state, "ended");
        fleet.metrics.plan_ended(state.as_str());
    }
    if report.ended.is_empty() { &fleet.bells.log } else { &fleet.bells.log_now }.notify_one();
    ring(fleet, dispatcher, &report).await;
    dat_fault::around("windows.settle", fleet.windows.settle(&used)).await;
    dat_fault::around("settle.copies", fleet.limits.copy(&report.accounts)).await;
}

/// What became ready is first for this worker, which has the plan at hand; what it has no slots for is rung on the
/// broker.
async fn ring(fleet: &Fleet, dispatcher: Option<&Dispatcher>, report: &SettleReport) {
    let here = dispatcher.map_or(0, Dispatcher::free).min(report.ready.len());
    if here > 0 {
        fleet.bells.dispatch.ring();
    }
    doorbell::ring(fleet, Doorbell::Dispatch, &report.ready[here..]).await;
    if report.undecided > 0 {
        doorbell::ring_any(fleet, Doorbell::Failed).await;
    }
}
