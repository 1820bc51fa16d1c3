//! The Dispatcher: the part of the Execution Orchestrator that hands out work. It claims whatever may run next, at most as
//! much as this worker has free slots for, and starts it.
//!
//! **Owns** the slots, and whose turn it is. **May be called** by the stage of `step.dispatch`, by the worker's own bell, and
//! by the committer of outcomes, for what goes on. **Must never** have two claims under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use chrono::TimeDelta;
use dat_plan::{PlanKey, UnitKey};
use dat_store::{ClaimReport, ClaimRequest, Claimed, Due, StoreError, Turns};
use tokio::sync::{Mutex, MutexGuard, Semaphore, mpsc};

use crate::asked::Asked;
use crate::batch;
use crate::doorbell::{self, Doorbell};
use crate::doubtful::Doubtful;
use crate::ended::{Ended, Slot};
use crate::fleet::Fleet;
use crate::going_on::{GoneOn, Next};
use crate::limits::Candidates;
use crate::recovery;
use crate::runner;
use crate::running::Running;

/// How soon a claim that met a locked plan looks again; twice as late each time that it meets one again.
const CONTENDED: TimeDelta = TimeDelta::milliseconds(10);
/// How many times the wait doubles: to 160 ms. Many workers at one large plan would otherwise do little but look.
const DOUBLINGS: u32 = 4;
/// How long a unit that the database refuses to claim is left alone.
const UNCLAIMABLE: TimeDelta = TimeDelta::seconds(30);

/// How many steps of a plan follow each other without a look at what else is due, where something else waits for a slot.
const GOES_ON: u32 = 8;

/// The most units in one look, where most of those before waited for their limits.
const LOOK: usize = 512;

/// What a claim did, the more the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moved {
    /// Nothing: another worker took it, or will.
    Nothing,
    /// Most of what it looked at waits for its limits.
    Waits,
    /// It took most of it.
    Some,
}

/// Claims work and starts it.
pub(crate) struct Dispatcher {
    pub(crate) fleet: Arc<Fleet>,
    slots: Arc<Semaphore>,
    running: Arc<Running>,
    ended: mpsc::UnboundedSender<Ended>,
    /// One claim at a time in a worker: two would look at the same rows. Whose turn it is goes with the right to claim.
    claiming: Mutex<Turns>,
    /// More is due than there were slots for: a slot that becomes free is used at once.
    hungry: AtomicBool,
    /// How many units the next look is for, where more than there are free slots.
    look: AtomicUsize,
    /// Claims in a row that met a locked plan.
    contended: AtomicU32,
    /// Turns that were granted for what was not claimed.
    doubtful: Doubtful,
    /// Units that were claimed by going on since the last look, by tenant.
    gone_on: std::sync::Mutex<BTreeMap<String, u32>>,
}

impl Dispatcher {
    pub(crate) fn new(fleet: Arc<Fleet>, running: Arc<Running>, ended: mpsc::UnboundedSender<Ended>) -> Self {
        let slots = Arc::new(Semaphore::new(fleet.settings.slots));
        Self {
            fleet,
            slots,
            running,
            ended,
            claiming: Mutex::default(),
            hungry: AtomicBool::new(false),
            look: AtomicUsize::new(0),
            contended: AtomicU32::new(0),
            doubtful: Doubtful::default(),
            gone_on: std::sync::Mutex::default(),
        }
    }

    /// How many attempts may still be started.
    pub(crate) fn free(&self) -> usize {
        self.slots.available_permits()
    }

    /// A slot became free.
    pub(crate) fn slot_freed(&self) {
        if self.hungry.swap(false, Ordering::Relaxed) {
            self.fleet.bells.dispatch.ring();
        }
    }

    /// Claims whenever this process is told to, beside the doorbells of the broker.
    pub(crate) async fn follow_bells(&self) {
        loop {
            tokio::select! {
                () = self.fleet.draining.cancelled() => return,
                () = self.fleet.bells.dispatch.rung() => {}
            }
            if let Err(error) = self.claim().await {
                tracing::warn!(%error, "nothing could be claimed");
                let now = self.fleet.now();
                self.fleet.bells.dispatch.set(now + TimeDelta::milliseconds(500), now);
            }
        }
    }

    /// Claims what is due until nothing is, or the slots are used.
    pub(crate) async fn claim(&self) -> Result<(), StoreError> {
        let mut turns = self.claiming.lock().await;
        self.claim_alone(&mut turns).await
    }

    /// The right to claim, once a slot is free. Others that would claim wait too: they could not.
    pub(crate) async fn slot_is_free(&self) -> MutexGuard<'_, Turns> {
        let turns = self.claiming.lock().await;
        drop(self.slots.acquire().await);
        turns
    }

    pub(crate) async fn claim_alone(&self, turns: &mut Turns) -> Result<(), StoreError> {
        let fleet = &*self.fleet;
        self.doubtful.look(fleet).await?;
        while !fleet.draining.is_cancelled() {
            for (tenant, units) in
                std::mem::take(&mut *self.gone_on.lock().unwrap_or_else(PoisonError::into_inner))
            {
                turns.served(&tenant, units);
            }
            let free = self.free().min(fleet.settings.batch);
            if free == 0 {
                self.hungry.store(true, Ordering::Relaxed);
                return Ok(());
            }
            let now = fleet.now();
            let look = self.look.load(Ordering::Relaxed).max(free);
            let limit = i64::try_from(look).unwrap_or(i64::MAX);
            let Due { candidates: due, more } = fleet.store.due(turns, limit, now).await?;
            fleet.backlog.saw(more);
            if due.is_empty() {
                return Ok(());
            }
            let documents = fleet.documents.get(&fleet.store, due.iter().map(|c| c.unit.plan)).await?;
            let mut batch = Candidates::with_capacity(due.len());
            let mut broken = Vec::new();
            for candidate in due {
                let plan = &candidate.unit.plan;
                match documents.plans.get(plan) {
                    Some(prepared) => batch.push((candidate, Arc::clone(prepared))),
                    None => broken.push((candidate.unit, documents.why_not(plan))),
                }
            }
            self.leave(broken).await?;
            let (few, many) = batch::apart(batch);
            let mut moved = self.claim_batch(few, free).await?;
            if !many.is_empty() {
                let left = self.free().min(free);
                moved = moved.max(self.claim_batch(many, left).await?);
            }
            match moved {
                Moved::Nothing => return Ok(()),
                // Thousands wait for one rate: they are given their turns in few looks.
                Moved::Waits => self.look.store((look * 4).min(LOOK), Ordering::Relaxed),
                Moved::Some => self.look.store(0, Ordering::Relaxed),
            }
            if !more {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Leaves units alone for a while, so that they do not stand in the way of others.
    async fn leave(&self, units: Vec<(UnitKey, String)>) -> Result<(), StoreError> {
        if units.is_empty() {
            return Ok(());
        }
        let now = self.fleet.now();
        let later: Vec<ClaimRequest<'_>> = units
            .into_iter()
            .map(|(unit, reason)| ClaimRequest::Defer {
                unit,
                until: now + UNCLAIMABLE,
                reason,
                rate_slot: None,
            })
            .collect();
        let report = self.fleet.store.claim(&later, &self.fleet.name, now, now).await?;
        self.fleet.metrics.seals_broken(report.broken);
        Ok(())
    }

    /// Asks the limits, then the database, for at most `free` units.
    async fn claim_batch(&self, batch: Candidates, free: usize) -> Result<Moved, StoreError> {
        if batch.is_empty() {
            return Ok(Moved::Nothing);
        }
        let asked = Asked::ask(&self.fleet, batch, free).await;
        let moved = self.claim_asked(&asked).await;
        // However that went: what was to try a breaker and was not started lets another try.
        asked.give_back_trials(&self.fleet).await;
        moved
    }

    async fn claim_asked(&self, asked: &Asked) -> Result<Moved, StoreError> {
        let fleet = &*self.fleet;
        if asked.lost() {
            recovery::look(fleet).await?;
        }
        let guards = asked.guards(fleet);
        let (requests, postponed) = asked.requests(&guards, fleet.now());
        let now = fleet.now();
        let waiting = fleet.store.postpone(&postponed, now).await?;
        let mut report = if requests.is_empty() {
            ClaimReport::default()
        } else {
            let _lane = fleet.lanes.take(asked.tenants()).await;
            let now = fleet.now();
            let lease_end = fleet.lease_end(now);
            match fleet.store.claim_in_era(&requests, asked.era(), &fleet.name, lease_end, now).await {
                Ok(Some(report)) => report,
                // Redis was lost since the batch reserved in it: all of it is asked again.
                Ok(None) => {
                    fleet.bells.dispatch.set(now + CONTENDED, now);
                    return Ok(Moved::Nothing);
                }
                Err(error) if !error.is_unavailable() => self.claim_singly(&requests, asked, &error).await?,
                // Whether it committed is not known: the reconciler looks what became of what was reserved.
                Err(error) => return Err(error),
            }
        };
        // Another worker looked at the same rows: one of them does the work, the other looks again later.
        report.contended += postponed.len() - waiting.len();
        report.deferred += waiting.len();
        report.waiting.extend(waiting);
        let moved = match (report.claimed.len() + report.refused.len() + report.stale, report.deferred) {
            (0, 0) => Moved::Nothing,
            (moved, waits) if waits > moved => Moved::Waits,
            _ => Moved::Some,
        };
        let taken = taken(&report);
        for claimed in std::mem::take(&mut report.claimed) {
            let permit = Arc::clone(&self.slots).try_acquire_owned();
            // Slots are taken by this method alone, one claim at a time, so that what was free still is.
            if let (Some(plan), Ok(permit)) = (asked.plan(claimed.lease.unit), permit) {
                self.start(claimed, Slot { permit, plan: Arc::clone(plan), went_on: 0 });
            }
        }
        fleet.metrics.slots_busy(fleet.settings.slots - self.free());
        self.follow(asked, report, &taken, false).await?;
        Ok(moved)
    }

    /// One unit of a batch holds what the database refuses: each is claimed alone, and the culprit is left for a while.
    async fn claim_singly(
        &self,
        requests: &[ClaimRequest<'_>],
        asked: &Asked,
        refusal: &StoreError,
    ) -> Result<ClaimReport, StoreError> {
        let fleet = &*self.fleet;
        tracing::error!(%refusal, "a batch cannot be claimed; trying each alone");
        let mut whole = ClaimReport::default();
        for request in requests {
            let now = fleet.now();
            let one = std::slice::from_ref(request);
            match fleet.store.claim_in_era(one, asked.era(), &fleet.name, fleet.lease_end(now), now).await {
                Ok(None) => return Ok(whole),
                Ok(Some(report)) => {
                    whole.claimed.extend(report.claimed);
                    whole.refused.extend(report.refused);
                    whole.accounts.extend(report.accounts);
                    whole.deferred += report.deferred;
                    whole.waiting.extend(report.waiting);
                    whole.contended += report.contended;
                    whole.stale += report.stale;
                    whole.violations += report.violations;
                    whole.broken += report.broken;
                    whole.unaffordable += report.unaffordable;
                }
                Err(error) if error.is_unavailable() => return Err(error),
                Err(error) => {
                    let unit = request.unit();
                    tracing::error!(plan = %unit.plan, step = unit.index, %error, "cannot be claimed");
                    self.leave(vec![(unit, format!("the database refuses its claim: {error}"))]).await?;
                    whole.deferred += 1;
                }
            }
        }
        Ok(whole)
    }

    /// What follows from a claim once its attempts have started: reservations and turns that were not used are given back,
    /// bells are rung.
    async fn follow(
        &self,
        asked: &Asked,
        report: ClaimReport,
        taken: &BTreeSet<UnitKey>,
        ahead: bool,
    ) -> Result<(), StoreError> {
        let fleet = &*self.fleet;
        asked.give_back(fleet, &report, taken, ahead).await;
        // Of what a settlement asked for ahead nothing is in doubt: it was given back.
        if !ahead && report.stale == 0 {
            self.doubtful.add(fleet, asked.in_doubt(fleet, &report, taken).into_iter());
        }
        if report.stale > 0 {
            // An operator has set other rules since; what they concern is due still.
            fleet.operators.refresh(&fleet.store).await?;
            fleet.bells.dispatch.ring();
        }
        fleet.metrics.claim(&report, taken.len());
        // What only waits for its turn writes no event.
        let now = fleet.now();
        if let Some(due) = report.next_due.filter(|due| !asked.waits().contains(due)) {
            fleet.bells.dispatch.set(due, now);
        }
        if report.contended > 0 {
            let before = self.contended.fetch_add(1, Ordering::Relaxed);
            fleet.bells.dispatch.set(now + CONTENDED * (1 << before.min(DOUBLINGS)), now);
        } else if !ahead {
            self.contended.store(0, Ordering::Relaxed);
        }
        asked.plans().for_each(|plan| fleet.live.touch(plan));
        dat_fault::around("claim.copies", fleet.limits.copy(&report.accounts)).await;
        doorbell::ring(fleet, Doorbell::Failed, &report.refused).await;
        Ok(())
    }

    /// Starts what a settlement went on with, in the slots of what it settled.
    pub(crate) fn go_on(
        &self,
        next: Next,
        mut report: ClaimReport,
        slot_of: &mut dyn FnMut(PlanKey) -> Option<Slot>,
    ) -> GoneOn {
        let taken = taken(&report);
        for claimed in std::mem::take(&mut report.claimed) {
            // At most one successor was asked for a slot.
            if let Some(slot) = slot_of(claimed.lease.unit.plan) {
                self.served(&claimed.tenant);
                self.start(claimed, Slot { went_on: slot.went_on + 1, ..slot });
            }
        }
        GoneOn { next, report, taken }
    }

    /// What follows once these have started.
    pub(crate) async fn follow_gone_on(&self, GoneOn { next, report, taken }: GoneOn) {
        if let Err(error) = self.follow(next.asked(), report, &taken, true).await {
            tracing::warn!(%error, "the newest constraint sets are read at the next claim");
        }
        next.asked().give_back_trials(&self.fleet).await;
    }

    /// Whether a plan that went on so often may do so once more: always, while nothing else waits for a slot.
    pub(crate) fn may_go_on(&self, went_on: u32) -> bool {
        !self.fleet.draining.is_cancelled() && (went_on < GOES_ON || !self.hungry.load(Ordering::Relaxed))
    }

    /// A unit of a tenant was claimed without a look at what else is due; its next turn is later.
    fn served(&self, tenant: &str) {
        let mut gone_on = self.gone_on.lock().unwrap_or_else(PoisonError::into_inner);
        *gone_on.entry(tenant.to_owned()).or_default() += 1;
    }

    fn start(&self, claimed: Claimed, slot: Slot) {
        let (fleet, running, ended) =
            (Arc::clone(&self.fleet), Arc::clone(&self.running), self.ended.clone());
        running.add(&claimed.lease);
        fleet.breakers.started(&claimed.lease.unit, claimed.attempt);
        tokio::spawn(async move {
            let unit = claimed.lease.unit;
            let outcome = runner::attempt(&fleet, &running, &slot.plan, claimed).await;
            running.remove(&unit);
            // The committer ends after the last attempt has.
            let _ = ended.send(outcome.holding(slot));
        });
    }
}

/// What a claim took.
fn taken(report: &ClaimReport) -> BTreeSet<UnitKey> {
    report.claimed.iter().map(|claimed| claimed.lease.unit).collect()
}
