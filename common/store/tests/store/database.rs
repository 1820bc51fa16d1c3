//! A database for each test, and what every test does with one.

use std::future::Future;

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::clock::{Entropy, SeededEntropy};
use dat_plan::signing::{KeyRing, Trust};
use dat_plan::{PlanHash, UnitKey};
use dat_store::{
    Admitted, Bound, ClaimReport, ClaimRequest, Claimed, Finding, Registered, Seal, SettleReport, Settled,
    Store,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::plans::Plan;

/// Every table that a transaction of the store writes.
const TABLES: [&str; 20] = [
    "plan_owner",
    "execution_plan",
    "plan_verdict",
    "execution_step",
    "step_attempt",
    "rollback_policy",
    "budget_account",
    "budget_reservation",
    "budget_entry",
    "budget_snapshot",
    "budget_change",
    "execution_event",
    "event_stream",
    "control_state",
    "control_request",
    "two_person_act",
    "stream_growth",
    "audit_checkpoint",
    "audit_leaf",
    "checkpoint_turn",
];

/// A moment: so many seconds after the tests' own beginning of time.
pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_772_366_400 + seconds, 0).unwrap() // 2026-03-01T12:00:00Z
}

/// A store on a database of the test's own.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    pub(crate) store: Store,
    pub(crate) sql: PgPool,
    pub(crate) url: String,
}

/// Runs a test on a new database, which is dropped whatever becomes of the test.
pub(crate) async fn with<T: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Db) -> T) {
    let Ok(server) = std::env::var("DATABASE_URL") else {
        panic!("DATABASE_URL is not set: run `make test`, or set it to what `make -s env` prints");
    };
    let name = format!("dat_store_{}", SeededEntropy::from_os().id().simple());
    admin(&server, format!("CREATE DATABASE {name}")).await;
    let (base, options) = server.split_once('?').map_or((server.as_str(), None), |(b, o)| (b, Some(o)));
    let base = base.rsplit_once('/').unwrap().0;
    let url = options.map_or_else(|| format!("{base}/{name}"), |o| format!("{base}/{name}?{o}"));
    let db = Db {
        store: Store::new(&url, 12, "dat-store-test").unwrap(),
        sql: PgPool::connect_lazy(&url).unwrap(),
        url,
    };
    let migrated = db.store.migrate().await;
    let outcome = match migrated {
        Ok(()) => tokio::spawn(test(db.clone())).await.map_err(tokio::task::JoinError::into_panic),
        Err(error) => Err(Box::new(error.to_string()) as Box<dyn std::any::Any + Send>),
    };
    db.store.close().await;
    db.sql.close().await;
    admin(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

async fn admin(server: &str, statement: String) {
    let mut connection = PgConnection::connect(server).await.unwrap();
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

impl Db {
    /// Registers, approves and admits a plan: its first steps are ready.
    pub(crate) async fn start(&self, plan: &Plan, now: DateTime<Utc>) {
        self.approve(plan, now).await;
        let admitted = self.store.admit(&[plan.admission()], now).await.unwrap();
        assert!(matches!(admitted[0].1, Admitted::Executing { .. }), "{admitted:?}");
    }

    /// Registers and approves a plan.
    pub(crate) async fn approve(&self, plan: &Plan, now: DateTime<Utc>) {
        self.register(plan, now).await;
        let bound = self.store.bind_verdicts(&[plan.approval("d1")], &KeyRing::default(), now).await.unwrap();
        assert_eq!(bound, [Bound::Bound]);
    }

    /// Registers a plan that is new.
    pub(crate) async fn register(&self, plan: &Plan, now: DateTime<Utc>) {
        let registered = self.store.register(&[plan.registration()], now).await.unwrap();
        assert_eq!(registered, [Registered::New]);
    }

    /// Asks to run units, under leases of a minute.
    pub(crate) async fn claim(&self, requests: &[ClaimRequest<'_>], now: DateTime<Utc>) -> ClaimReport {
        self.store.claim(requests, "worker", now + TimeDelta::minutes(1), now).await.unwrap()
    }

    /// Claims a unit that nothing is in the way of.
    pub(crate) async fn take(&self, plan: &Plan, unit: UnitKey, now: DateTime<Utc>) -> Claimed {
        let report = self.claim(&[plan.run(unit)], now).await;
        assert_eq!(report.claimed.len(), 1, "{unit:?} was not claimed: {report:?}");
        report.claimed.into_iter().next().unwrap()
    }

    /// Settles one claim.
    pub(crate) async fn settle(
        &self,
        plan: &Plan,
        lease: &dat_store::Lease,
        finding: Finding,
        now: DateTime<Utc>,
    ) -> SettleReport {
        self.store.settle(&[plan.settlement(lease, finding)], now).await.unwrap()
    }

    /// Claims and settles one unit; gives the state that it came to.
    pub(crate) async fn go(
        &self,
        plan: &Plan,
        unit: UnitKey,
        finding: Finding,
        now: DateTime<Utc>,
    ) -> dat_plan::StepState {
        let claimed = self.take(plan, unit, now).await;
        match self.settle(plan, &claimed.lease, finding, now).await.settled[0] {
            Settled::Written(state) => state,
            Settled::Fenced => panic!("the lease of {unit:?} was lost"),
        }
    }

    /// Claims with another document's hash.
    pub(crate) async fn claim_as(
        &self,
        plan: &Plan,
        unit: UnitKey,
        as_hash: PlanHash,
        now: DateTime<Utc>,
    ) -> ClaimReport {
        let request = plan.run_sealed(unit, Seal { hash: as_hash, ..plan.seal() });
        self.claim(&[request], now).await
    }

    /// One value of the database, as text.
    pub(crate) async fn text(&self, query: &'static str) -> Option<String> {
        sqlx::query_scalar(query).fetch_one(&self.sql).await.unwrap()
    }

    /// One number of the database.
    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.sql).await.unwrap()
    }

    /// Changes rows by hand; gives how many.
    pub(crate) async fn run(&self, statement: String) -> u64 {
        sqlx::query(AssertSqlSafe(statement)).execute(&self.sql).await.unwrap().rows_affected()
    }

    /// Changes units by hand as no code of ours could: past the triggers, as the owner of the table.
    pub(crate) async fn force(&self, statement: &'static str) -> u64 {
        let mut tx = self.sql.begin().await.unwrap();
        sqlx::query("ALTER TABLE execution_step DISABLE TRIGGER USER").execute(&mut *tx).await.unwrap();
        let changed = sqlx::query(statement).execute(&mut *tx).await.unwrap().rows_affected();
        sqlx::query("ALTER TABLE execution_step ENABLE TRIGGER USER").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        changed
    }

    /// Where a unit stands.
    pub(crate) async fn state(&self, unit: UnitKey) -> String {
        sqlx::query_scalar(
            "SELECT state FROM execution_step
             WHERE plan_id = $1 AND plan_version = $2 AND kind = $3 AND step_index = $4",
        )
        .bind(unit.plan.plan_id)
        .bind(unit.plan.plan_version)
        .bind(unit.kind.as_str())
        .bind(unit.index)
        .fetch_one(&self.sql)
        .await
        .unwrap()
    }

    /// Where a plan stands.
    pub(crate) async fn plan_state(&self, plan: &Plan) -> dat_plan::PlanState {
        self.store.summaries(&[plan.key()]).await.unwrap()[0].state
    }

    /// Every row of every table.
    pub(crate) async fn dump(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for table in TABLES {
            let query =
                format!("SELECT '{table} ' || to_jsonb(t)::text AS row FROM {table} AS t ORDER BY row");
            let found: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&self.sql).await.unwrap();
            rows.extend(found);
        }
        rows
    }

    /// As [`Db::dump`], but for the events of late answers, the heads and notes that tell of them, and their marks.
    pub(crate) async fn without_late(&self) -> Vec<String> {
        let mut rows = self.dump().await;
        rows.retain(|row| {
            let head = row.starts_with("event_stream ") || row.starts_with("stream_growth ");
            !head && !row.contains("anomaly.late_answer")
        });
        for row in &mut rows {
            if let Some(at) = row.find("\"late_at\": ") {
                let end = row[at..].find([',', '}']).map_or(row.len(), |length| at + length);
                row.replace_range(at..end, "");
            }
        }
        rows
    }

    /// The log, the ledger and the rows say the same.
    pub(crate) async fn assert_sound(&self) {
        let report = self.store.audit_full(&Trust::default()).await.unwrap();
        assert!(report.faults.is_empty(), "{:#?}", report.faults);
        assert!(report.events > 0, "the audit read nothing");
    }

    /// As [`Db::assert_sound`], of one plan.
    pub(crate) async fn assert_plan_sound(&self, plan: &Plan) {
        let report = self.store.audit(Some(plan.key()), &Trust::default()).await.unwrap();
        assert!(report.faults.is_empty(), "{:#?}", report.faults);
        assert!(report.events > 0, "the audit read nothing");
    }
}
