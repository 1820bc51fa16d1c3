//! A loss of Redis made good: noticed by whoever looks first, filled again from the ledger by one worker at a time, and
//! told of once, with how long it took. No operator is needed, and no total is touched.

use chrono::TimeDelta;
use dat_store::{RuntimeState, StoreError};

use crate::fleet::Fleet;

/// How long a worker may take to fill an era before another may begin one.
const LEASE: TimeDelta = TimeDelta::seconds(10);
/// The longest token window.
const LONGEST_WINDOW: TimeDelta = TimeDelta::hours(1);

/// Why an era is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Redis was never filled.
    First,
    /// What was in Redis is gone, or of another server process.
    Lost,
    /// The worker that began an era did not fill it.
    Unfilled,
    /// A window counts other than the ledger.
    Drift,
}

impl Cause {
    const fn word(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Lost => "lost",
            Self::Unfilled => "unfilled",
            Self::Drift => "drift",
        }
    }
}

/// Looks whether the era that counts is in Redis, and fills one where it is not.
pub(crate) async fn look(fleet: &Fleet) -> Result<(), StoreError> {
    let state = fleet.store.runtime_state(fleet.now()).await?;
    let Ok(era) = fleet.windows.era().await else {
        return Ok(()); // away: nothing can be filled, and nothing is lost yet
    };
    match era {
        // Whoever filled it died before it said so, or heard no answer.
        Some(era) if era == state.era && state.lost_at.is_some() => {
            ended(fleet, era, Cause::Lost, None).await
        }
        Some(era) if era == state.era => Ok(()),
        _ if state.rebuilding => Ok(()),
        Some(_) => fill(fleet, state, Cause::Unfilled).await,
        None if state.era == 0 => fill(fleet, state, Cause::First).await,
        None => fill(fleet, state, Cause::Lost).await,
    }
}

/// Fills a new era from the ledger, unless another worker does.
pub(crate) async fn fill(fleet: &Fleet, seen: RuntimeState, cause: Cause) -> Result<(), StoreError> {
    let now = fleet.now();
    let loss =
        (cause == Cause::Lost).then_some("Redis lost what it held: totals stand, token windows are closed");
    let Some(era) = fleet.store.begin_era(seen, loss, &fleet.name, LEASE, now).await? else { return Ok(()) };
    // Read after the era began: whatever was claimed under an earlier one is in it.
    let usage = if fleet.windows.configured().is_empty() {
        Vec::new()
    } else {
        fleet.store.token_usage(now - LONGEST_WINDOW).await?
    };
    match dat_fault::around("windows.fill", fleet.windows.fill(era, &usage)).await {
        Ok((true, entries)) => ended(fleet, era, cause, Some(entries)).await,
        Ok((false, _)) => Ok(()),
        Err(away) => {
            tracing::warn!(%away, "token windows stay closed");
            fleet.store.abandon_era(era).await
        }
    }
}

async fn ended(fleet: &Fleet, era: i64, cause: Cause, entries: Option<usize>) -> Result<(), StoreError> {
    let now = fleet.now();
    let lost_at = fleet.store.end_rebuild(era, &fleet.name, entries, now).await?;
    if lost_at.is_none() && cause == Cause::Lost && entries.is_none() {
        return Ok(()); // another worker said so
    }
    fleet.bells.dispatch.ring();
    let seconds = lost_at.map(|lost_at| (now - lost_at).as_seconds_f64().max(0.0));
    fleet.metrics.rebuilt(cause.word(), seconds);
    tracing::warn!(era, cause = cause.word(), entries, seconds, "Redis was filled from the ledger");
    Ok(())
}
