//! Turns of a rate that were granted for attempts that this worker then did not make, and that nobody may make: their plan
//! was held by whoever stopped it just then.
//!
//! A claim that meets a held plan cannot tell why it is held. Another worker may be taking the same unit, by the same turn,
//! which is that attempt's; so the turn is not given back at once. It is when the rows say that the attempt was not made and
//! will not be: else nothing would pass by that turn until it is void, an hour for a rate of one an hour.
//!
//! **Owns** these turns. **May be called** by the Dispatcher. **Must never** give back a turn of an attempt that was made.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use dat_plan::UnitKey;
use dat_store::{Candidate, StoreError, Untaken};
use tokio::time::Instant;

use crate::documents::Prepared;
use crate::fleet::Fleet;

/// How many are kept: of more, the turns are void when their time is over.
const MOST: usize = 1_000;
/// How long after it was granted a turn is looked after.
const KEPT: Duration = Duration::from_mins(10);
/// How soon the rows are looked at.
const SOON: TimeDelta = TimeDelta::milliseconds(250);

struct Turn {
    since: Instant,
    of: (Candidate, Arc<Prepared>),
}

/// The turns in doubt.
#[derive(Default)]
pub(crate) struct Doubtful(Mutex<Vec<Turn>>);

impl Doubtful {
    /// Keeps turns, each with its attempt, and rings when they are to be looked at.
    pub(crate) fn add(&self, fleet: &Fleet, turns: impl Iterator<Item = (Candidate, Arc<Prepared>)>) {
        let since = Instant::now();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.len();
        kept.extend(turns.map(|of| Turn { since, of }).take(MOST.saturating_sub(before)));
        if kept.len() > before {
            let now = fleet.now();
            fleet.bells.dispatch.set(now + SOON, now);
        }
    }

    /// Looks at the rows, and gives back what nobody will use.
    pub(crate) async fn look(&self, fleet: &Fleet) -> Result<(), StoreError> {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if kept.is_empty() {
            return Ok(());
        }
        let attempts: Vec<(UnitKey, i32)> =
            kept.iter().map(|turn| (turn.of.0.unit, turn.of.0.attempt)).collect();
        let untaken = fleet.store.untaken(&attempts).await?;
        let (mut ready, mut never) = (BTreeSet::new(), BTreeSet::new());
        for one in untaken {
            match one {
                Untaken::Ready(unit) => ready.insert(unit),
                Untaken::Never(unit) => never.insert(unit),
            };
        }
        let free = kept.iter().map(|turn| &turn.of).filter(|(candidate, _)| never.contains(&candidate.unit));
        let given = fleet.limits.give_back(&fleet.operators, free);
        dat_fault::around("rate.doubtful", given).await;
        let open = |turn: &Turn| ready.contains(&turn.of.0.unit) && turn.since.elapsed() < KEPT;
        let mut left: Vec<Turn> = kept.into_iter().filter(open).collect();
        if !left.is_empty() {
            let now = fleet.now();
            fleet.bells.dispatch.set(now + SOON * 4, now);
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(&mut left);
        Ok(())
    }
}
