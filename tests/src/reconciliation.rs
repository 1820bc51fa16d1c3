//! What must hold at the end of every test: log, rows, ledger, and the world outside say the same.

use std::collections::{BTreeMap, BTreeSet};

use dat_plan::event::{Destination, EventKind};
use dat_plan::signing::Trust;
use dat_plan::{PlanKey, PlanState};
use dat_sandbox::report::AppliedEffect;
use dat_store::PlanSummary;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::fleet::Fleet;
use crate::world::SandboxClient;

impl Fleet {
    /// Checks, once every plan has ended, that the audit finds no fault, that FLO and PTE received every event of
    /// theirs in order, that every decision comes out the same when it is made again, that FLO nets what the ledger says, that no effect happened twice, and that MUX charged what
    /// was booked.
    pub async fn check_everything(&self) {
        let audit = self.store().audit(None, &Trust::default()).await.expect("the database answers");
        assert!(audit.faults.is_empty(), "the audit finds {:#?}", audit.faults);
        let plans = self.store().recent_plans(false, i64::MAX).await.expect("the database answers");
        let plans = self.store().summaries(&plans).await.expect("the database answers");
        for plan in &plans {
            let over = plan.state.is_end() || plan.state == PlanState::Stuck;
            assert!(over, "plan {} is {}: {:?}", plan.plan, plan.state, plan.reason);
            assert!(
                plan.state == PlanState::Stuck || plan.reserved == 0,
                "plan {} holds {}",
                plan.plan,
                plan.reserved
            );
        }
        self.dat(&["audit", "recheck"]).await;
        let logged = self.logged().await;
        let sandbox = self.sandbox();
        received(&sandbox, "flo", &logged, Destination::Flo).await;
        received(&sandbox, "pte", &logged, Destination::Pte).await;
        booked(&sandbox, &plans).await;
        effected(&sandbox, &plans).await;
    }

    /// How many events of each kind the log holds.
    async fn logged(&self) -> BTreeMap<String, u64> {
        let mut connection = PgConnection::connect(&self.realm().database_url).await.expect("a connection");
        let rows = sqlx::query("SELECT kind, count(*) FROM execution_event GROUP BY kind")
            .fetch_all(&mut connection)
            .await
            .expect("the log can be read");
        connection.close().await.expect("closed");
        rows.iter().map(|row| (row.get(0), u64::try_from(row.get::<i64, _>(1)).unwrap_or_default())).collect()
    }
}

/// Waits until a system has received every event that goes to it, and checks that none came out of order.
async fn received(sandbox: &SandboxClient, system: &str, logged: &BTreeMap<String, u64>, to: Destination) {
    let meant: BTreeMap<String, u64> = logged
        .iter()
        .filter(|(kind, _)| kind.parse().is_ok_and(|kind: EventKind| kind.destinations().contains(&to)))
        .map(|(kind, count)| (format!("dat.{kind}"), *count))
        .collect();
    let seen = sandbox.wait_for_events(system, meant.values().sum()).await;
    assert_eq!(seen.by_type, meant, "{system} did not receive what the log holds");
    assert_eq!(seen.out_of_order, 0, "{system} received out of order: {:?}", seen.misplaced);
    assert_eq!((seen.malformed, seen.unbooked), (0, 0), "{system} received what it cannot read");
}

/// FLO nets, for each plan, what the ledger says.
async fn booked(sandbox: &SandboxClient, plans: &[PlanSummary]) {
    let mut nets: BTreeMap<PlanKey, i64> = plans.iter().map(|plan| (plan.plan, 0)).collect();
    for line in sandbox.ledger().await {
        *nets.entry(PlanKey::new(line.plan_id, line.plan_version)).or_default() += line.net;
    }
    let ledger: BTreeMap<PlanKey, i64> = plans.iter().map(|plan| (plan.plan, plan.spent)).collect();
    assert_eq!(nets, ledger, "FLO (left) and the ledger (right) disagree");
}

/// Every effect happened once, each step had at most one, and MUX charged what was booked.
async fn effected(sandbox: &SandboxClient, plans: &[PlanSummary]) {
    let mut charged: BTreeMap<PlanKey, i64> = plans.iter().map(|plan| (plan.plan, 0)).collect();
    let mut seen = BTreeSet::new();
    for AppliedEffect { effect, applied } in sandbox.all_effects().await {
        assert_eq!(applied, 1, "{} was applied {applied} times", effect.idempotency_key);
        let plan = PlanKey::new(effect.plan_id, effect.plan_version);
        *charged.entry(plan).or_default() += effect.cost - effect.refund;
        let unit = (plan, effect.step.clone(), effect.undo_of.is_some());
        assert!(effect.no_op || seen.insert(unit), "two effects of one step: {effect:?}");
    }
    let ledger: BTreeMap<PlanKey, i64> = plans.iter().map(|plan| (plan.plan, plan.spent)).collect();
    assert_eq!(charged, ledger, "MUX (left) charged other than the ledger (right) says");
}
