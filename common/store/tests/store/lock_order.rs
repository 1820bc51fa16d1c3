//! The one order of locks, by looking: a transaction that waits for the first row of its kind holds none after it.

use chrono::TimeDelta;
use dat_plan::signing::KeyRing;
use dat_store::{ClaimedStream, Lease, Store, TenantLimit};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::database::{Db, at, with};
use crate::plans::{Plan, done, error, plan, step};

/// A transaction over two plans, named in the wrong order.
#[derive(Debug, Clone, Copy)]
enum Act {
    Settle,
    Renew,
    Expire,
    Bind,
    Admit,
    StopOverdue,
    RecordRelayed,
}

/// What each transaction locks, and where it would wait for the first of two.
const ORDERED: [(Act, &str); 12] = [
    (Act::Settle, "execution_plan"),
    (Act::Settle, "execution_step"),
    (Act::Settle, "budget_account"),
    (Act::Settle, "event_stream"),
    (Act::Renew, "execution_step"),
    (Act::Expire, "execution_step"),
    (Act::Bind, "execution_plan"),
    (Act::Bind, "event_stream"),
    (Act::Admit, "execution_plan"),
    (Act::StopOverdue, "event_stream"),
    (Act::RecordRelayed, "event_stream"),
    (Act::Expire, "event_stream"),
];

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_first_row_holds_none_after_it() {
    with(async |db| {
        for (act, table) in ORDERED {
            let plans = two_plans(&db).await;
            let (first, last) = if table == "budget_account" {
                // Accounts are ordered by their own ids, which here run against those of the plans.
                (plans[1].id(), plans[0].id())
            } else {
                (plans[0].id(), plans[1].id())
            };
            let streams = db.store.claim_streams(100, 5, TimeDelta::seconds(5), at(3)).await.unwrap();
            let held = Held { leases: leases(&db, first, last).await, streams };
            let mut holder = PgConnection::connect(&db.url).await.unwrap();
            let mut tx = holder.begin().await.unwrap();
            lock(&mut tx, table, first).await.unwrap();
            let acting = tokio::spawn(act.start(db.store.clone(), plans, held));
            while db.number(WAITING).await == 0 {
                assert!(!acting.is_finished(), "{act:?} does not wait for {table}");
            }
            let mut other = PgConnection::connect(&db.url).await.unwrap();
            let free = lock(&mut other, table, last).await;
            tx.rollback().await.unwrap();
            acting.await.unwrap();
            assert!(free.is_ok(), "{act:?} holds a later row of {table} while it waits for an earlier one");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sets_a_limit_that_a_claim_copies_holds_no_account_while_it_waits() {
    with(async |db| {
        let limit = TenantLimit {
            tenant: "acme".to_owned(),
            currency: "usd".to_owned(),
            period: "year".to_owned(),
            amount: 100,
        };
        db.store.set_limit(&limit, "ann", "a budget", at(0)).await.unwrap();
        let plan = plan("acme", 100, vec![step("a", &[], 10, 1)]);
        db.start(&plan, at(0)).await;
        db.take(&plan, plan.unit(0), at(1)).await;
        // As a claim that found no account, and then the one that another claim had made.
        let mut claim = PgConnection::connect(&db.url).await.unwrap();
        let mut tx = claim.begin().await.unwrap();
        sqlx::query("SELECT FROM budget_limit FOR SHARE").execute(&mut *tx).await.unwrap();
        let store = db.store.clone();
        let setting = tokio::spawn(async move { store.set_limit(&limit, "bob", "another", at(2)).await });
        while db.number(WAITING).await == 0 {
            assert!(!setting.is_finished(), "it does not wait for the limit");
        }
        let account = "SELECT FROM budget_account WHERE period = 'year' FOR NO KEY UPDATE NOWAIT";
        let free = sqlx::query(account).execute(&mut *tx).await;
        tx.rollback().await.unwrap();
        setting.await.unwrap().unwrap();
        assert_eq!(free.unwrap().rows_affected(), 1);
    })
    .await;
}

/// What a worker holds of the two plans, the last first.
struct Held {
    leases: Vec<Lease>,
    streams: Vec<ClaimedStream>,
}

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";

async fn lock(conn: &mut PgConnection, table: &str, plan: Uuid) -> Result<(), sqlx::Error> {
    let query = format!("SELECT FROM {table} WHERE plan_id = $1 FOR NO KEY UPDATE NOWAIT");
    sqlx::query(AssertSqlSafe(query)).bind(plan).execute(conn).await.map(drop)
}

/// Two plans in the order of their ids, each with one running step; the later one was started first.
async fn two_plans(db: &Db) -> [Plan; 2] {
    let mut plans =
        [(); 2].map(|()| plan("acme", 100, vec![step("a", &[], 10, 1), step("b", &["a"], 10, 1)]));
    plans.sort_by_key(Plan::key);
    let plans = plans.map(|plan| plan.with(json!({"deadline": at(900)})));
    for plan in plans.iter().rev() {
        db.start(plan, at(0)).await;
        db.take(plan, plan.unit(0), at(1)).await;
    }
    plans
}

/// The leases of two plans' running steps, the last first.
async fn leases(db: &Db, first: Uuid, last: Uuid) -> Vec<Lease> {
    let mut found = Vec::new();
    for id in [last, first] {
        let epoch = sqlx::query_scalar(
            "SELECT lease_epoch FROM execution_step WHERE plan_id = $1 AND state = 'running'",
        )
        .bind(id)
        .fetch_one(&db.sql)
        .await
        .unwrap();
        let unit = dat_plan::UnitKey {
            plan: dat_plan::PlanKey::new(id, 1),
            kind: dat_plan::UnitKind::Action,
            index: 0,
        };
        found.push(Lease { unit, epoch, until: at(61) });
    }
    found
}

impl Act {
    async fn start(self, store: Store, plans: [Plan; 2], held: Held) {
        let Held { leases, streams } = held;
        let backwards = [&plans[1], &plans[0]];
        match self {
            Self::Settle => {
                let findings = [done(1), error(1)];
                let group: Vec<_> = leases
                    .iter()
                    .zip(findings)
                    .map(|(lease, finding)| {
                        let plan = plans.iter().find(|plan| plan.key() == lease.unit.plan).unwrap();
                        plan.settlement(lease, finding)
                    })
                    .collect();
                store.settle(&group, at(2)).await.map(drop)
            }
            Self::Renew => store.renew(&leases, at(99)).await.map(drop),
            Self::Expire => store.expire_leases(10, at(61)).await.map(drop),
            Self::Bind => {
                let verdicts = backwards.map(|plan| plan.verdict("r1", "revoked", &json!({})));
                store.bind_verdicts(&verdicts, &KeyRing::default(), at(2)).await.map(drop)
            }
            Self::Admit => store.admit(&backwards.map(Plan::admission), at(2)).await.map(drop),
            Self::StopOverdue => store.stop_overdue(&backwards.map(Plan::key), at(900)).await.map(drop),
            Self::RecordRelayed => {
                let progress: Vec<_> =
                    streams.into_iter().rev().map(|stream| stream.confirmed(1, at(4))).collect();
                store.record_relayed(&progress, &[]).await.map(drop)
            }
        }
        .unwrap();
    }
}
