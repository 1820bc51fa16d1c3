//! What waits in the database, in numbers: for `/metrics`, which asks at every scrape.

use chrono::{DateTime, Utc};

use crate::error::StoreError;
use crate::pool::Store;

/// What waits, in numbers.
#[derive(Debug, Clone)]
pub struct Gauges {
    /// By state: how many units, and since when the oldest that is due is ready.
    pub units: Vec<(String, i64, Option<DateTime<Utc>>)>,
    /// By state: how many plans were approved and have not ended.
    pub plans: Vec<(String, i64)>,
    /// Plans that the sweeper must look at.
    pub due_plans: i64,
    /// By currency and period: what is settled and reserved of the limit, of the tenant that has used most of its own in
    /// the present period; 1 is all of it.
    pub budgets_used: Vec<(String, String, f64)>,
    /// Age of the oldest transaction of this database that holds back vacuum, of those that this login may see, seconds.
    pub oldest_snapshot_s: f64,
}

impl Store {
    /// What waits now. Five statements, each by an index.
    pub async fn gauges(&self) -> Result<Gauges, StoreError> {
        let units = sqlx::query!(
            r#"SELECT state, count(*) AS "count!", min(CASE WHEN not_before <= now() THEN ready_at END) AS oldest
             FROM execution_step
             WHERE state = 'ready' OR state = 'running' OR needs_decision
             GROUP BY state"#
        )
        .fetch_all(self.pool())
        .await?;
        let budgets_used = sqlx::query!(
            r#"SELECT currency, period AS "period!",
                      max((settled + reserved)::float8 / greatest(limit_amount, 1)) AS "used!"
             FROM budget_account
             WHERE period IS NOT NULL AND period_start = date_trunc(period, now() AT TIME ZONE 'UTC')::date
             GROUP BY currency, period"#
        )
        .fetch_all(self.pool())
        .await?;
        let oldest_snapshot_s = sqlx::query_scalar!(
            r#"SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8 AS "age!"
             FROM pg_stat_activity
             WHERE datname = current_database() AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"#
        )
        .fetch_one(self.pool())
        .await?;
        let plans = sqlx::query!(
            r#"SELECT state, count(*) AS "count!" FROM execution_plan
             WHERE state IN ('staged', 'executing', 'paused', 'rolling_back', 'stuck')
             GROUP BY state"#
        )
        .fetch_all(self.pool())
        .await?;
        Ok(Gauges {
            plans: plans.into_iter().map(|row| (row.state, row.count)).collect(),
            budgets_used: budgets_used.into_iter().map(|row| (row.currency, row.period, row.used)).collect(),
            oldest_snapshot_s,
            units: units.into_iter().map(|row| (row.state, row.count, row.oldest)).collect(),
            due_plans: sqlx::query_scalar!(
                r#"SELECT count(*) AS "count!" FROM execution_plan WHERE wake_at <= now()"#
            )
            .fetch_one(self.pool())
            .await?,
        })
    }
}
