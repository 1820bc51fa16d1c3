//! The reconciler: compares ledger, open reservations and Redis, all the time and one worker at a time, and repairs
//! what drifted towards PostgreSQL. Each look is bounded; what it finds is counted by kind.
//!
//! | kind | what drifted | how it is repaired |
//! | --- | --- | --- |
//! | `reservation` | open in PostgreSQL, and nothing owns it | closed by the ledger, with its event |
//! | `window_reservation` | open in Redis; settled in PostgreSQL, or never claimed | settled or taken back |
//! | `window` | a window counts other than the ledger | a new era is filled from the ledger |
//! | `copy` | a live copy of no row | removed, and put again |

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use dat_guards::{AccountCopy, RedisAway, WindowCount};
use dat_plan::PlanKey;
use dat_store::StoreError;
use uuid::Uuid;

use crate::fleet::Fleet;
use crate::limits;
use crate::recovery::{self, Cause};

/// Plans, or accounts, in one look.
const PAGE: i64 = 200;
/// Open reservations of Redis in one look.
const OPEN: usize = 500;
/// Before every plan.
const START: PlanKey = PlanKey::new(Uuid::nil(), 0);
/// How far clocks may differ: what was reserved so near to the turn of a window may count in either.
const SKEW: TimeDelta = TimeDelta::seconds(2);
/// A comparison of windows with the ledger takes at most this part of the time.
const SHARE: u32 = 50;

/// Why a look was not finished.
#[derive(Debug, thiserror::Error)]
enum Unfinished {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Redis(#[from] RedisAway),
}

/// Reconciles, whenever it is this worker's turn, until it drains.
pub(crate) async fn run(fleet: &Fleet) {
    let every = Duration::from_millis(fleet.settings.sweep_ms * 2);
    let mut reconciler = Reconciler::new(every);
    loop {
        tokio::select! {
            () = fleet.draining.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        match reconciler.turn(fleet, every).await {
            Ok(()) => {}
            Err(Unfinished::Redis(away)) => tracing::debug!(%away, "copies and windows are compared later"),
            Err(Unfinished::Store(error)) => tracing::warn!(%error, "reconciling goes on at the next turn"),
        }
    }
}

struct Reconciler {
    every: TimeDelta,
    /// Whether the last turn was this worker's: it keeps it, so that two looks in a row are one worker's.
    mine: bool,
    after: PlanKey,
    /// Windows that seemed to differ at the last look, by their place, and which way.
    suspected: BTreeMap<usize, bool>,
    compare_at: tokio::time::Instant,
}

impl Reconciler {
    fn new(every: Duration) -> Self {
        Self {
            every: TimeDelta::from_std(every).unwrap_or(TimeDelta::seconds(1)),
            mine: false,
            after: START,
            suspected: BTreeMap::new(),
            compare_at: tokio::time::Instant::now(),
        }
    }

    async fn turn(&mut self, fleet: &Fleet, every: Duration) -> Result<(), Unfinished> {
        // Whoever has the turn keeps it; the others ask for it by turns.
        if !self.mine && !fleet.looks.mine("reconcile", every).await {
            return Ok(());
        }
        let now = fleet.now();
        let overdue = if self.mine { TimeDelta::zero() } else { self.every * 2 };
        self.mine = fleet.store.take_turn(now + self.every, now - overdue).await?;
        if !self.mine {
            self.suspected.clear();
            return Ok(());
        }
        recovery::look(fleet).await?;
        let after = self.reservations(fleet).await?;
        copies(fleet, std::mem::replace(&mut self.after, after)).await?;
        if fleet.windows.configured().is_empty() {
            return Ok(());
        }
        window_reservations(fleet).await?;
        let began = tokio::time::Instant::now();
        if self.compare_at <= began {
            self.windows(fleet).await?;
            self.compare_at = began + began.elapsed() * SHARE;
        }
        Ok(())
    }

    /// Closes reservations that nobody owns; gives where the next look begins.
    async fn reservations(&self, fleet: &Fleet) -> Result<PlanKey, StoreError> {
        let page = fleet.store.orphans(self.after, PAGE).await?;
        for plan in page.orphaned {
            match fleet.store.close_orphans(plan, fleet.now()).await {
                Ok(closed) => {
                    if closed > 0 {
                        tracing::error!(%plan, closed, "reservations that nobody owned were closed");
                        fleet.live.touch(plan);
                    }
                    fleet.metrics.drift("reservation", closed);
                }
                Err(error) if error.is_unavailable() => return Err(error),
                // Account and reservations contradict each other: the audit names it, and nothing is guessed here.
                Err(error) => {
                    tracing::error!(%plan, %error, "a reservation that nobody owns cannot be closed");
                    fleet.metrics.drift("unclosable_reservation", 1);
                }
            }
        }
        Ok(page.next.unwrap_or(START))
    }

    /// Compares each window with the ledger; what differs at two looks in a row, by more than what is on its way, is
    /// filled anew.
    async fn windows(&mut self, fleet: &Fleet) -> Result<(), Unfinished> {
        let state = fleet.store.runtime_state(fleet.now()).await?;
        let Some(before) = fleet.windows.counts().await? else { return Ok(()) };
        let configured = fleet.windows.configured();
        let mut sums = Vec::with_capacity(configured.len());
        for window in configured {
            let of = (window.tenant.as_deref(), window.connector.as_deref(), window.action.as_deref());
            let began = window.began(before.at);
            let least = fleet.store.window_sum(of, began + SKEW).await?;
            sums.push((least, fleet.store.window_sum(of, began - SKEW).await?));
        }
        let Some(after) = fleet.windows.counts().await? else { return Ok(()) };
        let mut suspected = BTreeMap::new();
        if before.era == state.era && after.era == state.era {
            for (place, (window, (least, most))) in configured.iter().zip(sums).enumerate() {
                let (Some(a), Some(b)) = (before.windows.get(place), after.windows.get(place)) else {
                    continue;
                };
                if window.began(before.at) == window.began(after.at)
                    && let Some(above) = differs(*a, *b, least, most)
                {
                    suspected.insert(place, above);
                }
            }
        }
        let drifted =
            suspected.iter().filter(|(place, above)| self.suspected.get(place) == Some(above)).count();
        self.suspected = suspected;
        if drifted > 0 {
            tracing::error!(drifted, "token windows count other than the ledger: they are filled anew");
            fleet.metrics.drift("window", drifted);
            self.suspected.clear();
            recovery::fill(fleet, state, Cause::Drift).await?;
        }
        Ok(())
    }
}

/// Whether a window, counted before and after the ledger was summed, counts more (or less) than what is settled and what
/// is on its way can explain.
fn differs(before: WindowCount, after: WindowCount, least: i64, most: i64) -> Option<bool> {
    let on_its_way = before.held?.max(after.held?);
    let low = before.counted.min(after.counted) - on_its_way;
    let high = before.counted.max(after.counted) + on_its_way;
    if most < low {
        Some(true)
    } else if least > high {
        Some(false)
    } else {
        None
    }
}

/// Copies are read first: one that is newer than its row, or differs from it at the same version, is of no row. Then
/// the rows are put, as after a loss nobody else may for a while.
async fn copies(fleet: &Fleet, after: PlanKey) -> Result<(), Unfinished> {
    let ids = fleet.store.accounts_in_use(after, PAGE).await?;
    if ids.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = ids.iter().map(i64::to_string).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = fleet.limits.copies().get(&names).await?;
    let rows: Vec<AccountCopy> =
        fleet.store.accounts_by_id(&ids).await?.iter().map(limits::copy_of).collect();
    let rows_by_id: BTreeMap<&str, &AccountCopy> =
        rows.iter().map(|row| (row.account.as_str(), row)).collect();
    let of_none: Vec<&str> = names
        .iter()
        .zip(found)
        .filter_map(|(name, copy)| Some((*name, copy?, rows_by_id.get(name)?)))
        .filter(|(_, copy, row)| !dat_guards::can_be_of(copy, row))
        .map(|(name, ..)| name)
        .collect();
    if !of_none.is_empty() {
        tracing::error!(copies = of_none.len(), "live copies of no row were removed");
        fleet.limits.copies().remove(&of_none).await?;
        fleet.metrics.drift("copy", of_none.len());
    }
    Ok(dat_fault::around("reconciler.copies", fleet.limits.copies().put_all(&rows)).await?)
}

/// What is open in Redis for so long that its claim has committed or never will: settled where PostgreSQL has settled
/// it, taken back where PostgreSQL never knew it.
async fn window_reservations(fleet: &Fleet) -> Result<(), Unfinished> {
    let age = Duration::from_millis(fleet.settings.lease_ms * 2);
    let open = fleet.windows.open_since(age, OPEN).await?;
    let named: Vec<(&str, (PlanKey, i32, i32))> =
        open.iter().filter_map(|id| Some((id.as_str(), attempt_of(id)?))).collect();
    if named.is_empty() {
        return Ok(());
    }
    let attempts: Vec<(PlanKey, i32, i32)> = named.iter().map(|(_, attempt)| *attempt).collect();
    let known = fleet.store.reservations(&attempts).await?;
    let (mut settled, mut unknown) = (Vec::new(), Vec::new());
    for ((id, _), known) in named.into_iter().zip(known) {
        match known {
            Some((amount, true)) => settled.push((id, amount)),
            Some((_, false)) => {}
            None => unknown.push(id),
        }
    }
    let mended = dat_fault::around("reconciler.mend", fleet.windows.mend(&settled, &unknown)).await?;
    if mended > 0 {
        tracing::warn!(mended, "token windows held what was settled or never claimed");
        fleet.bells.dispatch.ring();
    }
    fleet.metrics.drift("window_reservation", usize::try_from(mended).unwrap_or(usize::MAX));
    Ok(())
}

/// The attempt that a reservation's id names.
fn attempt_of(id: &str) -> Option<(PlanKey, i32, i32)> {
    let mut parts = id.split('/');
    let (plan, version) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let (step, attempt) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some((PlanKey::new(plan, version), step, attempt))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn count(counted: i64, held: i64) -> WindowCount {
        WindowCount { counted, held: Some(held) }
    }

    #[test]
    fn a_window_differs_only_by_what_nothing_on_its_way_explains() {
        assert_eq!(differs(count(100, 0), count(100, 0), 100, 100), None);
        assert_eq!(differs(count(101, 0), count(101, 0), 100, 100), Some(true));
        assert_eq!(differs(count(99, 0), count(99, 0), 100, 100), Some(false));
        // One that is reserved and not yet claimed, or settled and not yet corrected.
        assert_eq!(differs(count(160, 60), count(160, 60), 100, 100), None);
        assert_eq!(differs(count(161, 60), count(161, 60), 100, 100), Some(true));
        // It was counted between two changes.
        assert_eq!(differs(count(100, 0), count(140, 40), 120, 120), None);
        // Reserved at the turn: counted in either.
        assert_eq!(differs(count(0, 0), count(0, 0), 0, 50), None);
        let unknown = WindowCount { counted: 500, held: None };
        assert_eq!(differs(unknown, count(500, 0), 0, 0), None);
    }

    #[test]
    fn a_reservations_id_names_its_attempt() {
        let plan = PlanKey::new(Uuid::nil(), 3);
        assert_eq!(attempt_of(&format!("{plan}/7/2")), Some((plan, 7, 2)));
        assert_eq!(attempt_of("x"), None);
        assert_eq!(attempt_of(&format!("{plan}/7/2/1")), None);
    }
}
