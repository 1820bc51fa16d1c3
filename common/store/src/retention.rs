//! Retention: months of the log whose plans ended long ago leave the database.
//!
//! **Owns** which months may go, the state `archived`, and the detaching of a month's partition. Checkpoints and leaves
//! stay: an exported file proves against them, and `audit` against the end that was sealed. **May be called** by
//! `dat audit archive`, which exports each plan between the two. **Must never** detach what is not archived, published
//! and sealed: the database's own function looks once more, under the locks that keep writers away.

use chrono::{DateTime, Months, NaiveDate, Utc};
use dat_plan::{PlanKey, PlanState};
use serde::Serialize;

use crate::error::StoreError;
use crate::event_log;
use crate::plan_row::{self, Contended};
use crate::pool::Store;

/// After everything, as PostgreSQL can have it.
const FOREVER: DateTime<Utc> = DateTime::from_timestamp(253_402_300_799, 0).expect("a moment");

/// A month of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogMonth {
    /// Its first day.
    pub first: NaiveDate,
    /// Plan versions that were registered in it.
    pub plans: i64,
    /// Of those, which have not ended.
    pub open: i64,
    /// Which ended, but not before the moment that was asked about.
    pub recent: i64,
    /// Which ended and are not archived yet.
    pub ended: i64,
    /// Which have events that were not published yet.
    pub unpublished: i64,
    /// Which have events that no checkpoint seals yet.
    pub unsealed: i64,
}

impl LogMonth {
    /// Why it has to stay, where it has to; what is not published or sealed yet is a matter of seconds.
    #[must_use]
    pub fn blocker(&self) -> Option<String> {
        match (self.open, self.recent) {
            (0, 0) => None,
            (0, 1) => Some("1 plan ended too recently".to_owned()),
            (0, recent) => Some(format!("{recent} plans ended too recently")),
            (1, _) => Some("1 plan has not ended".to_owned()),
            (open, _) => Some(format!("{open} plans have not ended")),
        }
    }

    /// Whether everything of it is archived, published and sealed.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.open == 0 && self.ended == 0 && self.unpublished == 0 && self.unsealed == 0
    }
}

impl Store {
    /// Months of the log that are over, oldest first, and what keeps them. `ended_before` is the moment before which
    /// their plans must have ended. The current month and the one of `ended_before` are not among them.
    pub async fn log_months(&self, ended_before: DateTime<Utc>) -> Result<Vec<LogMonth>, StoreError> {
        self.months(None, ended_before).await
    }

    /// How far a month is, whenever its plans ended; none where it is not in the log.
    pub async fn log_month(&self, first: NaiveDate) -> Result<Option<LogMonth>, StoreError> {
        Ok(self.months(Some(first), DateTime::<Utc>::MAX_UTC).await?.pop())
    }

    async fn months(
        &self,
        only: Option<NaiveDate>,
        ended_before: DateTime<Utc>,
    ) -> Result<Vec<LogMonth>, StoreError> {
        let ended_before = ended_before.min(FOREVER);
        let rows = sqlx::query!(
            r#"SELECT m.first AS "first!",
                    count(p.plan_id) AS "plans!",
                    count(*) FILTER (WHERE p.ended_at IS NULL AND p.plan_id IS NOT NULL) AS "open!",
                    count(*) FILTER (WHERE p.ended_at >= $1 AND p.state <> 'archived') AS "recent!",
                    count(*) FILTER (WHERE p.ended_at IS NOT NULL AND p.state <> 'archived') AS "ended!",
                    count(*) FILTER (WHERE s.relayed < s.last_sequence) AS "unpublished!",
                    count(*) FILTER (WHERE s.last_sequence > 0 AND NOT EXISTS (
                        SELECT FROM audit_leaf l
                        WHERE l.plan_id = s.plan_id AND l.plan_version = s.plan_version
                          AND l.last_sequence = s.last_sequence)) AS "unsealed!"
             FROM (SELECT to_date(right(c.relname, 7), 'YYYY_MM') AS first
                   FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                   WHERE i.inhparent = 'execution_event'::regclass
                     AND c.relname ~ '^execution_event_\d{4}_\d\d$') AS m
             LEFT JOIN event_stream s
                    ON s.partition_date >= m.first AND s.partition_date < (m.first + interval '1 month')::date
             LEFT JOIN execution_plan p USING (plan_id, plan_version)
             WHERE m.first + interval '1 month' <= $1 AND ($2::date IS NULL OR m.first = $2)
             GROUP BY m.first ORDER BY m.first"#,
            ended_before,
            only,
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| LogMonth {
                first: row.first,
                plans: row.plans,
                open: row.open,
                recent: row.recent,
                ended: row.ended,
                unpublished: row.unpublished,
                unsealed: row.unsealed,
            })
            .collect())
    }

    /// Plans registered in a month, by id, after one of them.
    pub async fn plans_of_month(
        &self,
        first: NaiveDate,
        after: Option<PlanKey>,
        limit: i64,
    ) -> Result<Vec<PlanKey>, StoreError> {
        let end = first.checked_add_months(Months::new(1)).unwrap_or(NaiveDate::MAX);
        let rows = sqlx::query!(
            "SELECT plan_id, plan_version FROM event_stream
             WHERE partition_date >= $1 AND partition_date < $2
               AND ($3::uuid IS NULL OR (plan_id, plan_version) > ($3, $4))
             ORDER BY plan_id, plan_version LIMIT $5",
            first,
            end,
            after.map(|plan| plan.plan_id),
            after.map_or(0, |plan| plan.plan_version),
            limit,
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows.into_iter().map(|row| PlanKey::new(row.plan_id, row.plan_version)).collect())
    }

    /// Takes plans that have ended to `archived`: the last event of their streams. Gives how many it took.
    pub async fn archive_plans(
        &self,
        plans: &[PlanKey],
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<usize, StoreError> {
        let mut tx = self.begin().await?;
        let mut plans = plan_row::lock(&mut tx, plans.iter().copied(), Contended::Wait).await?;
        let mut events = Vec::new();
        for plan in plans.values_mut() {
            if plan.state.is_end() && plan.state != PlanState::Archived {
                events.push(plan.enter(PlanState::Archived, reason, now)?);
            }
        }
        plan_row::write(&mut tx, &plans).await?;
        event_log::append(&mut tx, &events).await?;
        tx.commit().await?;
        Ok(events.len())
    }

    /// Detaches a month of the log of which so many events were exported: its table stays, by itself. Gives false, and
    /// leaves the month as it is, where it holds another number: something was written to it meanwhile, and is in no
    /// file. Waits a third of a statement's time for whoever writes, and is refused where something is not archived,
    /// published and sealed.
    pub async fn detach_month(
        &self,
        first: NaiveDate,
        exported: i64,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let events = sqlx::query_scalar!(r#"SELECT detach_event_month($1, $2) AS "events!""#, first, now)
            .fetch_one(&mut *tx)
            .await?;
        if events != exported {
            return Ok(false);
        }
        tx.commit().await?;
        Ok(true)
    }
}
