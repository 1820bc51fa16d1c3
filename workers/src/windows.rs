//! Token windows as a claim uses them: asked before it, given back where it took nothing, corrected after.
//!
//! They fail closed. What is reserved belongs to an era of Redis, and a claim counts only while its era does; filling a
//! new era from the ledger is the `recovery`'s.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dat_guards::{
    RedisAway, RuntimeStore, TokenWindow, TokenWindows, WindowAnswer, WindowCounts, WindowEntry,
    WindowRequest,
};
use dat_plan::{UnitKey, UnitKind};
use dat_store::{Candidate, TokenUsage};

use crate::limits::{Candidates, Limited, Limiter};

/// How long a step waits when a window cannot be asked or is being rebuilt.
const WINDOW_WAIT: TimeDelta = TimeDelta::milliseconds(500);
/// How long one waits for room at most before it asks again: what others use less than they reserved comes back long
/// before an hour turns.
const FULL_WAIT: TimeDelta = TimeDelta::seconds(5);

/// What a batch reserved in token windows.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    /// The era it was reserved in; none where no window counts anything of the batch.
    pub(crate) era: Option<i64>,
    /// Whether the windows were lost.
    pub(crate) lost: bool,
    units: Vec<(UnitKey, String)>,
}

/// The token windows of this fleet.
pub(crate) struct Windows {
    configured: Vec<TokenWindow>,
    redis: TokenWindows,
}

impl Windows {
    pub(crate) fn new(configured: &[TokenWindow], runtime: &RuntimeStore, worker: &str) -> Self {
        Self { configured: configured.to_vec(), redis: TokenWindows::new(runtime.clone(), worker) }
    }

    /// Those that are set.
    pub(crate) fn configured(&self) -> &[TokenWindow] {
        &self.configured
    }

    /// Reserves for those of a batch that may pass so far, in one call, and says which may not.
    pub(crate) async fn ask(&self, batch: &Candidates, said: &mut [Limited], now: DateTime<Utc>) -> Reserved {
        let mut asked: Vec<(usize, String, i64, Vec<&TokenWindow>)> = Vec::new();
        for (place, (candidate, plan)) in batch.iter().enumerate() {
            let counted = plan.document.budget.currency.as_str() == "token"
                && candidate.unit.kind == UnitKind::Action
                && !plan.is_dry()
                && said[place] == Limited::Pass;
            if !counted {
                continue;
            }
            let windows: Vec<&TokenWindow> = self
                .configured
                .iter()
                .filter(|w| w.counts(&candidate.tenant, &candidate.connector, &candidate.action))
                .collect();
            if !windows.is_empty() {
                let cost = plan.unit(candidate.unit).map_or(0, |spec| spec.max_cost);
                asked.push((place, reservation_id(candidate), cost, windows));
            }
        }
        let mut reserved = Reserved::default();
        if asked.is_empty() {
            return reserved;
        }
        let requests: Vec<WindowRequest<'_>> = asked
            .iter()
            .map(|(_, reservation, amount, windows)| WindowRequest { reservation, amount: *amount, windows })
            .collect();
        let given = self.redis.reserve(&requests).await;
        reserved.era = given.as_ref().ok().and_then(|given| given.era);
        for (index, (place, reservation, amount, _)) in asked.iter().enumerate() {
            let wait = |until, reason: &str| Limited::Wait {
                until,
                reason: reason.to_owned(),
                rate_slot: None,
                by: Limiter::TokenWindow,
            };
            said[*place] = match given.as_ref().map(|given| given.answers[index]) {
                Ok(WindowAnswer::Reserved) => {
                    reserved.units.push((batch[*place].0.unit, reservation.clone()));
                    Limited::Pass
                }
                Ok(WindowAnswer::Full(turn)) => wait(turn.min(now + FULL_WAIT), "its token window is full"),
                Ok(WindowAnswer::TooLarge { limit }) => Limited::Never(format!(
                    "it may use {amount} tokens and a whole window allows {limit}: lower its max_cost or raise the window"
                )),
                Ok(WindowAnswer::Lost) => {
                    reserved.lost = true;
                    wait(now + WINDOW_WAIT, "token windows were lost and are being rebuilt from the ledger")
                }
                Err(_) => wait(now + WINDOW_WAIT, "token windows cannot be asked: Redis is away"),
            };
        }
        reserved
    }

    /// Gives back what a claim reserved and did not take: else it would stand in the way of others until its window
    /// turns.
    pub(crate) async fn give_back(&self, reserved: &Reserved, taken: impl Fn(UnitKey) -> bool) {
        let left: Vec<&str> =
            reserved.units.iter().filter(|(unit, _)| !taken(*unit)).map(|(_, id)| id.as_str()).collect();
        if let Err(away) = self.redis.release(&left).await {
            tracing::debug!(%away, "the reconciler gives back what was reserved");
        }
    }

    /// Corrects windows by what was really used.
    pub(crate) async fn settle(&self, actuals: &[(String, i64)]) {
        if self.configured.is_empty() || actuals.is_empty() {
            return;
        }
        let actuals: Vec<(&str, i64)> = actuals.iter().map(|(id, used)| (id.as_str(), *used)).collect();
        if let Err(away) = self.redis.settle(&actuals).await {
            tracing::debug!(%away, "windows keep the upper bound until they are reconciled");
        }
    }

    /// Corrects what was settled and takes back what was never claimed; gives how many records changed.
    pub(crate) async fn mend(&self, settled: &[(&str, i64)], unknown: &[&str]) -> Result<u64, RedisAway> {
        Ok(self.redis.settle(settled).await? + self.redis.take_back(unknown).await?)
    }

    /// The era that counts; none where it was lost.
    pub(crate) async fn era(&self) -> Result<Option<i64>, RedisAway> {
        self.redis.era().await
    }

    /// Reservations that are open since so long.
    pub(crate) async fn open_since(&self, age: Duration, limit: usize) -> Result<Vec<String>, RedisAway> {
        self.redis.open_since(age, limit).await
    }

    /// What the present windows count, in the order in which they are set.
    pub(crate) async fn counts(&self) -> Result<Option<WindowCounts>, RedisAway> {
        self.redis.counts(&self.configured).await
    }

    /// Fills a new era from what attempts reserved or used; whether this call did, and with how many reservations.
    pub(crate) async fn fill(&self, era: i64, usage: &[TokenUsage]) -> Result<(bool, usize), RedisAway> {
        let entries: Vec<WindowEntry> =
            usage.iter().map(|used| self.entry(used)).filter(|entry| !entry.windows.is_empty()).collect();
        Ok((self.redis.rebuild(era, &entries).await?, entries.len()))
    }

    fn entry(&self, used: &TokenUsage) -> WindowEntry {
        let counting =
            self.configured.iter().filter(|w| w.counts(&used.tenant, &used.connector, &used.action));
        WindowEntry {
            windows: counting.map(|window| window.at(used.reserved_at)).collect(),
            reservation: format!("{}/{}/{}", used.unit.plan, used.unit.index, used.attempt),
            amount: used.amount,
            settled: used.settled,
        }
    }
}

/// The id of what a candidate reserves: step and attempt.
pub(crate) fn reservation_id(candidate: &Candidate) -> String {
    format!("{}/{}/{}", candidate.unit.plan, candidate.unit.index, candidate.attempt)
}
