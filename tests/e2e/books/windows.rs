//! Token windows as a worker of a case uses them, and a lost filling made good from the ledger.

use chrono::{DateTime, TimeDelta, Utc};
use dat_guards::{Period, RuntimeStore, TokenWindow, TokenWindows, WindowAnswer, WindowEntry, WindowRequest};
use dat_plan::UnitKey;
use dat_store::{Candidate, Store};

use super::crash::{Crashed, Point};
use super::plans::Plan;

/// Far more than a case uses: what is tested is that they never stand in the way of the books.
const LIMIT: i64 = 1_000_000;

/// One window for everything.
pub(super) struct Windows {
    redis: TokenWindows,
    window: TokenWindow,
}

/// What a claim may count on.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    pub(super) era: Option<i64>,
    pub(super) lost: bool,
    units: Vec<(UnitKey, String)>,
}

impl Reserved {
    /// Whether a unit may be claimed: it is of a currency without windows, or has room in them.
    pub(super) fn passes(&self, unit: UnitKey, counted: bool) -> bool {
        !counted || self.units.iter().any(|(reserved, _)| *reserved == unit)
    }
}

impl Windows {
    pub(super) fn new(runtime: &RuntimeStore) -> Self {
        let window =
            TokenWindow { tenant: None, connector: None, action: None, period: Period::Minute, limit: LIMIT };
        Self { redis: TokenWindows::new(runtime.clone(), "books"), window }
    }

    pub(super) async fn reserve(&self, batch: &[(Candidate, &Plan)]) -> Reserved {
        let asked: Vec<(UnitKey, String, i64)> = batch
            .iter()
            .filter(|(candidate, plan)| counts(candidate.unit, plan))
            .map(|(candidate, plan)| {
                let index = usize::try_from(candidate.unit.index).expect("a place");
                let id = reservation(candidate.unit, candidate.attempt);
                (candidate.unit, id, plan.document.steps[index].max_cost)
            })
            .collect();
        let mut reserved = Reserved::default();
        if asked.is_empty() {
            return reserved;
        }
        let windows = [&self.window];
        let requests: Vec<WindowRequest<'_>> = asked
            .iter()
            .map(|(_, id, amount)| WindowRequest { reservation: id, amount: *amount, windows: &windows })
            .collect();
        let given = self.redis.reserve(&requests).await.expect("Redis answers");
        reserved.era = given.era;
        for ((unit, id, _), answer) in asked.into_iter().zip(given.answers) {
            match answer {
                WindowAnswer::Reserved => reserved.units.push((unit, id)),
                WindowAnswer::Lost => reserved.lost = true,
                other => panic!("a window this large answers {other:?}"),
            }
        }
        reserved
    }

    /// Gives back what was not claimed.
    pub(super) async fn give_back(&self, reserved: &Reserved, taken: impl Fn(UnitKey) -> bool) {
        let left: Vec<&str> =
            reserved.units.iter().filter(|(unit, _)| !taken(*unit)).map(|(_, id)| id.as_str()).collect();
        self.redis.release(&left).await.expect("Redis answers");
    }

    pub(super) async fn settle(&self, used: &[(String, i64)]) {
        let used: Vec<(&str, i64)> = used.iter().map(|(id, amount)| (id.as_str(), *amount)).collect();
        self.redis.settle(&used).await.expect("Redis answers");
    }

    /// Fills a new era from the ledger, as a worker does that finds them lost; whether it did.
    pub(super) async fn recover(
        &self,
        store: &Store,
        worker: &str,
        now: DateTime<Utc>,
        mut at: impl FnMut(Point) -> Result<(), Crashed>,
    ) -> Result<bool, Crashed> {
        let state = store.runtime_state(now).await.expect("the database answers");
        if state.rebuilding || self.redis.era().await.expect("Redis answers") == Some(state.era) {
            return Ok(false);
        }
        let lease = TimeDelta::seconds(10);
        let begun = store.begin_era(state, Some("lost"), worker, lease, now).await;
        let Some(era) = begun.expect("the database answers") else { return Ok(false) };
        at(Point::EraBegun)?;
        let usage = store.token_usage(super::case::at(0)).await.expect("the database answers");
        let entries: Vec<WindowEntry> = usage
            .iter()
            .map(|used| WindowEntry {
                windows: vec![self.window.at(used.reserved_at)],
                reservation: reservation(used.unit, used.attempt),
                amount: used.amount,
                settled: used.settled,
            })
            .collect();
        self.redis.rebuild(era, &entries).await.expect("Redis answers");
        at(Point::EraFilled)?;
        store.end_rebuild(era, worker, Some(entries.len()), now).await.expect("the database answers");
        Ok(true)
    }
}

/// Whether a unit's tokens are counted.
pub(super) fn counts(unit: UnitKey, plan: &Plan) -> bool {
    unit.kind == dat_plan::UnitKind::Action && plan.document.budget.currency.as_str() == "token"
}

/// The id of a reservation: step and attempt.
pub(super) fn reservation(unit: UnitKey, attempt: i32) -> String {
    format!("{}/{}/{attempt}", unit.plan, unit.index)
}
