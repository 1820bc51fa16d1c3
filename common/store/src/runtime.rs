//! What the fleet knows of Redis: which filling of it counts, and whether one was lost. And whose turn it is to compare.
//!
//! **The era** numbers the fillings. It rises here *before* the ledger is read for a new filling, and a claim that
//! counts on token windows holds the row shared until it commits: each such claim is either in what is read, or sees
//! that its era is over. So nothing falls between an old filling and the new one.

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::PlanKey;
use dat_plan::event::{EventKind, NewEvent};

use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::event_log;
use crate::pool::Store;

/// What is known of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeState {
    /// The era that counts; 0 where it was never filled.
    pub era: i64,
    /// When a loss was noticed that is not made good yet.
    pub lost_at: Option<DateTime<Utc>>,
    /// Whether a worker is rebuilding at this moment.
    pub rebuilding: bool,
}

/// Whether the era still counts, held so until the transaction ends.
pub(crate) async fn holds(conn: &mut PgConnection, era: i64) -> Result<bool, StoreError> {
    let present = sqlx::query_scalar!("SELECT era FROM runtime_state FOR SHARE").fetch_one(conn).await?;
    Ok(present == era)
}

impl Store {
    /// What is known of Redis.
    pub async fn runtime_state(&self, now: DateTime<Utc>) -> Result<RuntimeState, StoreError> {
        Ok(sqlx::query_as!(
            RuntimeState,
            r#"SELECT era, lost_at, rebuilding_until > $1 AS "rebuilding!" FROM runtime_state"#,
            now,
        )
        .fetch_one(self.pool())
        .await?)
    }

    /// Begins a new era, unless another worker did since `seen` was read; gives its number. Where the old one was
    /// lost (`loss` says how it was noticed), the first worker to say so writes the event. Waits for claims of the
    /// old era to commit.
    pub async fn begin_era(
        &self,
        seen: RuntimeState,
        loss: Option<&str>,
        worker: &str,
        lease: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Option<i64>, StoreError> {
        let mut tx = self.begin().await?;
        // What was never filled cannot be lost.
        let told = loss.filter(|_| seen.era > 0);
        let begun = sqlx::query!(
            r#"WITH old AS MATERIALIZED (SELECT lost_at FROM runtime_state FOR NO KEY UPDATE)
             UPDATE runtime_state
             SET era = era + 1, rebuilding_until = $4,
                 lost_at = CASE WHEN $2 THEN coalesce(runtime_state.lost_at, $3) ELSE runtime_state.lost_at END
             FROM old WHERE era = $1 AND rebuilding_until <= $3
             RETURNING era, old.lost_at IS NOT NULL AS "was_lost!""#,
            seen.era,
            told.is_some(),
            now,
            now + lease,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(begun) = begun else { return Ok(None) };
        if let (Some(reason), false) = (told, begun.was_lost) {
            let event = NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::RuntimeLost, now)
                .with("worker", worker)
                .with("era", seen.era)
                .because(reason);
            event_log::append(&mut tx, &[event]).await?;
        }
        dat_fault::around("runtime.begin", tx.commit()).await?;
        Ok(Some(begun.era))
    }

    /// This worker could not fill the era: another attempt need not wait until its time is over.
    pub async fn abandon_era(&self, era: i64) -> Result<(), StoreError> {
        dat_fault::around(
            "runtime.abandon",
            sqlx::query!("UPDATE runtime_state SET rebuilding_until = 'epoch' WHERE era = $1", era)
                .execute(self.pool()),
        )
        .await?;
        Ok(())
    }

    /// The era's filling is in Redis. Where one was lost before, writes the event that says how long it took, and of
    /// how many reservations it is where that is known; gives since when it was lost.
    pub async fn end_rebuild(
        &self,
        era: i64,
        worker: &str,
        entries: Option<usize>,
        now: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let mut tx = self.begin().await?;
        let ended = sqlx::query!(
            "WITH old AS MATERIALIZED (SELECT lost_at FROM runtime_state FOR NO KEY UPDATE)
             UPDATE runtime_state SET lost_at = NULL, rebuilding_until = 'epoch'
             FROM old WHERE era = $1
             RETURNING old.lost_at",
            era,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let lost_at = ended.and_then(|row| row.lost_at);
        if let Some(lost_at) = lost_at {
            let mut event = NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::RuntimeRebuilt, now)
                .with("worker", worker)
                .with("era", era)
                .with("took_ms", (now - lost_at).num_milliseconds());
            if let Some(entries) = entries {
                event = event.with("entries", entries);
            }
            event_log::append(&mut tx, &[event]).await?;
        }
        dat_fault::around("runtime.end", tx.commit()).await?;
        Ok(lost_at)
    }

    /// Takes the turn to reconcile, if it is due; the next is due at `next`.
    pub async fn take_turn(&self, next: DateTime<Utc>, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let taken = dat_fault::around(
            "reconciler.turn",
            sqlx::query!("UPDATE reconciler_turn SET next_at = $1 WHERE next_at <= $2", next, now)
                .execute(self.pool()),
        )
        .await?;
        Ok(taken.rows_affected() == 1)
    }
}
