//! Weights: how much of the claims a tenant gets beside others that have work too. Operators set them, [`crate::Turns`]
//! goes by them.

use chrono::{DateTime, Utc};
use dat_plan::PlanKey;
use dat_plan::event::{ControlAct, EventKind, NewEvent};

use crate::control::ControlChange;
use crate::error::StoreError;
use crate::event_log;
use crate::pool::Store;

/// A tenant's share of the claims, as it was set.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TenantWeight {
    /// The tenant.
    pub tenant: String,
    /// Claims for each claim of a tenant of weight 1, 1 to 100.
    pub weight: i16,
    /// Who set it.
    pub set_by: String,
    /// When.
    pub set_at: DateTime<Utc>,
}

impl Store {
    /// Sets a tenant's weight, 1 to 100; the database refuses any other. It holds from the next claim on.
    pub async fn set_weight(
        &self,
        tenant: &str,
        weight: i16,
        actor: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<ControlChange, StoreError> {
        let mut tx = self.begin().await?;
        let changed = sqlx::query!(
            "INSERT INTO tenant_weight AS w (tenant, weight, set_at, set_by)
             SELECT $1::text, $2::smallint, $3::timestamptz, $4::text
             WHERE $2 <> 1::smallint OR EXISTS (SELECT FROM tenant_weight WHERE tenant = $1)
             ON CONFLICT (tenant) DO UPDATE
             SET weight = excluded.weight, set_at = excluded.set_at, set_by = excluded.set_by
             WHERE w.weight <> excluded.weight",
            tenant,
            weight,
            now,
            actor,
        )
        .execute(&mut *tx)
        .await?;
        if changed.rows_affected() == 0 {
            return Ok(ControlChange::AlreadySo);
        }
        let event = NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::Control(ControlAct::SetWeight), now)
            .with("actor", actor)
            .with("scope", "tenant")
            .with("subject", tenant)
            .with("weight", weight)
            .because(reason);
        event_log::append(&mut tx, &[event]).await?;
        tx.commit().await?;
        Ok(ControlChange::Done)
    }

    /// The weights that were set, by tenant; every other tenant has 1.
    pub async fn weights(&self) -> Result<Vec<TenantWeight>, StoreError> {
        Ok(sqlx::query_as!(
            TenantWeight,
            "SELECT tenant, weight, set_by, set_at FROM tenant_weight ORDER BY tenant"
        )
        .fetch_all(self.pool())
        .await?)
    }
}
