//! Budgets: settled + reserved stays within the limit at every level, whatever happens at once.

use dat_plan::clock::{Entropy, SeededEntropy};
use dat_plan::{PlanState, StepState};
use dat_store::TenantLimit;
use serde_json::json;

use crate::database::{Db, at, with};
use crate::fleet::Fleet;
use crate::plans::{done, plan, refused, step};

/// Invariant 3, of plans and tenants alike; how many accounts break it.
const OVER_LIMIT: &str = "SELECT count(*) FROM budget_account
                          WHERE settled + reserved > limit_amount + overrun OR reserved < 0 OR overrun < 0";

/// Accounts whose figures are not the sum of the ledger's entries on them.
const NOT_THE_LEDGER: &str = "
    SELECT count(*) FROM budget_account a
    LEFT JOIN (
        SELECT account_id, sum(CASE entry WHEN 'incurred' THEN amount WHEN 'refund' THEN -amount ELSE 0 END) AS net
        FROM budget_entry CROSS JOIN UNNEST(accounts) AS account_id GROUP BY account_id) AS e USING (account_id)
    WHERE a.settled <> coalesce(e.net, 0)";

/// Accounts whose overrun is not what the events told of it.
const UNTOLD_OVERRUNS: &str = "
    SELECT count(*) FROM budget_account a
    LEFT JOIN (
        SELECT plan_id, plan_version, sum((data->>'amount')::bigint) AS told
        FROM execution_event WHERE kind = 'budget.overrun' GROUP BY plan_id, plan_version) AS e
      USING (plan_id, plan_version)
    WHERE a.plan_id IS NOT NULL AND a.overrun <> coalesce(e.told, 0)";

async fn limit(db: &Db, tenant: &str, period: &str, amount: i64) {
    let limit = TenantLimit {
        tenant: tenant.to_owned(),
        currency: "usd".to_owned(),
        period: period.to_owned(),
        amount,
    };
    db.store.set_limit(&limit, "ann", "a budget", at(0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_fleet_never_spends_more_than_is_budgeted() {
    let seed = SeededEntropy::from_os().below(u64::MAX);
    with(async move |db| {
        // Two of the three tenants have limits, one of which is reached.
        limit(&db, "acme", "day", 400).await;
        limit(&db, "acme", "month", 10_000).await;
        limit(&db, "bolt", "year", 100_000).await;
        let fleet = Fleet::start(&db, seed, 25).await;
        fleet.run(4, OVER_LIMIT).await;
        db.assert_sound().await;
        assert_eq!(db.number(OVER_LIMIT).await, 0, "seed {seed}");
        assert_eq!(db.number(NOT_THE_LEDGER).await, 0, "seed {seed}");
        assert_eq!(db.number(UNTOLD_OVERRUNS).await, 0, "seed {seed}");
        let open = "SELECT count(*) FROM budget_reservation WHERE action_open OR undo_open";
        assert_eq!(db.number(open).await, 0, "seed {seed}");
        let reserved = "SELECT count(*) FROM budget_account WHERE reserved <> 0";
        assert_eq!(db.number(reserved).await, 0, "seed {seed}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_limit_holds_over_all_of_its_plans() {
    with(async |db| {
        limit(&db, "acme", "month", 25).await;
        let plans: Vec<_> = (0..3)
            .map(|_| plan("acme", 100, vec![step("a", &[], 10, 0), step("b", &["a"], 10, 0)]))
            .collect();
        for plan in &plans {
            db.start(plan, at(0)).await;
        }
        let requests: Vec<_> = plans.iter().map(|plan| plan.run(plan.unit(0))).collect();
        let report = db.claim(&requests, at(1)).await;
        assert_eq!((report.claimed.len(), report.deferred), (2, 1));
        assert_eq!(db.number("SELECT reserved FROM budget_account WHERE period = 'month'").await, 20);
        let refused = "SELECT count(*) FROM execution_event WHERE kind = 'budget.refused'";
        assert_eq!(db.number(refused).await, 1);
        // What the first did not spend lets the third go on.
        let first = &report.claimed[0].lease;
        let owner = plans.iter().find(|plan| plan.key() == first.unit.plan).unwrap();
        db.settle(owner, first, done(4), at(2)).await;
        let waiting =
            plans.iter().find(|p| report.claimed.iter().all(|c| c.lease.unit.plan != p.key())).unwrap();
        db.take(waiting, waiting.unit(0), at(10)).await;
        // A limit lowered under what is spent stops what comes next.
        limit(&db, "acme", "month", 5).await;
        let next = db.claim(&[owner.run(owner.unit(1))], at(11)).await;
        assert!(next.claimed.is_empty());
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_claims_that_make_a_tenants_account_share_one() {
    with(async |db| {
        limit(&db, "acme", "day", 30).await;
        let plans: Vec<_> = (0..8).map(|_| plan("acme", 100, vec![step("a", &[], 10, 0)])).collect();
        for plan in &plans {
            db.start(plan, at(0)).await;
        }
        let claims: Vec<_> = plans
            .iter()
            .cloned()
            .map(|plan| {
                let db = db.clone();
                tokio::spawn(async move { db.claim(&[plan.run(plan.unit(0))], at(1)).await.claimed.len() })
            })
            .collect();
        let mut claimed = 0;
        for claim in claims {
            claimed += claim.await.unwrap();
        }
        assert_eq!(claimed, 3);
        assert_eq!(db.number("SELECT count(*) FROM budget_account WHERE period = 'day'").await, 1);
        assert_eq!(db.number(OVER_LIMIT).await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_waits_while_room_can_still_come_back_and_else_is_refused_for_good() {
    with(async |db| {
        // 60 + 40 fit one after the other only if the first spends less than it may.
        let plan =
            plan("acme", 60, vec![step("a", &[], 50, 5), step("b", &[], 30, 0), step("c", &[], 30, 0)]);
        db.start(&plan, at(0)).await;
        let first = db.take(&plan, plan.unit(0), at(1)).await;
        let report = db.claim(&[plan.run(plan.unit(1))], at(1)).await;
        assert_eq!((report.claimed.len(), report.deferred, report.refused.len()), (0, 1, 0));
        // 20 spent, 5 held for the undo: 35 are left.
        db.settle(&plan, &first.lease, done(20), at(2)).await;
        assert_eq!(db.number("SELECT reserved FROM budget_account").await, 5);
        db.go(&plan, plan.unit(1), done(10), at(3)).await;
        // 30 spent, and 30 more would fit but for what the undo of the first holds until the plan's end.
        let report = db.claim(&[plan.run(plan.unit(2))], at(4)).await;
        assert_eq!(report.refused, [plan.unit(2)]);
        let last =
            "SELECT count(*) FROM execution_event WHERE kind = 'budget.refused' AND data->>'final' = 'true'";
        assert_eq!(db.number(last).await, 1);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undos_part_is_held_until_the_plans_end() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 7), step("b", &["a"], 10, 3)]);
        db.start(&plan, at(0)).await;
        db.go(&plan, plan.unit(0), done(4), at(1)).await;
        let held = "SELECT reserved FROM budget_account";
        assert_eq!(db.number(held).await, 7);
        db.go(&plan, plan.unit(1), done(10), at(2)).await;
        assert_eq!(db.plan_state(&plan).await, PlanState::Completed);
        assert_eq!(db.number(held).await, 0);
        assert_eq!(db.number("SELECT settled FROM budget_account").await, 14);
        let ended = "SELECT settled FROM budget_snapshot WHERE moment = 'ended'";
        assert_eq!(db.number(ended).await, 14);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overrun_is_recorded_and_stops_new_reservations_and_a_refund_restores_them() {
    with(async |db| {
        let plan = plan("acme", 30, vec![step("a", &[], 10, 0), step("b", &[], 10, 0), step("c", &[], 1, 0)]);
        db.start(&plan, at(0)).await;
        db.go(&plan, plan.unit(0), done(25), at(1)).await;
        let second = db.take(&plan, plan.unit(2), at(1)).await;
        assert_eq!(db.number("SELECT overrun FROM budget_account").await, 15);
        let report = db.claim(&[plan.run(plan.unit(1))], at(2)).await;
        assert_eq!(report.refused, [plan.unit(1)], "25 spent, 10 more never fit 30");
        let refund = dat_store::Finding::Done { result: json!({}), cost: 1, refund: 1 };
        let settled = db.settle(&plan, &second.lease, refund, at(3)).await;
        assert_eq!(settled.settled, [dat_store::Settled::Written(StepState::Completed)]);
        assert_eq!(db.number("SELECT settled FROM budget_account").await, 25);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_never_left_gives_back_only_what_it_holds_itself() {
    with(async |db| {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 7)]);
        db.start(&plan, at(0)).await;
        let not_sent = || dat_store::Finding::NotSent { detail: "no connection".to_owned() };
        let retry = async |now| {
            let failed = db.store.undecided(1, now).await.unwrap().remove(0);
            let decision = dat_plan::rollback::Decision::Retry { at: now };
            db.store.rule(&[dat_store::Ruling { failed, decision }], now).await.unwrap();
        };
        let held = "SELECT reserved FROM budget_account";
        assert_eq!(db.go(&plan, plan.unit(0), not_sent(), at(1)).await, StepState::Failed);
        assert_eq!(db.number(held).await, 0, "nothing was ever sent: there is nothing to undo");
        retry(at(2)).await;
        db.go(&plan, plan.unit(0), crate::plans::error(0), at(3)).await;
        assert_eq!(db.number(held).await, 7);
        retry(at(4)).await;
        db.go(&plan, plan.unit(0), not_sent(), at(5)).await;
        assert_eq!(db.number(held).await, 7, "the second attempt was sent and may have to be undone");
        retry(at(6)).await;
        assert_eq!(db.go(&plan, plan.unit(0), refused(), at(7)).await, StepState::Failed);
        db.assert_sound().await;
    })
    .await;
}
