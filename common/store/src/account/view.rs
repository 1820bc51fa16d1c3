//! Accounts and limits as operators see and set them, and what token windows are rebuilt from.

use chrono::{DateTime, NaiveDate, Utc};
use dat_plan::budget::Account;
use dat_plan::event::{ControlAct, EventKind, NewEvent};
use dat_plan::{PlanKey, UnitKey, UnitKind};
use uuid::Uuid;

use crate::error::StoreError;
use crate::event_log;
use crate::pool::Store;

/// An account as people see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct AccountView {
    /// Which; the key of its live copy.
    pub account_id: i64,
    /// Rises with every change.
    pub version: i64,
    /// Who pays.
    pub tenant: String,
    /// Of what.
    pub currency: String,
    /// A plan's account.
    pub plan: Option<PlanKey>,
    /// A `spend` rule's account: what is counted together.
    pub cap: Option<String>,
    /// A tenant's or a rule's account: the period and its first day.
    pub period: Option<(String, NaiveDate)>,
    /// What it holds.
    pub account: Account,
}

/// An account's row, as every query of whole accounts reads it.
#[derive(Debug)]
pub(super) struct AccountRow {
    pub(super) account_id: i64,
    pub(super) version: i64,
    pub(super) tenant: String,
    pub(super) currency: String,
    pub(super) plan_id: Option<Uuid>,
    pub(super) plan_version: Option<i32>,
    pub(super) period: Option<String>,
    pub(super) period_start: Option<NaiveDate>,
    pub(super) cap_key: Option<String>,
    pub(super) cap_period: Option<String>,
    pub(super) cap_start: Option<NaiveDate>,
    pub(super) limit_amount: i64,
    pub(super) settled: i64,
    pub(super) reserved: i64,
    pub(super) overrun: i64,
}

impl From<AccountRow> for AccountView {
    fn from(row: AccountRow) -> Self {
        Self {
            account_id: row.account_id,
            version: row.version,
            tenant: row.tenant,
            currency: row.currency,
            plan: row.plan_id.zip(row.plan_version).map(|(id, version)| PlanKey::new(id, version)),
            cap: row.cap_key,
            period: row.period.or(row.cap_period).zip(row.period_start.or(row.cap_start)),
            account: Account {
                limit: row.limit_amount,
                settled: row.settled,
                reserved: row.reserved,
                overrun: row.overrun,
            },
        }
    }
}

/// A tenant's limit for a calendar period.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TenantLimit {
    /// Who.
    pub tenant: String,
    /// Of what.
    pub currency: String,
    /// `day`, `month` or `year`, UTC.
    pub period: String,
    /// How much, smallest unit.
    pub amount: i64,
}

/// What one attempt of a token plan reserved or spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUsage {
    /// The step.
    pub unit: UnitKey,
    /// The attempt.
    pub attempt: i32,
    /// Who pays.
    pub tenant: String,
    /// Through which connector.
    pub connector: String,
    /// For which action.
    pub action: String,
    /// When it was reserved.
    pub reserved_at: DateTime<Utc>,
    /// Spent where settled, else reserved; tokens.
    pub amount: i64,
    /// Whether it is settled.
    pub settled: bool,
}

impl Store {
    /// Sets what tenants may spend in calendar periods, all of it or nothing; the present periods' accounts take the new
    /// limits at once.
    pub async fn set_limits(
        &self,
        limits: &[TenantLimit],
        actor: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let mut events = Vec::with_capacity(limits.len());
        // Two documents of the same limits in another order do not wait for each other.
        let mut limits: Vec<&TenantLimit> = limits.iter().collect();
        limits.sort_by_key(|limit| (&limit.tenant, &limit.currency, &limit.period));
        let tenants: Vec<String> = limits.iter().map(|limit| limit.tenant.clone()).collect();
        let currencies: Vec<String> = limits.iter().map(|limit| limit.currency.clone()).collect();
        let periods: Vec<String> = limits.iter().map(|limit| limit.period.clone()).collect();
        // Limits before accounts, as a claim that makes an account locks them.
        sqlx::query!(
            "SELECT l.amount FROM budget_limit l
             JOIN UNNEST($1::text[], $2::text[], $3::text[]) AS k (tenant, currency, period)
               USING (tenant, currency, period)
             ORDER BY l.tenant, l.currency, l.period FOR NO KEY UPDATE OF l",
            &tenants,
            &currencies,
            &periods,
        )
        .fetch_all(&mut *tx)
        .await?;
        // The present accounts in the order of their ids, as every transaction locks them.
        sqlx::query!(
            "SELECT a.account_id FROM budget_account a
             JOIN UNNEST($1::text[], $2::text[], $3::text[]) AS k (tenant, currency, period)
               USING (tenant, currency, period)
             WHERE a.period_start = date_trunc(k.period, $4::timestamptz AT TIME ZONE 'UTC')::date
             ORDER BY a.account_id FOR NO KEY UPDATE OF a",
            &tenants,
            &currencies,
            &periods,
            now,
        )
        .fetch_all(&mut *tx)
        .await?;
        for limit in limits {
            sqlx::query!(
                "INSERT INTO budget_limit (tenant, currency, period, amount, set_at, set_by)
                 VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (tenant, currency, period)
                 DO UPDATE SET amount = excluded.amount, set_at = excluded.set_at, set_by = excluded.set_by",
                limit.tenant,
                limit.currency,
                limit.period,
                limit.amount,
                now,
                actor,
            )
            .execute(&mut *tx)
            .await?;
            sqlx::query!(
                "UPDATE budget_account SET limit_amount = $4, version = version + 1
                 WHERE tenant = $1 AND currency = $2 AND period = $3
                   AND period_start = date_trunc($3, $5::timestamptz AT TIME ZONE 'UTC')::date",
                limit.tenant,
                limit.currency,
                limit.period,
                limit.amount,
                now,
            )
            .execute(&mut *tx)
            .await?;
            let event =
                NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::Control(ControlAct::SetBudget), now)
                    .with("actor", actor)
                    .with("tenant", limit.tenant.as_str())
                    .with("currency", limit.currency.as_str())
                    .with("period", limit.period.as_str())
                    .with("amount", limit.amount)
                    .because(reason);
            events.push(event);
        }
        event_log::append(&mut tx, &events).await?;
        tx.commit().await?;
        Ok(())
    }

    /// As [`Store::set_limits`], for one.
    pub async fn set_limit(
        &self,
        limit: &TenantLimit,
        actor: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        self.set_limits(std::slice::from_ref(limit), actor, reason, now).await
    }

    /// A tenant's accounts, and one plan's where asked: those with something on them, newest period first.
    pub async fn accounts(
        &self,
        tenant: Option<&str>,
        plan: Option<Uuid>,
    ) -> Result<Vec<AccountView>, StoreError> {
        let rows = sqlx::query_as!(
            AccountRow,
            "SELECT account_id, version, tenant, currency, plan_id, plan_version, period, period_start,
                    cap_key, cap_period, cap_start, limit_amount, settled, reserved, overrun
             FROM budget_account
             WHERE ($1::text IS NULL OR tenant = $1) AND (plan_id = $2 OR ($2::uuid IS NULL AND plan_id IS NULL))
             ORDER BY tenant, currency, period, period_start DESC, plan_version
             LIMIT 1000",
            tenant,
            plan,
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows.into_iter().map(AccountView::from).collect())
    }

    /// What attempts of token plans reserved or spent since a moment: what token windows are rebuilt from.
    pub async fn token_usage(&self, since: DateTime<Utc>) -> Result<Vec<TokenUsage>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT r.plan_id, r.plan_version, r.step_index, r.attempt, r.action_amount, r.action_open,
                    r.reserved_at, s.tenant, s.connector, s.action, a.cost
             FROM budget_reservation r
             JOIN execution_plan p USING (plan_id, plan_version)
             JOIN execution_step s USING (plan_id, plan_version, step_index)
             JOIN step_attempt a USING (plan_id, plan_version, step_index, attempt)
             WHERE r.reserved_at >= $1 AND p.currency = 'token' AND s.kind = 'action' AND a.kind = 'action'"#,
            since,
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| TokenUsage {
                unit: UnitKey {
                    plan: PlanKey::new(row.plan_id, row.plan_version),
                    kind: UnitKind::Action,
                    index: row.step_index,
                },
                attempt: row.attempt,
                tenant: row.tenant,
                connector: row.connector,
                action: row.action,
                reserved_at: row.reserved_at,
                amount: if row.action_open { row.action_amount } else { row.cost },
                settled: !row.action_open,
            })
            .collect())
    }

    /// What attempts of token plans, made since a moment by a tenant through a connector for an action (absent: any),
    /// reserved or spent in all: what a token window that is open since then counts.
    pub async fn window_sum(
        &self,
        (tenant, connector, action): (Option<&str>, Option<&str>, Option<&str>),
        since: DateTime<Utc>,
    ) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar!(
            r#"SELECT coalesce(sum(CASE WHEN r.action_open THEN r.action_amount ELSE a.cost END), 0)::bigint AS "sum!"
             FROM budget_reservation r
             JOIN execution_plan p USING (plan_id, plan_version)
             JOIN execution_step s USING (plan_id, plan_version, step_index)
             JOIN step_attempt a USING (plan_id, plan_version, step_index, attempt)
             WHERE r.reserved_at >= $1 AND p.currency = 'token' AND s.kind = 'action' AND a.kind = 'action'
               AND ($2::text IS NULL OR s.tenant = $2) AND ($3::text IS NULL OR s.connector = $3)
               AND ($4::text IS NULL OR s.action = $4)"#,
            since,
            tenant,
            connector,
            action,
        )
        .fetch_one(self.pool())
        .await?)
    }

    /// What became of attempts of actions, given as plan, step and attempt, in the order asked: what each holds or
    /// spent, and whether it is settled; none where nothing was ever reserved.
    pub async fn reservations(
        &self,
        attempts: &[(PlanKey, i32, i32)],
    ) -> Result<Vec<Option<(i64, bool)>>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT r.action_amount AS "amount?", r.action_open AS "open?", a.cost AS "cost?"
             FROM UNNEST($1::uuid[], $2::integer[], $3::integer[], $4::integer[]) WITH ORDINALITY
                  AS k (plan_id, plan_version, step_index, attempt, place)
             LEFT JOIN budget_reservation r USING (plan_id, plan_version, step_index, attempt)
             LEFT JOIN step_attempt a ON a.plan_id = k.plan_id AND a.plan_version = k.plan_version
               AND a.step_index = k.step_index AND a.attempt = k.attempt AND a.kind = 'action'
             ORDER BY k.place"#,
            &attempts.iter().map(|(plan, ..)| plan.plan_id).collect::<Vec<_>>(),
            &attempts.iter().map(|(plan, ..)| plan.plan_version).collect::<Vec<_>>(),
            &attempts.iter().map(|(_, step, _)| *step).collect::<Vec<_>>(),
            &attempts.iter().map(|(.., attempt)| *attempt).collect::<Vec<_>>(),
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let (amount, open) = row.amount.zip(row.open)?;
                Some(if open { (amount, false) } else { (row.cost.unwrap_or(0), true) })
            })
            .collect())
    }

    /// Accounts by their ids, as they are; in no order.
    pub async fn accounts_by_id(&self, ids: &[i64]) -> Result<Vec<AccountView>, StoreError> {
        let rows = sqlx::query_as!(
            AccountRow,
            "SELECT account_id, version, tenant, currency, plan_id, plan_version, period, period_start,
                    cap_key, cap_period, cap_start, limit_amount, settled, reserved, overrun
             FROM budget_account WHERE account_id = ANY($1)",
            ids,
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows.into_iter().map(AccountView::from).collect())
    }

    /// The accounts in which some plans hold room at the moment, of plans after this one in id order: those that live
    /// copies are likely of. At most `limit`.
    pub async fn accounts_in_use(&self, after: PlanKey, limit: i64) -> Result<Vec<i64>, StoreError> {
        Ok(sqlx::query_scalar!(
            r#"SELECT DISTINCT UNNEST(accounts) AS "account_id!" FROM (
                 SELECT accounts FROM budget_reservation
                 WHERE (action_open OR undo_open) AND (plan_id, plan_version) > ($1, $2)
                 ORDER BY plan_id, plan_version LIMIT $3) AS used"#,
            after.plan_id,
            after.plan_version,
            limit,
        )
        .fetch_all(self.pool())
        .await?)
    }

    /// The limits that are set.
    pub async fn limits(&self) -> Result<Vec<TenantLimit>, StoreError> {
        Ok(sqlx::query_as!(
            TenantLimit,
            "SELECT tenant, currency, period, amount FROM budget_limit ORDER BY tenant, currency, period"
        )
        .fetch_all(self.pool())
        .await?)
    }
}
