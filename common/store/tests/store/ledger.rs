//! The ledger rolled up: an account is its last snapshot and what came after; whatever is changed afterwards is named,
//! and what nobody owns cannot stay.

use chrono::TimeDelta;
use dat_plan::rollback::Decision;
use dat_plan::signing::Trust;
use dat_plan::{PlanKey, PlanState};
use dat_store::{Finding, NewUndo, OrphanPage, RanStep, RollbackStart, Ruling, TenantLimit};
use serde_json::json;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, plan, refused, step, wide};

const DAY: i64 = 24 * 60 * 60;
/// How many changes lie between two snapshots of an account.
const ROLL_UP_EVERY: i64 = 64;
const START: PlanKey = PlanKey::new(Uuid::nil(), 0);

async fn limit(db: &Db, currency: &str, period: &str, amount: i64) {
    let limit = TenantLimit {
        tenant: "acme".to_owned(),
        currency: currency.to_owned(),
        period: period.to_owned(),
        amount,
    };
    db.store.set_limit(&limit, "ann", "a budget", at(0)).await.unwrap();
}

/// So many plans of one step, each of which costs 10, overruns by 1, and gets 2 back; two changes of each account.
async fn spend(db: &Db, plans: i64, seconds: i64) {
    for _ in 0..plans {
        let plan = plan("acme", 100, vec![step("a", &[], 10, 5)]);
        db.start(&plan, at(seconds)).await;
        let over = Finding::Done { result: json!({}), cost: 11, refund: 2 };
        db.go(&plan, plan.unit(0), over, at(seconds)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_rolled_up_and_an_audit_reads_what_came_after() {
    with(async |db| {
        limit(&db, "usd", "year", 1_000_000).await;
        spend(&db, ROLL_UP_EVERY / 2 + 10, 1).await;
        let snapshot = "SELECT position FROM budget_snapshot WHERE moment = 'rolled_up'";
        assert_eq!(db.number(snapshot).await, ROLL_UP_EVERY);
        let held = "SELECT settled * 10000 + reserved * 100 + overrun FROM budget_snapshot WHERE moment = 'rolled_up'";
        let (settled, overrun) = (ROLL_UP_EVERY / 2 * 9, ROLL_UP_EVERY / 2);
        assert_eq!(db.number(held).await, settled * 10_000 + overrun);
        let plans = ROLL_UP_EVERY / 2 + 10;
        let report = db.store.audit(None, &Trust::default()).await.unwrap();
        assert!(report.faults.is_empty(), "{:#?}", report.faults);
        assert_eq!(report.accounts, u64::try_from(plans).unwrap() + 1);
        // Two changes of each plan's account; of the tenant's only those after its snapshot.
        assert_eq!(report.changes, u64::try_from(plans * 2 + 20).unwrap());
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_that_turned_is_rolled_up_and_what_comes_late_is_too() {
    with(async |db| {
        limit(&db, "usd", "day", 1_000).await;
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0), step("b", &[], 10, 0)]);
        db.start(&plan, at(0)).await;
        db.go(&plan, plan.unit(0), done(4), at(1)).await;
        let late = db.take(&plan, plan.unit(1), at(2)).await;
        assert_eq!(db.store.roll_up_turned(10, at(3)).await.unwrap(), 0, "the day is not over");
        assert_eq!(db.store.roll_up_turned(10, at(DAY)).await.unwrap(), 1);
        assert_eq!(db.store.roll_up_turned(10, at(DAY)).await.unwrap(), 0, "it has not moved since");
        db.settle(&plan, &late.lease, done(6), at(DAY + 1)).await;
        assert_eq!(db.store.roll_up_turned(10, at(DAY + 2)).await.unwrap(), 1);
        let last =
            "SELECT settled FROM budget_snapshot WHERE moment = 'rolled_up' ORDER BY position DESC LIMIT 1";
        assert_eq!(db.number(last).await, 10);
        db.assert_sound().await;
    })
    .await;
}

/// Changes of the tenant's records, and words of the fault that names each; whether only the full audit sees it.
const TAMPERED: &[(&str, &str, bool)] = &[
    ("UPDATE budget_account SET settled = settled + 1 WHERE period = 'year'", "its snapshot of version 64 and what changed after it say", false),
    ("UPDATE budget_account SET reserved = reserved + 1 WHERE period = 'year'", "the open reservations on it 0", false),
    ("UPDATE budget_account SET overrun = overrun + 1 WHERE period = 'year'", "overrun; its snapshot", false),
    ("UPDATE budget_account SET version = 7 WHERE period = 'year'", "has version 7, and a snapshot of version 64", false),
    ("UPDATE budget_snapshot SET settled = settled + 1 WHERE moment = 'rolled_up'", "its snapshot of version 64", false),
    ("DELETE FROM budget_change WHERE version = 65", "what changed after it say", false),
    ("UPDATE budget_change SET settled = settled + 1 WHERE version = 66", "what changed after it say", false),
    ("UPDATE budget_change SET settled = settled + 1 WHERE version = 2 AND account_id =
          (SELECT account_id FROM budget_account WHERE period = 'year')", "version 64; its changes say", true),
    ("UPDATE budget_snapshot SET position = 63 WHERE moment = 'rolled_up'", "version 63; its entries say", true),
    ("UPDATE budget_snapshot SET settled = settled + 1 WHERE moment = 'ended' AND plan_id =
          (SELECT plan_id FROM execution_plan ORDER BY plan_id LIMIT 1)", "the snapshot of its end says 10 spent, the account 9", false),
    ("UPDATE budget_entry SET amount = amount + 1, held = held WHERE entry = 'incurred' AND plan_id =
          (SELECT plan_id FROM execution_plan ORDER BY plan_id LIMIT 1)", "the ledger has 12 incurred, the events 11, of acme in usd", false),
    ("UPDATE budget_entry SET held = held - 1 WHERE entry = 'incurred' AND plan_id =
          (SELECT plan_id FROM execution_plan ORDER BY plan_id LIMIT 1)", "its entries say", true),
    ("UPDATE budget_entry SET tenant = 'evil' WHERE entry = 'refund' AND plan_id =
          (SELECT plan_id FROM execution_plan ORDER BY plan_id LIMIT 1)", "the ledger has 2 refund, the events 0, of evil in usd", false),
    ("UPDATE budget_entry SET currency = 'eur' WHERE entry = 'refund' AND plan_id =
          (SELECT plan_id FROM execution_plan ORDER BY plan_id LIMIT 1)", "the ledger has 0 refund, the events 2, of acme in usd", false),
    ("UPDATE budget_entry SET accounts = accounts[1:1], account_versions = account_versions[1:1] WHERE plan_id =
          (SELECT plan_id FROM execution_plan ORDER BY plan_id LIMIT 1)", "its entries say", true),
    ("UPDATE budget_reservation SET undo_open = true WHERE plan_id =
          (SELECT plan_id FROM execution_plan ORDER BY plan_id LIMIT 1)", "year 2026-01-01) holds 0 reserved, the open reservations on it 5", false),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_of_an_account_a_snapshot_or_an_entry_is_named() {
    with(async |db| {
        limit(&db, "usd", "year", 1_000_000).await;
        spend(&db, ROLL_UP_EVERY / 2 + 5, 1).await;
        db.assert_sound().await;
        let mut unseen = Vec::new();
        for (change, words, only_in_full) in TAMPERED {
            // Each on the same figures: what it changes is put back from a copy.
            for table in ["budget_account", "budget_snapshot", "budget_change", "budget_entry", "budget_reservation"] {
                db.run(format!("DROP TABLE IF EXISTS copy_{table}")).await;
                db.run(format!("CREATE TABLE copy_{table} AS TABLE {table}")).await;
            }
            assert!(db.run((*change).to_owned()).await > 0, "nothing was changed: {change}");
            let seen = |faults: &[dat_store::AuditFault]| faults.iter().any(|f| f.message.contains(words));
            let quick = db.store.audit(None, &Trust::default()).await.unwrap().faults;
            let full = db.store.audit_full(&Trust::default()).await.unwrap().faults;
            if !seen(&full) || seen(&quick) == *only_in_full {
                unseen.push((change, words, quick, full));
            }
            for (table, columns) in [
                ("budget_account", "settled = c.settled, reserved = c.reserved, overrun = c.overrun, version = c.version"),
                ("budget_snapshot", ""),
                ("budget_change", ""),
                ("budget_entry", ""),
                ("budget_reservation", ""),
            ] {
                if columns.is_empty() {
                    db.run(format!("DELETE FROM {table}")).await;
                    db.run(format!("INSERT INTO {table} SELECT * FROM copy_{table}")).await;
                } else {
                    db.run(format!(
                        "UPDATE {table} AS t SET {columns} FROM copy_{table} AS c WHERE t.account_id = c.account_id"
                    ))
                    .await;
                }
            }
        }
        assert!(unseen.is_empty(), "the audit does not say: {unseen:#?}");
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_nobody_owns_is_closed_by_the_ledger_and_told_of() {
    with(async |db| {
        limit(&db, "usd", "year", 1_000).await;
        let plan = plan("acme", 100, vec![step("a", &[], 10, 7), step("b", &[], 10, 0)]);
        db.start(&plan, at(0)).await;
        db.take(&plan, plan.unit(0), at(1)).await;
        db.take(&plan, plan.unit(1), at(1)).await;
        assert_eq!(db.store.orphans(START, 10).await.unwrap(), OrphanPage::default(), "both are running");
        assert_eq!(db.store.close_orphans(plan.key(), at(2)).await.unwrap(), 0);
        // As a fault of ours would leave it: ready again, and the attempt's reservation open.
        db.force("UPDATE execution_step SET state = 'ready' WHERE step_index = 0").await;
        let found = db.store.orphans(START, 10).await.unwrap();
        assert_eq!(found.orphaned, [plan.key()]);
        assert_eq!(db.store.close_orphans(plan.key(), at(3)).await.unwrap(), 1);
        assert_eq!(db.store.close_orphans(plan.key(), at(3)).await.unwrap(), 0, "again, it changes nothing");
        assert_eq!(db.store.orphans(START, 10).await.unwrap(), OrphanPage::default());
        // The undo's part may still be needed.
        assert_eq!(db.number("SELECT sum(reserved)::bigint FROM budget_account").await, 2 * (7 + 10));
        let told = "SELECT count(*) FROM execution_event WHERE kind = 'spend.released'
                    AND data->>'reason' LIKE '%closed by the reconciler' AND (data->>'amount')::bigint = 10";
        assert_eq!(db.number(told).await, 1);
        db.force("UPDATE execution_step SET state = 'running' WHERE step_index = 0").await;
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_held_for_an_undo_of_a_plan_that_is_over_is_given_back() {
    with(async |db| {
        limit(&db, "usd", "year", 1_000).await;
        let plan = plan("acme", 100, vec![step("a", &[], 10, 7)]);
        db.start(&plan, at(0)).await;
        db.go(&plan, plan.unit(0), done(4), at(1)).await;
        assert_eq!(db.plan_state(&plan).await, PlanState::Completed);
        // As if its end had forgotten the undo's part: the release is taken back, everywhere alike.
        for change in [
            "DELETE FROM budget_entry WHERE entry = 'released' AND part = 'undo'",
            "UPDATE budget_reservation SET undo_open = true",
            "UPDATE budget_account SET reserved = reserved + 7",
            "UPDATE budget_change SET reserved = reserved + 7 WHERE version = 2",
        ] {
            assert!(db.run(change.to_owned()).await > 0, "{change}");
        }
        assert_eq!(db.store.orphans(START, 10).await.unwrap().orphaned, [plan.key()]);
        assert_eq!(db.store.close_orphans(plan.key(), at(3)).await.unwrap(), 1);
        assert_eq!(db.number("SELECT sum(reserved)::bigint FROM budget_account").await, 0);
        // The first release was told of and is gone from the ledger; the second is in both.
        let faults = db.store.audit_full(&Trust::default()).await.unwrap().faults;
        assert_eq!(faults.len(), 1, "{faults:#?}");
        assert!(faults[0].message.contains("the ledger has 13 released, the events 20"), "{faults:#?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_reservations_are_looked_through_a_page_at_a_time() {
    with(async |db| {
        let mut plans: Vec<Plan> = (0..5).map(|_| wide("acme", 100, 1, 10)).collect();
        plans.sort_by_key(Plan::key);
        for plan in &plans {
            db.start(plan, at(0)).await;
            db.take(plan, plan.unit(0), at(1)).await;
        }
        db.force("UPDATE execution_step SET state = 'ready', lease_until = NULL").await;
        let (mut after, mut found) = (START, Vec::new());
        loop {
            let page = db.store.orphans(after, 2).await.unwrap();
            assert!(page.orphaned.len() <= 2);
            found.extend(page.orphaned);
            let Some(next) = page.next else { break };
            after = next;
        }
        assert_eq!(found, plans.iter().map(Plan::key).collect::<Vec<_>>());
    })
    .await;
}

/// A plan whose own list undoes it: nothing was reserved for what that costs.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_plans_own_rollback_list_costs_is_its_tenants_too() {
    with(async |db| {
        limit(&db, "usd", "day", 100).await;
        limit(&db, "usd", "year", 1_000).await;
        let plan = plan("acme", 100, vec![step("a", &[], 10, 0)]);
        db.start(&plan, at(0)).await;
        db.go(&plan, plan.unit(0), refused(), at(1)).await;
        let failed = db.store.undecided(1, at(2)).await.unwrap().remove(0);
        db.store.rule(&[Ruling { failed, decision: Decision::RollBack }], at(2)).await.unwrap();
        let own = |_: &[RanStep]| {
            vec![NewUndo {
                index: 1,
                key: "own".to_owned(),
                connector: "mux".to_owned(),
                action: "undo".to_owned(),
                waits_for: 0,
                unlocks: Vec::new(),
            }]
        };
        let start = RollbackStart { plan: plan.key(), undos: &own };
        db.store.begin_undo(&[start], at(DAY)).await.unwrap();
        let claimed = db
            .store
            .candidates(1, at(DAY))
            .await
            .unwrap()
            .into_iter()
            .map(|candidate| dat_store::ClaimRequest::Run {
                unit: candidate.unit,
                seal: std::sync::Arc::new(plan.seal()),
                max_cost: 0,
                undo_max_cost: 0,
                needs: dat_store::Needed::All,
                counting: dat_store::Counting::default(),
                guard: None,
            })
            .collect::<Vec<_>>();
        let claimed = db.claim(&claimed, at(DAY)).await.claimed.remove(0);
        let undone = Finding::Done { result: json!({}), cost: 9, refund: 2 };
        let settlement = dat_store::Settlement {
            lease: claimed.lease,
            finding: undone,
            successors: Vec::new(),
            decision: None,
        };
        db.store.settle(&[settlement], at(DAY + 1)).await.unwrap();
        assert_eq!(db.plan_state(&plan).await, PlanState::Aborted);
        let spent = |of: &str| format!("SELECT settled FROM budget_account WHERE {of}");
        for (of, amount) in [
            ("plan_id IS NOT NULL", 7),
            ("period = 'year'", 7),
            ("period = 'day' ORDER BY period_start DESC LIMIT 1", 7),
            ("period = 'day' ORDER BY period_start LIMIT 1", 0),
        ] {
            let settled: i64 = sqlx::query_scalar(AssertSqlSafe(spent(of))).fetch_one(&db.sql).await.unwrap();
            assert_eq!(settled, amount, "{of}");
        }
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_in_two_currencies_hold_each_for_itself() {
    with(async |db| {
        limit(&db, "usd", "month", 15).await;
        limit(&db, "token", "month", 1_000).await;
        let money = wide("acme", 100, 2, 10);
        let tokens =
            wide("acme", 10_000, 3, 400).with(json!({"budget": {"amount": 10_000, "currency": "token"}}));
        db.start(&money, at(0)).await;
        db.start(&tokens, at(0)).await;
        let asked = [
            money.run(money.unit(0)),
            money.run(money.unit(1)),
            tokens.run(tokens.unit(0)),
            tokens.run(tokens.unit(1)),
            tokens.run(tokens.unit(2)),
        ];
        let report = db.claim(&asked, at(1)).await;
        let claimed: Vec<_> = report.claimed.iter().map(|claimed| claimed.lease.unit).collect();
        assert_eq!(claimed, [money.unit(0), tokens.unit(0), tokens.unit(1)]);
        let held = async |currency: &str| -> (i64, i64) {
            sqlx::query_as(
                "SELECT settled, reserved FROM budget_account WHERE period = 'month' AND currency = $1",
            )
            .bind(currency)
            .fetch_one(&db.sql)
            .await
            .unwrap()
        };
        assert_eq!((held("usd").await, held("token").await), ((0, 10), (0, 800)));
        // What one gives back makes room in its own currency alone.
        db.settle(&tokens, &report.claimed[1].lease, done(100), at(2)).await;
        let report = db.claim(&[money.run(money.unit(1)), tokens.run(tokens.unit(2))], at(9)).await;
        let claimed: Vec<_> = report.claimed.iter().map(|claimed| claimed.lease.unit).collect();
        assert_eq!(claimed, [tokens.unit(2)]);
        assert_eq!((held("usd").await, held("token").await), ((0, 10), (100, 800)));
        // A refusal says by what it was decided, and that it was short.
        let figures = "SELECT count(*) FROM execution_event WHERE kind = 'budget.refused'
            AND (data->>'short')::bigint > 0 AND (data->>'short')::bigint
                = (data->>'settled')::bigint + (data->>'reserved')::bigint + (data->>'needed')::bigint
                  - (data->>'limit')::bigint";
        assert_eq!(db.number(figures).await, 2);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_an_era_that_is_over_takes_nothing_and_one_loss_is_told_of_once() {
    with(async |db| {
        let lease = TimeDelta::seconds(5);
        let first = db.store.runtime_state(at(0)).await.unwrap();
        assert_eq!((first.era, first.lost_at, first.rebuilding), (0, None, false));
        // What was never filled is no loss.
        let begin = async |seen, seconds| {
            db.store.begin_era(seen, Some("its marker is gone"), "w", lease, at(seconds)).await.unwrap()
        };
        assert_eq!(begin(first, 0).await, Some(1));
        assert_eq!(begin(first, 0).await, None, "another worker began it");
        assert_eq!(db.store.end_rebuild(1, "w", Some(0), at(1)).await.unwrap(), None);
        assert_eq!(db.number("SELECT count(*) FROM execution_event").await, 0);

        let plan = wide("acme", 100, 2, 10);
        db.start(&plan, at(1)).await;
        let claim = async |era, unit, seconds| {
            let asked = [plan.run(plan.unit(unit))];
            let claimed = db.store.claim_in_era(&asked, Some(era), "w", at(90), at(seconds)).await.unwrap();
            claimed.map(|report| report.claimed.len())
        };
        assert_eq!(claim(1, 0, 2).await, Some(1));
        let seen = db.store.runtime_state(at(3)).await.unwrap();
        assert_eq!(begin(seen, 3).await, Some(2));
        // A worker that reserved before the loss.
        assert_eq!(claim(1, 1, 4).await, None);
        let seen = db.store.runtime_state(at(4)).await.unwrap();
        assert!(seen.rebuilding && seen.lost_at == Some(at(3)));
        assert_eq!(begin(seen, 4).await, None, "it is being rebuilt");
        // Whoever rebuilt it died, or gave it up: another does, and the loss is the same.
        let seen = db.store.runtime_state(at(9)).await.unwrap();
        assert!(!seen.rebuilding);
        db.store.abandon_era(2).await.unwrap();
        let seen = db.store.runtime_state(at(4)).await.unwrap();
        assert!(!seen.rebuilding && seen.lost_at == Some(at(3)));
        assert_eq!(begin(seen, 4).await, Some(3));
        assert_eq!(db.store.end_rebuild(2, "w", Some(1), at(10)).await.unwrap(), None, "its era is over");
        assert_eq!(db.store.end_rebuild(3, "w", Some(1), at(10)).await.unwrap(), Some(at(3)));
        assert_eq!(db.store.end_rebuild(3, "w", Some(1), at(11)).await.unwrap(), None);
        assert_eq!(claim(3, 1, 12).await, Some(1));
        let told = "SELECT count(*) FROM execution_event
                    WHERE kind = 'runtime.lost' OR kind = 'runtime.rebuilt' AND (data->>'took_ms')::bigint = 7000";
        assert_eq!(db.number(told).await, 2);
        db.assert_sound().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_era_waits_for_the_claims_of_the_old_one() {
    with(async |db| {
        let plan = wide("acme", 100, 1, 10);
        db.start(&plan, at(1)).await;
        // Holds the claim between its look at the era and its commit.
        let mut other = db.sql.begin().await.unwrap();
        sqlx::query("SELECT FROM execution_step FOR UPDATE").execute(&mut *other).await.unwrap();
        sqlx::query("SELECT FROM budget_account FOR UPDATE").execute(&mut *other).await.unwrap();
        let asked = plan.clone();
        let store = db.store.clone();
        let claiming = tokio::spawn(async move {
            store.claim_in_era(&[asked.run(asked.unit(0))], Some(0), "w", at(90), at(2)).await.unwrap()
        });
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while db.number(waiting).await == 0 {
            assert!(!claiming.is_finished(), "the claim does not wait");
        }
        let seen = db.store.runtime_state(at(3)).await.unwrap();
        let store = db.store.clone();
        let beginning = tokio::spawn(async move {
            store.begin_era(seen, Some("lost"), "w", TimeDelta::seconds(5), at(3)).await.unwrap()
        });
        while db.number(waiting).await < 2 {
            assert!(!beginning.is_finished(), "the new era does not wait for the claim");
        }
        other.rollback().await.unwrap();
        claiming.await.unwrap();
        assert_eq!(beginning.await.unwrap(), Some(1));
    })
    .await;
}
