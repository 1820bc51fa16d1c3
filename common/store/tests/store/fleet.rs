//! A fleet in small: tasks that do at random what workers do, crashes included, until every plan has ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::clock::{Entropy, SeededEntropy};
use dat_plan::rollback::{self, FailedUnit};
use dat_plan::{PlanKey, PlanState, UnitKind};
use dat_store::{ClaimRequest, Finding, RanStep, RollbackStart, Ruling, Settlement};
use serde_json::{Value, json};

use crate::database::{Db, at};
use crate::plans::{Plan, plan, step};

/// No plan of a run takes so many rounds of one task.
const ROUNDS: usize = 3_000;

/// What the tasks of a run share.
#[derive(Debug)]
pub(crate) struct Fleet {
    db: Db,
    plans: BTreeMap<PlanKey, Plan>,
    /// Milliseconds since the beginning of time.
    clock: AtomicI64,
    seed: u64,
}

impl Fleet {
    /// Random plans of three tenants, started.
    pub(crate) async fn start(db: &Db, seed: u64, plans: usize) -> Arc<Self> {
        let dice = SeededEntropy::new(seed);
        let mut started = BTreeMap::new();
        for _ in 0..plans {
            let plan = random_plan(&dice);
            db.start(&plan, at(0)).await;
            started.insert(plan.key(), plan);
        }
        Arc::new(Self { db: db.clone(), plans: started, clock: AtomicI64::new(0), seed })
    }

    /// Lets so many tasks work until every plan has ended. After every transaction `check` is asked of the database.
    pub(crate) async fn run(self: &Arc<Self>, tasks: u64, check: &'static str) {
        let tasks: Vec<_> = (0..tasks)
            .map(|task| {
                let fleet = Arc::clone(self);
                tokio::spawn(async move { Worker::new(fleet, task).work(check).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    /// How each plan ended.
    pub(crate) async fn ends(&self) -> Vec<PlanState> {
        let keys: Vec<PlanKey> = self.plans.keys().copied().collect();
        self.db.store.summaries(&keys).await.unwrap().into_iter().map(|summary| summary.state).collect()
    }

    fn tick(&self, ms: u64) -> DateTime<Utc> {
        let ms = i64::try_from(ms).unwrap();
        at(0) + TimeDelta::milliseconds(self.clock.fetch_add(ms, Ordering::Relaxed) + ms)
    }
}

fn amount(dice: &SeededEntropy, below: u64) -> i64 {
    i64::try_from(dice.below(below)).unwrap()
}

/// A plan of up to eight steps, any of which may need earlier ones; half of them cannot afford all of theirs.
fn random_plan(dice: &SeededEntropy) -> Plan {
    let count = 1 + dice.below(8);
    let names: Vec<String> = (0..count).map(|n| format!("s{n}")).collect();
    let mut total = 0;
    let steps = names.iter().enumerate().map(|(place, name)| {
        let needs: Vec<&str> =
            names[..place].iter().filter(|_| dice.below(3) == 0).map(String::as_str).collect();
        let (cost, undo) = (amount(dice, 50), amount(dice, 10));
        total += cost + undo;
        let mut step = step(name, &needs, cost, undo);
        step["compensation"]["retry"]["max_attempts"] = json!(100);
        step
    });
    let steps: Vec<Value> = steps.collect();
    let budget = if dice.below(2) == 0 { total } else { total * 2 / 3 + 60 };
    let tenant = ["acme", "bolt", "core"][usize::try_from(dice.below(3)).unwrap()];
    plan(tenant, budget, steps).with(json!({"plan_id": dice.id(), "deadline": at(900)}))
}

struct Worker {
    fleet: Arc<Fleet>,
    dice: SeededEntropy,
    name: String,
    /// Attempts whose answer has come and is not written yet.
    answered: Vec<Settlement>,
}

impl Worker {
    fn new(fleet: Arc<Fleet>, task: u64) -> Self {
        let dice = SeededEntropy::new(fleet.seed.wrapping_mul(31).wrapping_add(task));
        Self { fleet, dice, name: format!("worker-{task}"), answered: Vec::new() }
    }

    async fn work(mut self, check: &'static str) {
        for _ in 0..ROUNDS {
            self.claim().await;
            self.settle().await;
            self.coordinate().await;
            self.sweep().await;
            let wrong = self.fleet.db.number(check).await;
            assert_eq!(wrong, 0, "seed {}", self.fleet.seed);
            if self.fleet.ends().await.iter().all(|state| state.is_end()) {
                return;
            }
        }
        panic!("seed {}: a plan does not end: {:?}", self.fleet.seed, self.fleet.ends().await);
    }

    fn one_in(&self, n: u64) -> bool {
        self.dice.below(n) == 0
    }

    fn now(&self) -> DateTime<Utc> {
        self.fleet.tick(self.dice.below(4_000))
    }

    fn plan(&self, key: PlanKey) -> &Plan {
        &self.fleet.plans[&key]
    }

    async fn claim(&mut self) {
        let now = self.now();
        let found = self.fleet.db.store.candidates(12, now).await.unwrap();
        let asked: Vec<ClaimRequest<'_>> = found
            .iter()
            .filter(|_| !self.one_in(3))
            .map(|candidate| {
                if self.one_in(20) {
                    let until = now + TimeDelta::seconds(3);
                    let reason = "a rate limit".to_owned();
                    return ClaimRequest::Defer {
                        unit: candidate.unit,
                        until,
                        reason,
                        rate_slot: Some(until),
                    };
                }
                self.plan(candidate.unit.plan).run(candidate.unit)
            })
            .collect();
        let until = now + TimeDelta::seconds(60);
        let report = self.fleet.db.store.claim(&asked, &self.name, until, now).await.unwrap();
        for claimed in report.claimed {
            // One in twenty crashes: nobody settles it until its lease has run out.
            if !self.one_in(20) {
                let unit = claimed.lease.unit;
                let finding = self.finding(self.plan(unit.plan), unit);
                self.answered.push(self.plan(unit.plan).settlement(&claimed.lease, finding));
            }
        }
    }

    fn finding(&self, plan: &Plan, unit: dat_plan::UnitKey) -> Finding {
        let step = &plan.document.steps[usize::try_from(unit.index).unwrap()];
        let most = if unit.kind == UnitKind::Action { step.max_cost } else { step.undo_max_cost() };
        let cost = amount(&self.dice, u64::try_from(most).unwrap() + 1);
        let detail = "as the dice fell".to_owned();
        match self.dice.below(20) {
            // More than was reserved.
            0 => Finding::Done { result: json!({}), cost: most + 1 + cost, refund: 0 },
            1..3 => Finding::Done { result: json!({"n": cost}), cost, refund: cost / 2 },
            3..5 => Finding::Error { cost: cost / 3, detail, retry_after_ms: 500 },
            5 if unit.kind == UnitKind::Action => Finding::Refused { cost: 0, detail },
            6 => Finding::NotSent { detail },
            7..9 => Finding::Unanswered { detail },
            _ => Finding::Done { result: json!({}), cost, refund: 0 },
        }
    }

    /// Writes most of what has come; the rest may come when its lease is long lost.
    async fn settle(&mut self) {
        let (later, mut group): (Vec<_>, Vec<_>) =
            self.answered.drain(..).partition(|_| self.dice.below(6) == 0);
        // In any order: they answer when they answer.
        group.sort_by_cached_key(|_| self.dice.below(1_000));
        self.answered = later;
        if !group.is_empty() {
            let now = self.now();
            self.fleet.db.store.settle(&group, now).await.unwrap();
        }
        let held: Vec<_> = self.answered.iter().map(|s| s.lease.clone()).collect();
        if self.one_in(3) {
            let until = self.now() + TimeDelta::seconds(60);
            self.fleet.db.store.renew(&held, until).await.unwrap();
        }
    }

    async fn coordinate(&mut self) {
        let store = &self.fleet.db.store;
        let now = self.now();
        let failed = store.undecided(8, now).await.unwrap();
        let rulings: Vec<Ruling> = failed
            .into_iter()
            .map(|row| {
                let plan = self.plan(row.unit.plan);
                let step = &plan.document.steps[usize::try_from(row.unit.index).unwrap()];
                let retry = match row.unit.kind {
                    UnitKind::Action => &step.retry,
                    UnitKind::Undo => &step.compensation.as_ref().unwrap().retry,
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
        store.rule(&rulings, now).await.unwrap();

        let due = store.rollbacks_due(8, now).await.unwrap();
        let undos: Vec<_> =
            due.iter().map(|key| (*key, |ran: &[RanStep]| self.plan(*key).undos(ran))).collect();
        let starts: Vec<_> = undos.iter().map(|(plan, undos)| RollbackStart { plan: *plan, undos }).collect();
        store.begin_undo(&starts, now).await.unwrap();

        let probes = store.claim_probes(&self.name, 8, now + TimeDelta::seconds(30), now).await.unwrap();
        for probe in probes {
            let unit = probe.lease.unit;
            let plan = self.plan(unit.plan);
            let finding = match self.dice.below(4) {
                0 => Finding::Done { result: json!({}), cost: 1, refund: 0 },
                1 => Finding::CannotTell { detail: "away".to_owned(), again_at: now + TimeDelta::seconds(2) },
                _ => Finding::Sealed,
            };
            let settlement = plan.settlement(&probe.lease, finding);
            self.answered.push(settlement);
        }
    }

    async fn sweep(&self) {
        let store = &self.fleet.db.store;
        let now = self.now();
        store.expire_leases(20, now).await.unwrap();
        let due: Vec<PlanKey> =
            store.due_plans(20, now).await.unwrap().into_iter().map(|due| due.plan).collect();
        store.stop_overdue(&due, now).await.unwrap();
        assert_eq!(store.release_stranded(now).await.unwrap(), 0, "something was stranded");
    }
}
