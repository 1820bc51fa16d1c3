//! A worker: does what a real one does, in its order, and crashes where the dice say.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use dat_guards::{AccountCopy, Affordable, fits};
use dat_plan::clock::SeededEntropy;
use dat_plan::event::{Destination, EventKind, LoggedEvent};
use dat_plan::mux::{ActionReply, ActionRequest, ActionStatus, ProbeStatus};
use dat_plan::rollback::{self, FailedUnit};
use dat_plan::{Entropy as _, PlanKey, UnitKey, UnitKind};
use dat_store::{
    AccountView, Candidate, ClaimRequest, Claimed, Finding, RanStep, RollbackStart, Ruling, Settled,
    Settlement,
};
use serde_json::json;

use super::case::Group;
use super::crash::{Crashed, Point};
use super::plans::Plan;
use super::windows::{self, reservation};

/// No group takes so many rounds of one worker.
const ROUNDS: usize = 3_000;
/// One in so many passes of a point is a crash.
const CRASH: u64 = 40;

pub(super) struct Worker {
    group: Arc<Group>,
    dice: SeededEntropy,
    number: u64,
    lives: u64,
    /// Requests that are stuck somewhere, to arrive late.
    stuck: Vec<(ActionRequest, Claimed)>,
    /// Outcomes whose answer has come and that are not written yet.
    answered: Vec<(Settlement, Option<(String, i64)>)>,
    /// Outcomes that were written, to be written again.
    written: Vec<Settlement>,
}

impl Worker {
    pub(super) fn new(group: Arc<Group>, number: u64) -> Self {
        let dice = SeededEntropy::new(group.seed.wrapping_mul(31).wrapping_add(number + 1));
        Self { group, dice, number, lives: 0, stuck: vec![], answered: vec![], written: vec![] }
    }

    pub(super) async fn work(mut self) {
        for _ in 0..ROUNDS {
            if self.round().await.is_err() {
                // Another process in its place, that knows nothing.
                self.lives += 1;
                self.answered.clear();
                self.written.clear();
            }
            if self.one_in(30) {
                self.group.shared.flush().await;
            }
            if self.stuck.is_empty()
                && self.group.open().await.is_empty()
                && self.relay().await.is_ok_and(|any| !any)
            {
                return;
            }
        }
        panic!("seed {}: these do not end: {:#?}", self.group.seed, self.group.open().await);
    }

    async fn round(&mut self) -> Result<(), Crashed> {
        self.claim().await?;
        self.arrive().await;
        self.settle().await?;
        self.coordinate().await?;
        self.probe().await?;
        self.sweep().await?;
        self.relay().await?;
        Ok(())
    }

    fn name(&self) -> String {
        format!("worker-{}-{}-{}", self.group.seed, self.number, self.lives)
    }

    fn one_in(&self, n: u64) -> bool {
        self.dice.below(n) == 0
    }

    fn now(&self) -> DateTime<Utc> {
        self.group.tick(self.dice.below(1_000))
    }

    fn plan(&self, key: PlanKey) -> &Plan {
        &self.group.plans[&key]
    }

    fn point(&self, point: Point) -> Result<(), Crashed> {
        // Eras are rare: more of them crash, so that each such point is met in every run.
        let often = matches!(point, Point::EraBegun | Point::EraFilled | Point::Expired);
        if self.one_in(if often { 5 } else { CRASH }) {
            self.group.shared.tally.crashed(point);
            return Err(Crashed);
        }
        Ok(())
    }

    async fn check(&self) {
        self.group.shared.check_limits(self.group.seed).await;
    }

    async fn claim(&mut self) -> Result<(), Crashed> {
        let group = Arc::clone(&self.group);
        let shared = &group.shared;
        let now = self.now();
        let found = shared.store.candidates(32, now).await.expect("the database answers");
        let mut batch: Vec<(Candidate, &Plan)> = found
            .into_iter()
            .filter_map(|candidate| {
                let plan = self.plan(candidate.unit.plan);
                (self.dice.below(3) > 0).then_some((candidate, plan))
            })
            .collect();
        let copies: Vec<String> =
            batch.iter().filter_map(|(c, _)| c.plan_account).map(|id| id.to_string()).collect();
        let ids: Vec<&str> = copies.iter().map(String::as_str).collect();
        let copies = shared.copies.get(&ids).await.expect("Redis answers");
        let poor = |account: Option<i64>, cost| {
            let copy =
                copies.iter().flatten().find(|copy| account.is_some_and(|id| copy.account == id.to_string()));
            fits(&[copy.cloned()], cost) == Affordable::No
        };
        batch.retain(|(candidate, plan)| {
            let index = usize::try_from(candidate.unit.index).expect("a place");
            let cost = plan.document.steps.get(index).map_or(0, |step| step.max_cost);
            // A copy only postpones; now and then the database is asked all the same.
            candidate.unit.kind == UnitKind::Undo || self.one_in(4) || !poor(candidate.plan_account, cost)
        });
        let reserved = shared.windows.reserve(&batch).await;
        if reserved.lost {
            shared.tally.count("windows lost", 1);
            let recovered = shared
                .windows
                .recover(&shared.store, &self.name(), self.now(), |point| self.point(point))
                .await?;
            shared.tally.count("eras", usize::from(recovered));
        }
        self.point(Point::Reserved)?;
        let mut asked: Vec<ClaimRequest<'_>> = batch
            .iter()
            .map(|(candidate, plan)| {
                let passes = reserved.passes(candidate.unit, windows::counts(candidate.unit, plan));
                if passes && !self.one_in(20) {
                    return plan.run(candidate.unit);
                }
                let until = now + TimeDelta::seconds(3);
                let reason = "a limit".to_owned();
                ClaimRequest::Defer { unit: candidate.unit, until, reason, rate_slot: None }
            })
            .collect();
        asked.sort_by_cached_key(|_| self.dice.below(1_000));
        let lease = now + TimeDelta::seconds(60);
        let claimed = shared.store.claim_in_era(&asked, reserved.era, &self.name(), lease, now).await;
        self.check().await;
        self.point(Point::Claimed)?;
        let Some(report) = claimed.expect("the database answers") else { return Ok(()) };
        shared.tally.count("claims", report.claimed.len());
        shared.tally.count("refused by budget", report.unaffordable);
        let taken = |unit: UnitKey| report.claimed.iter().any(|claimed| claimed.lease.unit == unit);
        shared.windows.give_back(&reserved, taken).await;
        self.copy(&report.accounts).await;
        self.point(Point::Copied)?;
        for claimed in report.claimed {
            let request = self.request(&claimed, now);
            if self.one_in(10) {
                self.stuck.push((request, claimed));
            } else {
                self.send(request, claimed).await?;
            }
        }
        Ok(())
    }

    fn request(&self, claimed: &Claimed, now: DateTime<Utc>) -> ActionRequest {
        let unit = claimed.lease.unit;
        let step = &self.plan(unit.plan).document.steps[usize::try_from(unit.index).expect("a place")];
        let undo = step.compensation.as_ref().expect("every step can be undone");
        let (action, parameters, max_cost) = match unit.kind {
            UnitKind::Action => (&step.action, &step.parameters, step.max_cost),
            UnitKind::Undo => (&undo.action, &undo.parameters, undo.max_cost),
        };
        ActionRequest {
            action: action.clone(),
            parameters: parameters.clone(),
            idempotency_key: claimed.idempotency_key.clone(),
            not_after: now + TimeDelta::seconds(30),
            max_cost,
            currency: claimed.currency.clone(),
            tenant: claimed.tenant.clone(),
            plan_id: unit.plan.plan_id,
            plan_version: unit.plan.plan_version,
            step: claimed.step_key.clone(),
            attempt: claimed.attempt,
            undo_of: claimed.undo_of.clone(),
        }
    }

    async fn send(&mut self, request: ActionRequest, claimed: Claimed) -> Result<(), Crashed> {
        let now = self.now();
        let not_after = request.not_after;
        let reply = self.group.shared.books.act(request, now).await.expect("MUX answers");
        self.point(Point::Acted)?;
        // Whoever sent it waits no longer than until then.
        let finding = finding(reply.filter(|_| now <= not_after));
        let unit = claimed.lease.unit;
        let plan = self.plan(unit.plan);
        let used = match &finding {
            Finding::Done { cost, .. } if windows::counts(unit, plan) => {
                Some((reservation(unit, claimed.attempt), *cost))
            }
            _ => None,
        };
        self.answered.push((plan.settlement(&claimed.lease, finding), used));
        Ok(())
    }

    /// What was stuck arrives, maybe when its plan is long unwound; its worker may be dead by then.
    async fn arrive(&mut self) {
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.stuck).into_iter().partition(|_| self.dice.below(3) == 0);
        self.stuck = later;
        for (request, claimed) in now {
            self.group.shared.tally.count("late sends", 1);
            // The answer reaches whoever lives; a crash here is the answer lost.
            let _ = self.send(request, claimed).await;
        }
    }

    async fn copy(&self, accounts: &[AccountView]) {
        let copies: Vec<AccountCopy> = accounts
            .iter()
            .map(|view| AccountCopy {
                account: view.account_id.to_string(),
                version: view.version,
                limit: view.account.limit,
                settled: view.account.settled,
                reserved: view.account.reserved,
            })
            .collect();
        if !copies.is_empty() {
            self.group.shared.copies.put_all(&copies).await.expect("Redis answers");
        }
    }

    /// Writes most of what has come, in any order; the rest may come when its lease is long lost, and some of it twice.
    async fn settle(&mut self) -> Result<(), Crashed> {
        let group = Arc::clone(&self.group);
        let shared = &group.shared;
        let (later, mut group): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.answered).into_iter().partition(|_| self.dice.below(6) == 0);
        self.answered = later;
        group.sort_by_cached_key(|_| self.dice.below(1_000));
        let used: Vec<(String, i64)> = group.iter().filter_map(|(_, used)| used.clone()).collect();
        let mut settlements: Vec<Settlement> = group.into_iter().map(|(settlement, _)| settlement).collect();
        if self.one_in(4) {
            shared.tally.count("repeated", self.written.len());
            settlements.append(&mut self.written);
        }
        if !settlements.is_empty() {
            let report = shared.store.settle(&settlements, self.now()).await.expect("the database answers");
            self.check().await;
            let fenced = report.settled.iter().filter(|settled| **settled == Settled::Fenced).count();
            shared.tally.count("fenced", fenced);
            for settlement in &settlements {
                if let Finding::Done { refund: 1.., .. } = settlement.finding {
                    shared.tally.count("refunds", 1);
                }
            }
            self.point(Point::Settled)?;
            shared.windows.settle(&used).await;
            self.point(Point::Corrected)?;
            self.copy(&report.accounts).await;
            self.written.extend(settlements);
        }
        if self.one_in(3) {
            let held: Vec<_> = self.answered.iter().map(|(s, _)| s.lease.clone()).collect();
            let until = self.now() + TimeDelta::seconds(60);
            shared.store.renew(&held, until).await.expect("the database answers");
        }
        Ok(())
    }

    async fn coordinate(&mut self) -> Result<(), Crashed> {
        let store = &self.group.shared.store;
        let now = self.now();
        let failed = store.undecided(64, now).await.expect("the database answers");
        let rulings: Vec<Ruling> = failed
            .into_iter()
            .map(|row| {
                let plan = self.plan(row.unit.plan);
                let step = &plan.document.steps[usize::try_from(row.unit.index).expect("a place")];
                let retry = match row.unit.kind {
                    UnitKind::Action => &step.retry,
                    UnitKind::Undo => &step.compensation.as_ref().expect("it can be undone").retry,
                };
                let unit = FailedUnit {
                    kind: row.unit.kind,
                    last: row.last,
                    attempts: row.counted,
                    lost: row.lost,
                    retry,
                    retry_after: row.retry_after,
                    since: row.since,
                    plan_goes_on: row.plan_goes_on,
                };
                let decision = rollback::decide(&unit, plan.document.rollback.kind, now, &self.dice);
                Ruling { failed: row, decision }
            })
            .collect();
        store.rule(&rulings, now).await.expect("the database answers");
        self.point(Point::Ruled)?;
        let due = store.rollbacks_due(64, now).await.expect("the database answers");
        let undos: Vec<_> =
            due.iter().map(|key| (*key, |ran: &[RanStep]| self.plan(*key).undos(ran))).collect();
        let starts: Vec<_> = undos.iter().map(|(plan, undos)| RollbackStart { plan: *plan, undos }).collect();
        store.begin_undo(&starts, now).await.expect("the database answers");
        self.check().await;
        self.point(Point::Undone)
    }

    async fn probe(&mut self) -> Result<(), Crashed> {
        let group = Arc::clone(&self.group);
        let shared = &group.shared;
        let now = self.now();
        let lease = now + TimeDelta::seconds(30);
        let probes = shared.store.claim_probes(&self.name(), 8, lease, now).await;
        for probe in probes.expect("the database answers") {
            let unit = probe.lease.unit;
            let plan = self.plan(unit.plan);
            shared.tally.count("probes", 1);
            let finding = if self.one_in(5) {
                Finding::CannotTell { detail: "away".to_owned(), again_at: now + TimeDelta::seconds(2) }
            } else {
                let reply = shared.books.probe(probe.idempotency_key.clone()).await.expect("MUX answers");
                self.point(Point::Probed)?;
                match reply.status {
                    ProbeStatus::Done => {
                        let result = reply.result.unwrap_or_else(|| json!({}));
                        Finding::Done { result, cost: reply.cost, refund: reply.refund }
                    }
                    ProbeStatus::Sealed => Finding::Sealed,
                    ProbeStatus::Unknown => panic!("the sandbox can always tell"),
                }
            };
            self.answered.push((plan.settlement(&probe.lease, finding), None));
        }
        Ok(())
    }

    async fn sweep(&mut self) -> Result<(), Crashed> {
        let store = &self.group.shared.store;
        let now = self.now();
        let expired = store.expire_leases(20, now).await.expect("the database answers");
        self.check().await;
        if !expired.is_empty() {
            self.point(Point::Expired)?;
        }
        let due = store.due_plans(64, now).await.expect("the database answers");
        let due: Vec<PlanKey> = due.into_iter().map(|due| due.plan).collect();
        store.stop_overdue(&due, now).await.expect("the database answers");
        Ok(())
    }

    /// Publishes what streams hold to FLO: doubled where a relay crashed before it wrote its progress, and in any order
    /// among plans. Whether there was anything.
    async fn relay(&mut self) -> Result<bool, Crashed> {
        let group = Arc::clone(&self.group);
        let shared = &group.shared;
        let now = self.now();
        let mut streams = shared
            .store
            .claim_streams(8, 20, TimeDelta::seconds(5), now)
            .await
            .expect("the database answers");
        streams.sort_by_cached_key(|_| self.dice.below(1_000));
        let any = !streams.is_empty();
        let mut progress = Vec::new();
        for stream in streams {
            let all = stream.events.len();
            // A broker that goes away confirms a part; what came after it is sent again.
            let confirmed = if self.one_in(6) { all / 2 } else { all };
            let financial = |kind: &str| {
                kind.parse().is_ok_and(|kind: EventKind| kind.destinations().contains(&Destination::Flo))
            };
            let sent: Vec<_> =
                stream.events.iter().filter(|e| financial(&e.kind)).map(LoggedEvent::envelope).collect();
            if confirmed < all || self.one_in(8) {
                shared.tally.count("doubled events", sent.len());
                shared.books.receive(sent.clone()).await.expect("FLO answers");
            }
            shared.books.receive(sent).await.expect("FLO answers");
            self.point(Point::Relayed)?;
            progress.push(stream.confirmed(confirmed, now));
        }
        shared.store.record_relayed(&progress, &[]).await.expect("the database answers");
        Ok(any)
    }
}

fn finding(reply: Option<ActionReply>) -> Finding {
    let Some(reply) = reply else {
        return Finding::Unanswered { detail: "no answer".to_owned() };
    };
    let detail = reply.message.unwrap_or_default();
    match reply.status {
        ActionStatus::Ok => {
            let result = reply.result.unwrap_or_else(|| json!({}));
            Finding::Done { result, cost: reply.cost, refund: reply.refund }
        }
        ActionStatus::Error => Finding::Error { cost: reply.cost, detail, retry_after_ms: 0 },
        ActionStatus::Refused => Finding::Refused { cost: reply.cost, detail },
    }
}
