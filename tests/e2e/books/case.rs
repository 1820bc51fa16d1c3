//! Cases: each makes random plans of tenants of its own from its seed. A group of them shares a database and the workers
//! that work on it until every plan has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dat_guards::{AccountCopies, RuntimeStore};
use dat_plan::clock::SeededEntropy;
use dat_plan::signing::{KeyRing, Trust};
use dat_plan::{Entropy as _, PlanKey};
use dat_sandbox::OutsideBooks;
use dat_sandbox::report::AppliedEffect;
use dat_store::{Admitted, Bound, PlanSummary, Registered, Store, TenantLimit};
use dat_tests::{PrivateRedis, Realm};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::plans::Plan;
use super::tally::Tally;
use super::windows::Windows;
use super::worker::Worker;

/// Invariant 3: how many accounts break it.
const OVER_LIMIT: &str = "
    SELECT count(*) FROM budget_account
    WHERE settled + reserved > limit_amount + overrun OR reserved < 0 OR overrun < 0";
/// What nobody can own any more when every plan has ended.
const LEFT_OPEN: &str = "
    SELECT (SELECT count(*) FROM budget_reservation WHERE action_open OR undo_open)
         + (SELECT count(*) FROM budget_account WHERE reserved <> 0)";
/// Accounts whose overrun is not what the events told of it.
const UNTOLD_OVERRUNS: &str = "
    SELECT count(*) FROM budget_account a
    LEFT JOIN (
        SELECT plan_id, plan_version, sum((data->>'amount')::bigint) AS told
        FROM execution_event WHERE kind = 'budget.overrun' GROUP BY plan_id, plan_version) AS e
      USING (plan_id, plan_version)
    WHERE a.plan_id IS NOT NULL AND a.overrun <> coalesce(e.told, 0)";

/// A moment: so many milliseconds after the cases' own beginning of time.
pub(super) fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_772_366_400, 0).expect("a moment") + TimeDelta::milliseconds(ms)
}

/// The servers, and what the world outside keeps.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) sql: PgPool,
    pub(super) books: OutsideBooks,
    pub(super) copies: AccountCopies,
    pub(super) windows: Windows,
    pub(super) tally: Arc<Tally>,
    redis: Arc<PrivateRedis>,
}

impl Shared {
    pub(super) fn new(store: Store, realm: &Realm, redis: Arc<PrivateRedis>, tally: Arc<Tally>) -> Self {
        let namespace = realm.namespace.as_deref().unwrap_or("books");
        let runtime =
            RuntimeStore::connect(&redis.url(), namespace, Duration::from_secs(2)).expect("an address");
        Self {
            sql: PgPool::connect_lazy(&realm.database_url).expect("an address"),
            books: OutsideBooks::open().expect("books in memory"),
            copies: AccountCopies::new(runtime.clone()),
            windows: Windows::new(&runtime),
            redis,
            store,
            tally,
        }
    }

    /// Redis forgets everything, whatever the workers are doing.
    pub(super) async fn flush(&self) {
        self.redis.flush().await;
        self.tally.flushed();
    }

    pub(super) async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.sql).await.expect("the database answers")
    }

    /// What must hold at every moment.
    pub(super) async fn check_limits(&self, seed: u64) {
        assert_eq!(self.number(OVER_LIMIT).await, 0, "seed {seed}: an account is over its limit");
    }
}

/// Cases on one database.
pub(super) struct Group {
    pub(super) shared: Shared,
    pub(super) plans: BTreeMap<PlanKey, Plan>,
    /// The first case's.
    pub(super) seed: u64,
    clock: AtomicI64,
}

impl Group {
    /// Registers, approves and admits the plans of every case.
    pub(super) async fn start(shared: Shared, seeds: Range<u64>) -> Arc<Self> {
        let mut plans = BTreeMap::new();
        let first = seeds.start;
        for seed in seeds {
            let dice = SeededEntropy::new(seed);
            let tenants = [format!("a{seed}"), format!("b{seed}")];
            for (tenant, period, amount) in [(0, "day", 150), (0, "month", 10_000), (1, "year", 400)] {
                for currency in ["usd", "token"] {
                    let limit = TenantLimit {
                        tenant: tenants[tenant].clone(),
                        currency: currency.to_owned(),
                        period: period.to_owned(),
                        amount,
                    };
                    shared.store.set_limit(&limit, "ann", "a case", at(0)).await.expect("a limit");
                }
            }
            for _ in 0..2 + dice.below(3) {
                let plan = random_plan(&dice, &tenants);
                start(&shared.store, &plan).await;
                plans.insert(plan.key(), plan);
            }
        }
        shared.tally.count("plans", plans.len());
        Arc::new(Self { shared, plans, seed: first, clock: AtomicI64::new(0) })
    }

    /// Lets so many workers work until every plan has ended and every event was received.
    pub(super) async fn run(self: Arc<Self>, workers: u64) {
        let tasks: Vec<_> = (0..workers)
            .map(|number| {
                let group = Arc::clone(&self);
                tokio::spawn(async move { Worker::new(group, number).work().await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
    }

    /// The plans that have not ended.
    pub(super) async fn open(&self) -> Vec<PlanSummary> {
        let keys: Vec<PlanKey> = self.plans.keys().copied().collect();
        let mut summaries = self.shared.store.summaries(&keys).await.expect("the database answers");
        summaries.retain(|summary| !summary.state.is_end());
        summaries
    }

    pub(super) fn tick(&self, ms: u64) -> DateTime<Utc> {
        let ms = i64::try_from(ms).expect("a short time");
        at(self.clock.fetch_add(ms, Ordering::Relaxed) + ms)
    }

    /// What must hold once every plan has ended and every event was received.
    pub(super) async fn check_everything(&self) {
        let audit = self.shared.store.audit(None, &Trust::default()).await.expect("the database answers");
        assert!(audit.faults.is_empty(), "{:#?}", audit.faults);
        assert_eq!(self.shared.number(LEFT_OPEN).await, 0, "something is reserved, and nobody owns it");
        assert_eq!(self.shared.number(UNTOLD_OVERRUNS).await, 0, "an overrun was not told");
        let overruns =
            self.shared.number("SELECT count(*) FROM execution_event WHERE kind = 'budget.overrun'").await;
        self.shared.tally.count("overruns", usize::try_from(overruns).unwrap_or(0));
        let plans = self.shared.store.recent_plans(false, i64::MAX).await.expect("the database answers");
        let plans = self.shared.store.summaries(&plans).await.expect("the database answers");
        let ledger: BTreeMap<PlanKey, i64> = plans.iter().map(|plan| (plan.plan, plan.spent)).collect();
        let none = || ledger.keys().map(|plan| (*plan, 0)).collect::<BTreeMap<PlanKey, i64>>();
        let mut flo = none();
        for line in self.shared.books.ledger().await.expect("FLO's books") {
            *flo.entry(PlanKey::new(line.plan_id, line.plan_version)).or_default() += line.net;
        }
        let (mut mux, mut units) = (none(), BTreeSet::new());
        for AppliedEffect { effect, applied } in self.shared.books.effects().await.expect("MUX's books") {
            assert_eq!(applied, 1, "{} was applied {applied} times", effect.idempotency_key);
            let plan = PlanKey::new(effect.plan_id, effect.plan_version);
            *mux.entry(plan).or_default() += effect.cost - effect.refund;
            let unit = (plan, effect.step.clone(), effect.undo_of.is_some());
            assert!(effect.no_op || units.insert(unit), "two effects of one unit: {effect:?}");
        }
        assert_eq!(flo, ledger, "FLO (left) and the ledger (right) disagree");
        assert_eq!(mux, ledger, "MUX (left) and the ledger (right) disagree");
    }
}

async fn start(store: &Store, plan: &Plan) {
    let now = at(0);
    assert_eq!(store.register(&[plan.registration()], now).await.expect("registered"), [Registered::New]);
    let bound =
        store.bind_verdicts(&[plan.approval("d1")], &KeyRing::default(), now).await.expect("approved");
    assert_eq!(bound, [Bound::Bound]);
    let admitted = store.admit(&[plan.admission()], now).await.expect("admitted");
    assert!(matches!(admitted[0].1, Admitted::Executing { .. }), "{admitted:?}");
}

fn amount(dice: &SeededEntropy, below: u64) -> i64 {
    i64::try_from(dice.below(below)).expect("a small amount")
}

/// How the outside system answers a unit that may cost `most`: now and then more than that, or not at all.
fn told(dice: &SeededEntropy, most: i64, undo: bool) -> Value {
    let cost = if dice.below(12) == 0 {
        most + 1 + amount(dice, 20)
    } else {
        amount(dice, u64::try_from(most).unwrap_or(0) + 1)
    };
    let refund = if undo { amount(dice, 30) } else { cost / 3 * amount(dice, 2) };
    let mut told = json!({"cost": cost, "refund": refund});
    let outcome = match dice.below(10) {
        0 | 1 => "error",
        2 => "timeout",
        3 => "lost_reply",
        4 if !undo => "refuse",
        _ => return told,
    };
    told["outcome"] = json!(outcome);
    told["times"] = json!(1 + dice.below(3));
    told
}

/// A plan of up to six steps, any of which may need earlier ones; half of them cannot afford all of theirs.
fn random_plan(dice: &SeededEntropy, tenants: &[String; 2]) -> Plan {
    let names: Vec<String> = (0..=dice.below(6)).map(|n| format!("s{n}")).collect();
    let mut total = 0;
    let steps: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(place, name)| {
            let needs: Vec<&str> =
                names[..place].iter().filter(|_| dice.below(3) == 0).map(String::as_str).collect();
            let (cost, undo) = (amount(dice, 50), amount(dice, 10));
            total += cost + undo;
            let mut step = super::plans::step(name, &needs, cost, undo);
            step["parameters"] = json!({"sandbox": told(dice, cost, false)});
            step["compensation"]["parameters"] = json!({"sandbox": told(dice, undo, true)});
            step["compensation"]["retry"]["max_attempts"] = json!(100);
            step
        })
        .collect();
    let budget = if dice.below(2) == 0 { total } else { total * 2 / 3 + 60 };
    let tenant = &tenants[usize::try_from(dice.below(2)).expect("a place")];
    let currency = if dice.below(2) == 0 { "usd" } else { "token" };
    super::plans::plan(tenant, budget, steps).with(json!({
        "plan_id": dice.id(), "deadline": at(900_000), "budget": {"amount": budget, "currency": currency},
    }))
}
