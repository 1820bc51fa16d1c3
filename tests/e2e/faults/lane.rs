//! One fleet on which workers are killed, one case after the other.

use std::collections::BTreeMap;

use dat_plan::PlanKey;
use dat_tests::{EndState, Fleet, FleetOptions, Producer, Submission, WorkerOptions};
use dat_topology::{Exchange, key};

use super::post::{Manner, Post};
use super::scenario::{self, Story};

/// Short leases, a rate and a token window that let everything pass that there is.
const SETTINGS: &str = "[worker]\nlease_ms = 1000\nsweep_ms = 50\nconnections = 4\n\
    [checkpoint]\nevery_ms = 200\n\
    [[rate]]\nconnector = \"mux\"\ncount = 50\nperiod_ms = 1000\nburst = 2\n\
    [[token_window]]\nconnector = \"mux\"\nperiod = \"hour\"\nlimit = 100000000\n";

/// Points that are passed once Redis has lost what it held; whose turn a look of the fleet is, too, it knows.
const OF_A_LOSS: [&str; 3] = ["runtime.", "windows.fill", "relay.strays"];

/// Passed where a lease ran out. That is no part of an undisturbed run, but on a busy machine a second is soon over.
pub(super) const EXPIRY: &str = "lease.expire.";
/// So often an undisturbed run is tried.
const TRIES: usize = 5;

/// A producer keeps what it heard; after so many cases a new one begins.
const CASES_A_PRODUCER: usize = 25;

/// Workers to be killed one after the other, each as `DAT_FAULT` says; then one that lives.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) kills: Vec<String>,
    pub(super) scenarios: Vec<&'static str>,
}

/// A fleet without a worker.
pub(super) struct Lane {
    fleet: Fleet,
    producer: Producer,
    expected: BTreeMap<&'static str, Story>,
    cases: usize,
    pub(super) kills: usize,
}

/// How often each point was passed.
pub(super) type Trace = BTreeMap<String, u64>;

impl Lane {
    /// Starts the fleet and learns, from a run in which nobody dies, what must come of each scenario.
    pub(super) async fn start() -> (Self, Trace) {
        let options = FleetOptions { workers: 0, settings: SETTINGS.to_owned(), ..FleetOptions::default() };
        let fleet = Fleet::start(options).await;
        let producer = fleet.producer().await;
        let mut lane = Self { fleet, producer, expected: BTreeMap::new(), cases: 0, kills: 0 };
        for left in (0..TRIES).rev() {
            let (worker, path) = lane.traced("undisturbed").await;
            let plans = lane.submit(&scenario::NAMES).await;
            for (name, plan) in &plans {
                let end = lane.producer.wait_for_end(*plan).await;
                lane.expected.insert(name, scenario::story(&lane.fleet, *plan, &end).await);
            }
            lane.fleet.worker(worker).kill().await;
            let mut trace = read(&path);
            let points = trace.len();
            trace.retain(|point, _| !point.starts_with(EXPIRY));
            if trace.len() == points || left == 0 {
                return (lane, trace);
            }
            lane.lose_redis().await;
        }
        unreachable!("the last try returns")
    }

    /// What is passed after a worker was killed, by the one that goes on.
    pub(super) async fn recovery(&mut self, kill: &str) -> Trace {
        let doomed = self.doomed(kill).await;
        let plans = self.submit(&scenario::NAMES).await;
        self.fleet.worker(doomed).exit().await;
        let (worker, path) = self.traced("recovery").await;
        self.check(&plans, kill).await;
        self.fleet.worker(worker).kill().await;
        self.kills += 1;
        read(&path)
    }

    /// Runs a case; gives whether every kill of it happened.
    pub(super) async fn run(&mut self, case: &Case) -> bool {
        self.cases += 1;
        if self.cases.is_multiple_of(CASES_A_PRODUCER) {
            self.producer = self.fleet.producer().await;
        }
        if case.kills.iter().any(|kill| OF_A_LOSS.iter().any(|point| kill.starts_with(point))) {
            self.lose_redis().await;
        }
        let mut plans = Vec::new();
        let mut killed = 0;
        for kill in &case.kills {
            let doomed = self.doomed(kill).await;
            if plans.is_empty() {
                plans = self.submit(&case.scenarios).await;
            }
            let all: Vec<PlanKey> = plans.iter().map(|(_, plan)| *plan).collect();
            tokio::select! {
                biased;
                _ = self.fleet.worker(doomed).exit() => killed += 1,
                _ = self.producer.wait_for_ends(&all) => {
                    self.fleet.worker(doomed).kill().await;
                    break;
                }
            }
        }
        let survivor = self.fleet.spawn_worker(&WorkerOptions::default()).await;
        self.check(&plans, &format!("{case:?}")).await;
        self.fleet.worker(survivor).kill().await;
        self.kills += killed;
        killed == case.kills.len()
    }

    /// Runs the scenarios, several plans of each at once, with a worker whose deliveries come `twice` or `swapped`, and with
    /// a post that brings MUX's requests and answers so; every submission is published twice besides.
    pub(super) async fn delivered(&mut self, how: &str) {
        let manner = if how == "twice" { Manner::Twice } else { Manner::Swapped };
        let post = Post::between(&self.fleet, manner).await;
        let environment = vec![("DAT_FAULT_DELIVER".to_owned(), how.to_owned())];
        let worker =
            self.fleet.spawn_worker(&WorkerOptions { environment, ..WorkerOptions::default() }).await;
        let mut plans = Vec::new();
        for _ in 0..5 {
            for name in scenario::NAMES {
                let document = scenario::document(name);
                self.producer.submit(&document).await;
                plans.push((name, self.producer.submit(&document).await));
            }
        }
        self.check(&plans, how).await;
        self.fleet.worker(worker).kill().await;
        let (requests, answers) = post.stand_back(&self.fleet).await;
        // A neighbour is there when it is: of so many requests some have one.
        assert!(requests > 0 && answers > 0, "{how}: {requests} requests, {answers} answers");
        if manner == Manner::Twice {
            let sandbox = self.fleet.sandbox();
            let mut replays = 0;
            for (_, plan) in &plans {
                replays += sandbox.mux_summary(*plan).await.replays;
            }
            assert!(replays > 0, "MUX was never asked again for what it had done");
        }
    }

    /// What must hold of everything that ran here. The fleet stays until the last lane is through: to drop its database
    /// waits, and holds the thread, until every connection that another lane is opening has been opened.
    pub(super) async fn finish(&mut self) {
        // FLO and PTE may still have to be told.
        self.fleet.spawn_worker(&WorkerOptions::default()).await;
        self.fleet.check_everything().await;
    }

    /// Deletes every key of this fleet, as a restart without data does.
    async fn lose_redis(&self) {
        let mut redis = self.fleet.redis().await;
        let namespace = self.fleet.realm().namespace.clone().expect("this fleet has one");
        let mut keys = redis::cmd("KEYS");
        let keys: Vec<String> =
            keys.arg(format!("{namespace}:*")).query_async(&mut redis).await.expect("Redis answers");
        if !keys.is_empty() {
            let deleted = redis::cmd("DEL").arg(keys).query_async::<()>(&mut redis).await;
            deleted.expect("Redis answers");
        }
    }

    async fn check(&self, plans: &[(&'static str, PlanKey)], what: &str) {
        for (name, plan) in plans {
            let end: EndState = self.producer.wait_for_end(*plan).await;
            let found = scenario::story(&self.fleet, *plan, &end).await;
            assert_eq!(found, self.expected[name], "{what}, {name} {plan}:\n{}", end.story());
        }
    }

    async fn submit(&self, names: &[&'static str]) -> Vec<(&'static str, PlanKey)> {
        // One that cannot be read besides: it is parked, and blocks nothing.
        let unreadable = Submission { body: b"{".to_vec(), message_id: None };
        self.producer.publish(Exchange::Plans, key::PLAN_SUBMITTED, unreadable).await;
        let mut plans = Vec::new();
        for name in names {
            plans.push((*name, self.producer.submit(&scenario::document(name)).await));
        }
        plans
    }

    async fn doomed(&mut self, kill: &str) -> usize {
        let environment = vec![("DAT_FAULT".to_owned(), kill.to_owned())];
        self.fleet.spawn_doomed(&WorkerOptions { environment, ..WorkerOptions::default() }).await
    }

    async fn traced(&mut self, name: &str) -> (usize, String) {
        let path = self.fleet.file(&format!("{name}.trace"), "");
        let environment = vec![("DAT_FAULT_TRACE".to_owned(), path.clone())];
        let options = WorkerOptions { environment, ..WorkerOptions::default() };
        (self.fleet.spawn_worker(&options).await, path)
    }
}

fn read(path: &str) -> Trace {
    let mut trace = Trace::new();
    for line in std::fs::read_to_string(path).expect("a trace").lines() {
        *trace.entry(line.to_owned()).or_default() += 1;
    }
    trace
}
