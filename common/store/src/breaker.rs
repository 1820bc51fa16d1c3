//! Breakers that an operator has forced open or closed. What they do by themselves is not in the database.

use chrono::{DateTime, Utc};
use dat_plan::PlanKey;
use dat_plan::event::{ControlAct, EventKind, NewEvent};

use crate::control::ControlChange;
use crate::error::StoreError;
use crate::event_log;
use crate::pool::Store;
use crate::wake::{breaker_wait, wake};

/// How a breaker is forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerForce {
    /// Nothing is claimed for its connector, and none of its outcomes is probed.
    Open,
    /// What it says by itself is ignored.
    Closed,
}

impl BreakerForce {
    /// The word stored in rows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// A breaker that is forced.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ForcedBreaker {
    /// Its connector.
    pub connector: String,
    /// `open` or `closed`.
    pub forced: String,
    /// Who forced it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

impl Store {
    /// Forces a connector's breaker, or lets it move by itself again. No claim that begins after this has committed
    /// goes through one that is forced open, be it of a step, an undo or a probe. What it put off is looked at now unless
    /// it is forced open.
    pub async fn force_breaker(
        &self,
        connector: &str,
        force: Option<BreakerForce>,
        actor: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<ControlChange, StoreError> {
        let mut tx = self.begin().await?;
        let changed = match force {
            Some(force) => {
                sqlx::query!(
                    "INSERT INTO breaker_force AS b (connector, forced, actor, reason, since)
                     VALUES ($1, $2, $3, $4, $5)
                     ON CONFLICT (connector) DO UPDATE
                     SET forced = excluded.forced, actor = excluded.actor, reason = excluded.reason,
                         since = excluded.since
                     WHERE b.forced <> excluded.forced",
                    connector,
                    force.as_str(),
                    actor,
                    reason,
                    now,
                )
                .execute(&mut *tx)
                .await?
            }
            None => {
                sqlx::query!("DELETE FROM breaker_force WHERE connector = $1", connector)
                    .execute(&mut *tx)
                    .await?
            }
        };
        if changed.rows_affected() == 0 {
            return Ok(ControlChange::AlreadySo);
        }
        if force != Some(BreakerForce::Open) {
            // What an open breaker put off may go, or asks it anew.
            wake(&mut tx, connector, &breaker_wait(connector), now).await?;
        }
        let act = match force {
            Some(BreakerForce::Open) => ControlAct::OpenBreaker,
            Some(BreakerForce::Closed) => ControlAct::CloseBreaker,
            None => ControlAct::FreeBreaker,
        };
        let event = NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::Control(act), now)
            .with("actor", actor)
            .with("scope", "connector")
            .with("subject", connector)
            .because(reason);
        event_log::append(&mut tx, &[event]).await?;
        tx.commit().await?;
        Ok(ControlChange::Done)
    }

    /// The breakers that are forced, by connector.
    pub async fn forced_breakers(&self) -> Result<Vec<ForcedBreaker>, StoreError> {
        Ok(sqlx::query_as!(
            ForcedBreaker,
            "SELECT connector, forced, actor, reason, since FROM breaker_force ORDER BY connector"
        )
        .fetch_all(self.pool())
        .await?)
    }
}
