//! Token windows of the whole fleet, in Redis: reserved in one call a batch, at every level or at none.
//!
//! **An era** is one filling, numbered by PostgreSQL. A marker names the era and the server process that it was written
//! on: after a flush, a restart or a failover, also one that lost no more than its last second, the marker does not hold
//! and nothing is reserved. A new filling is read from the ledger and written under other keys, so that whatever a stale
//! worker still sends changes nothing of it. The caller commits what it reserved only while its era counts.
//!
//! A reservation is one record under its id, with everybody who made it: made, settled and released once, however often
//! the call is made. One that came to nothing is released by who made it, or found among the open ones later.

use std::time::Duration;

use chrono::DateTime;
use redis::Script;

use crate::redis::{RedisAway, RuntimeStore};
use crate::window::{
    TokenWindow, WindowAnswer, WindowAnswers, WindowCount, WindowCounts, WindowEntry, WindowRequest,
};

/// Open reservations that [`TokenWindows::counts`] looks at, at most.
const MOST_OPEN: usize = 2_000;

/// What a reservation's record is named, before its id.
const RECORD: &str = "reserved:";

/// A script, after what it shares with the others.
macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(include_str!("lua/era.lua"), include_str!(concat!("lua/", $file))))
    };
}

/// Token windows of the whole fleet, in Redis.
#[derive(Debug, Clone)]
pub struct TokenWindows {
    store: RuntimeStore,
    holder: String,
    era: Script,
    reserve: Script,
    settle: Script,
    rebuild: Script,
    open: Script,
    count: Script,
}

impl TokenWindows {
    /// Windows in a store, as one worker reserves in them: `holder` is its name, which no other worker has.
    #[must_use]
    pub fn new(store: RuntimeStore, holder: &str) -> Self {
        Self {
            store,
            holder: holder.to_owned(),
            era: script!("window_era.lua"),
            reserve: script!("window_reserve.lua"),
            settle: script!("window_settle.lua"),
            rebuild: script!("window_rebuild.lua"),
            open: script!("window_open.lua"),
            count: script!("window_count.lua"),
        }
    }

    /// The era that counts; none where it was lost.
    pub async fn era(&self) -> Result<Option<i64>, RedisAway> {
        let mut call = self.era.prepare_invoke();
        call.key(self.marker());
        Ok(Some(self.store.run(&call).await?).filter(|era| *era > 0))
    }

    /// Reserves a batch in one round trip; answers in the order of the requests, which is the order they are served in.
    pub async fn reserve(&self, requests: &[WindowRequest<'_>]) -> Result<WindowAnswers, RedisAway> {
        let answers: Vec<Option<WindowAnswer>> = requests.iter().map(never).collect();
        let mut call = self.reserve.prepare_invoke();
        call.key(self.marker()).key(self.opened()).arg(&self.holder);
        for (request, _) in requests.iter().zip(&answers).filter(|(_, answer)| answer.is_none()) {
            call.key(self.record(request.reservation));
            call.arg(request.amount.max(0)).arg(request.windows.len());
            for window in request.windows {
                call.key(self.store.key(&window.key())).arg(window.period.millis()).arg(window.limit);
            }
        }
        if answers.iter().all(Option::is_some) {
            return Ok(WindowAnswers { era: None, answers: answers.into_iter().flatten().collect() });
        }
        let (era, given) = self.store.run::<(i64, Vec<(u8, i64)>)>(&call).await?;
        let mut given = given.into_iter();
        let answers = answers.into_iter().map(|answer| answer.map_or_else(|| read(given.next()), Ok));
        Ok(WindowAnswers {
            era: Some(era).filter(|era| *era > 0),
            answers: answers.collect::<Result<_, _>>()?,
        })
    }

    /// Corrects reservations to the amounts used, in the windows in which they were made. Again, it changes nothing;
    /// one that is not known, since its windows have turned twice or its era is over, is left out.
    pub async fn settle(&self, actuals: &[(&str, i64)]) -> Result<u64, RedisAway> {
        self.correct(
            &self.holder,
            actuals.iter().map(|(reservation, actual)| (*reservation, (*actual).max(0))),
        )
        .await
    }

    /// Takes back what this worker reserved and what came to nothing; their ids may reserve again. Nothing is taken
    /// back while another worker reserved the same.
    pub async fn release(&self, reservations: &[&str]) -> Result<u64, RedisAway> {
        self.correct(&self.holder, reservations.iter().map(|reservation| (*reservation, -1))).await
    }

    /// Takes back what whoever reserved it forgot.
    pub async fn take_back(&self, reservations: &[&str]) -> Result<u64, RedisAway> {
        self.correct("", reservations.iter().map(|reservation| (*reservation, -1))).await
    }

    async fn correct(
        &self,
        holder: &str,
        corrections: impl ExactSizeIterator<Item = (&str, i64)>,
    ) -> Result<u64, RedisAway> {
        if corrections.len() == 0 {
            return Ok(0);
        }
        let mut call = self.settle.prepare_invoke();
        call.key(self.marker()).key(self.opened()).arg(holder);
        for (reservation, actual) in corrections {
            call.key(self.record(reservation)).arg(actual);
        }
        self.store.run(&call).await
    }

    /// Fills the windows of a new era from the ledger and opens them, unless it or a later one is there; whether this
    /// call did.
    ///
    /// Atomic, so in one call: give the entries of the current and the previous period only.
    pub async fn rebuild(&self, era: i64, entries: &[WindowEntry]) -> Result<bool, RedisAway> {
        let mut call = self.rebuild.prepare_invoke();
        call.key(self.marker()).key(self.opened()).arg(era);
        for WindowEntry { windows, reservation, amount, settled } in entries {
            let longest = windows.iter().map(|window| 2 * window.period.millis()).max();
            let Some(longest) = longest else { continue };
            call.key(self.record(reservation));
            for window in windows {
                call.key(self.store.key(&window.counter));
            }
            call.arg((*amount).max(0)).arg(windows.len()).arg(longest).arg(u8::from(*settled));
        }
        self.store.run(&call).await
    }

    /// Reservations that are open and were made, or named here, so long ago; at most `limit`, the oldest first.
    pub async fn open_since(&self, age: Duration, limit: usize) -> Result<Vec<String>, RedisAway> {
        let mut call = self.open.prepare_invoke();
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        call.key(self.marker()).key(self.opened()).arg(age).arg(limit);
        let records: Vec<String> = self.store.run(&call).await?;
        let prefix = self.record("");
        Ok(records.iter().filter_map(|record| record.strip_prefix(&prefix)).map(str::to_owned).collect())
    }

    /// What the windows that are open now count; none where they were lost.
    pub async fn counts(&self, windows: &[TokenWindow]) -> Result<Option<WindowCounts>, RedisAway> {
        let mut call = self.count.prepare_invoke();
        call.key(self.marker()).key(self.opened()).arg(MOST_OPEN);
        for window in windows {
            call.key(self.store.key(&window.key())).arg(window.period.millis());
        }
        let (era, at, counts) = self.store.run::<(i64, i64, Vec<(i64, i64)>)>(&call).await?;
        Ok((era > 0).then(|| WindowCounts {
            era,
            at: DateTime::from_timestamp_millis(at).unwrap_or_default(),
            windows: counts
                .into_iter()
                .map(|(counted, held)| WindowCount { counted, held: Some(held).filter(|held| *held >= 0) })
                .collect(),
        }))
    }

    fn marker(&self) -> String {
        self.store.key("windows")
    }

    fn opened(&self) -> String {
        self.store.key("windows:open")
    }

    fn record(&self, reservation: &str) -> String {
        self.store.key(&format!("{RECORD}{reservation}"))
    }
}

/// The answer that needs no asking.
fn never(request: &WindowRequest<'_>) -> Option<WindowAnswer> {
    let limit =
        request.windows.iter().map(|window| window.limit).filter(|limit| request.amount > *limit).min()?;
    Some(WindowAnswer::TooLarge { limit })
}

fn read(given: Option<(u8, i64)>) -> Result<WindowAnswer, RedisAway> {
    match given {
        Some((1, _)) => Ok(WindowAnswer::Reserved),
        Some((2, ms)) => Ok(WindowAnswer::Full(DateTime::from_timestamp_millis(ms).unwrap_or_default())),
        Some((3, _)) => Ok(WindowAnswer::Lost),
        other => Err(RedisAway { reason: format!("its answer {other:?} is none of the window script's") }),
    }
}
