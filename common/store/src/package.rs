//! What an approval package says besides its plan: what is in force when the plan is registered.
//!
//! **Owns** these readings, and the package as the log holds it. **May be called** by the registration, within its
//! transaction, and by whoever shows a package. **Must never** lock: a package is of a moment, and says so.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use dat_plan::approval::{BudgetSnapshot, PackageFacts, ShownHead, ShownSet};
use dat_plan::{PlanDocument, PlanHash, PlanKey};
use serde_json::Value;

use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::pool::Store;

/// What is in force for plans that are about to be registered.
pub(crate) async fn facts<'a>(
    conn: &mut PgConnection,
    documents: impl Iterator<Item = &'a PlanDocument>,
    now: DateTime<Utc>,
) -> Result<BTreeMap<PlanKey, PackageFacts>, StoreError> {
    let documents: Vec<&PlanDocument> = documents.collect();
    let tenants: BTreeSet<String> = documents.iter().map(|document| document.tenant.clone()).collect();
    let tenants: Vec<String> = tenants.into_iter().collect();
    let sets = sets_in_force(conn, &tenants).await?;
    let budgets = budgets(conn, &tenants, now).await?;
    let mut approved = approved_before(conn, &documents).await?;
    let facts = documents.into_iter().map(|document| {
        let binds =
            |set: &&ShownSet| set.head.subject.as_ref().is_none_or(|tenant| *tenant == document.tenant);
        let pays = |(tenant, budget): &&(String, BudgetSnapshot)| {
            *tenant == document.tenant && budget.currency == document.budget.currency.0
        };
        let facts = PackageFacts {
            constraint_sets: sets.iter().filter(binds).cloned().collect(),
            budgets: budgets.iter().filter(pays).map(|(_, budget)| budget.clone()).collect(),
            approved: approved.remove(&document.key()),
        };
        (document.key(), facts)
    });
    Ok(facts.collect())
}

async fn sets_in_force(conn: &mut PgConnection, tenants: &[String]) -> Result<Vec<ShownSet>, StoreError> {
    let rows = sqlx::query!(
        "SELECT DISTINCT ON (scope, subject) scope, subject, version, content_hash, document FROM constraint_set
         WHERE scope = 'fleet' OR (scope = 'tenant' AND subject = ANY($1))
         ORDER BY scope, subject, version DESC",
        tenants,
    )
    .fetch_all(conn)
    .await?;
    let shown = rows.into_iter().map(|row| ShownSet {
        head: ShownHead {
            subject: (row.scope != "fleet").then_some(row.subject),
            scope: row.scope,
            version: row.version,
            hash: row.content_hash,
        },
        document: row.document,
    });
    Ok(shown.collect())
}

async fn budgets(
    conn: &mut PgConnection,
    tenants: &[String],
    now: DateTime<Utc>,
) -> Result<Vec<(String, BudgetSnapshot)>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT l.tenant, l.currency, l.period,
                date_trunc(l.period, $2::timestamptz AT TIME ZONE 'UTC')::date AS "since!",
                coalesce(a.limit_amount, l.amount) AS "limit!", coalesce(a.settled, 0) AS "settled!",
                coalesce(a.reserved, 0) AS "reserved!"
         FROM budget_limit l
         LEFT JOIN budget_account a ON a.tenant = l.tenant AND a.currency = l.currency AND a.period = l.period
          AND a.period_start = date_trunc(l.period, $2::timestamptz AT TIME ZONE 'UTC')::date
         WHERE l.tenant = ANY($1)
         ORDER BY l.tenant, l.currency, l.period"#,
        tenants,
        now,
    )
    .fetch_all(conn)
    .await?;
    let shown = rows.into_iter().map(|row| {
        let budget = BudgetSnapshot {
            period: row.period,
            since: row.since,
            currency: row.currency,
            limit: row.limit,
            settled: row.settled,
            reserved: row.reserved,
            adds: 0,
        };
        (row.tenant, budget)
    });
    Ok(shown.collect())
}

/// Of each plan version the newest one before it that was approved: its hash and document.
async fn approved_before(
    conn: &mut PgConnection,
    documents: &[&PlanDocument],
) -> Result<BTreeMap<PlanKey, (PlanHash, Vec<u8>)>, StoreError> {
    let later: Vec<PlanKey> =
        documents.iter().map(|document| document.key()).filter(|key| key.plan_version > 1).collect();
    if later.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = sqlx::query!(
        r#"SELECT k.plan_id AS "plan_id!", k.plan_version AS "plan_version!", p.plan_hash, p.document
         FROM UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version)
         JOIN execution_plan p ON p.plan_id = k.plan_id AND p.plan_version =
              (SELECT max(v.plan_version) FROM plan_verdict v
               WHERE v.plan_id = k.plan_id AND v.plan_version < k.plan_version AND v.outcome = 'approved')"#,
        &later.iter().map(|key| key.plan_id).collect::<Vec<_>>(),
        &later.iter().map(|key| key.plan_version).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (PlanKey::new(row.plan_id, row.plan_version), (PlanHash(row.plan_hash), row.document)))
        .collect())
}

impl Store {
    /// The approval package of a plan version as governance was sent it, from the log.
    pub async fn approval_package(&self, plan: PlanKey) -> Result<Option<Value>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT e.data FROM event_stream s
             JOIN execution_event e USING (partition_date, plan_id, plan_version)
             WHERE s.plan_id = $1 AND s.plan_version = $2 AND e.kind = 'plan.approval_requested'
             ORDER BY e.sequence DESC LIMIT 1",
            plan.plan_id,
            plan.plan_version,
        )
        .fetch_optional(self.pool())
        .await?)
    }
}
