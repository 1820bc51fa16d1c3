//! Looking through plans, page by page: those that fit a filter, newest first.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use dat_plan::{PlanKey, PlanState};
use uuid::Uuid;

use crate::error::StoreError;
use crate::pool::Store;

/// Which plans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanFilter {
    /// Only those that have not ended.
    pub open: bool,
    /// A part of the name in any case, or the beginning of the id.
    pub search: Option<String>,
    /// In this state.
    pub state: Option<PlanState>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// After this one.
    pub after: Option<PlanCursor>,
}

/// A place in the list: what was registered before it comes after it. Stays where it is, whatever is registered since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanCursor {
    registered_at: DateTime<Utc>,
    plan: PlanKey,
}

impl fmt::Display for PlanCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PlanKey { plan_id, plan_version, .. } = self.plan;
        write!(f, "{}.{}.{plan_version}", self.registered_at.timestamp_micros(), plan_id.simple())
    }
}

impl FromStr for PlanCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(());
        let micros = part()?.parse().map_err(drop)?;
        let id: Uuid = part()?.parse().map_err(drop)?;
        let version = part()?.parse().map_err(drop)?;
        let registered_at = DateTime::from_timestamp_micros(micros).ok_or(())?;
        Ok(Self { registered_at, plan: PlanKey::new(id, version) })
    }
}

impl Store {
    /// The plans registered last, newest first; with `open`, only those that have not ended.
    pub async fn recent_plans(&self, open: bool, limit: i64) -> Result<Vec<PlanKey>, StoreError> {
        Ok(self.plans_page(&PlanFilter { open, ..PlanFilter::default() }, limit).await?.0)
    }

    /// A page of at most `limit` plans, newest first, and where the next begins; none where this is the last.
    pub async fn plans_page(
        &self,
        filter: &PlanFilter,
        limit: i64,
    ) -> Result<(Vec<PlanKey>, Option<PlanCursor>), StoreError> {
        let literal = |text: &str| text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
        let search = filter.search.as_deref().map(literal);
        let rows = sqlx::query!(
            "SELECT plan_id, plan_version, registered_at FROM execution_plan
             WHERE (NOT $8 OR ended_at IS NULL) AND ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR tenant = $2)
               AND ($3::text IS NULL OR name ILIKE '%' || $3 || '%' OR plan_id::text LIKE lower($3) || '%')
               AND ($4::timestamptz IS NULL OR (registered_at, plan_id, plan_version) < ($4, $5, $6))
             ORDER BY registered_at DESC, plan_id DESC, plan_version DESC LIMIT $7",
            filter.state.map(PlanState::as_str),
            filter.tenant,
            search,
            filter.after.map(|cursor| cursor.registered_at),
            filter.after.map(|cursor| cursor.plan.plan_id),
            filter.after.map(|cursor| cursor.plan.plan_version),
            limit.saturating_add(1),
            filter.open,
        )
        .fetch_all(self.pool())
        .await?;
        let more = i64::try_from(rows.len()).is_ok_and(|found| found > limit);
        let mut page: Vec<PlanCursor> = rows
            .into_iter()
            .map(|row| PlanCursor {
                registered_at: row.registered_at,
                plan: PlanKey::new(row.plan_id, row.plan_version),
            })
            .collect();
        if more {
            page.pop();
        }
        let next = page.last().copied().filter(|_| more);
        Ok((page.into_iter().map(|cursor| cursor.plan).collect(), next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_anything_else_is_none() {
        let registered_at = DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a moment");
        let cursor = PlanCursor { registered_at, plan: PlanKey::new(Uuid::from_u128(7), 3) };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for text in ["", "1", "x.y.z", "1.00000000000000000000000000000007", "99999999999999999999.7.1"] {
            assert_eq!(text.parse::<PlanCursor>(), Err(()), "{text}");
        }
    }
}
