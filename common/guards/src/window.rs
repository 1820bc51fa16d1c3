//! Token windows: so many tokens a minute or an hour, as model providers count, for a tenant, connector, action.
//!
//! What a step may use at most is reserved before it runs, at every level or at none; what it used is settled after, in
//! the window in which it was reserved. Windows fail closed: after a loss of Redis nothing is reserved until they are
//! rebuilt from the ledger. Reserved while the marker is missing is thus impossible, but a claim that reserved before
//! the loss and commits after the ledger was read is not counted: at most what was in flight, for at most a period.

use chrono::{DateTime, Utc};
use redis::Script;
use serde::{Deserialize, Serialize};

use crate::redis::{RedisAway, RuntimeStore};

/// How long a window lasts. Windows are aligned to the clock: a minute begins at second 0, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
}

impl Period {
    /// The length in milliseconds.
    #[must_use]
    pub const fn millis(self) -> i64 {
        match self {
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
        }
    }
}

/// A limit on tokens in each period. An absent selector takes any, and counts all of them together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenWindow {
    /// The tenant.
    #[serde(default)]
    pub tenant: Option<String>,
    /// The connector.
    #[serde(default)]
    pub connector: Option<String>,
    /// The action.
    #[serde(default)]
    pub action: Option<String>,
    /// How long a window lasts.
    pub period: Period,
    /// The most tokens in one window, 0 to 2^53 − 1.
    pub limit: i64,
}

impl TokenWindow {
    /// Whether a step's tokens count here.
    #[must_use]
    pub fn counts(&self, tenant: &str, connector: &str, action: &str) -> bool {
        let is =
            |selector: &Option<String>, found: &str| selector.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.tenant, tenant) && is(&self.connector, connector) && is(&self.action, action)
    }

    /// The window open at a moment; a ledger entry goes into the one of its reservation.
    ///
    /// Reservations are timed by Redis and ledger entries by PostgreSQL: one made while a window turns may be rebuilt
    /// into its neighbour.
    #[must_use]
    pub fn at(&self, moment: DateTime<Utc>) -> WindowKey {
        let number = moment.timestamp_millis().div_euclid(self.period.millis());
        WindowKey { counter: format!("{}:{number}", self.key()), period: self.period }
    }

    /// The key of all its windows. The limit is not in it: a changed limit counts on.
    fn key(&self) -> String {
        // Quoted, so that no two selections have one key.
        let quoted =
            |selector: &Option<String>| selector.as_ref().map_or("*".to_owned(), |name| format!("{name:?}"));
        let tenant = self.tenant.as_deref().unwrap_or("*");
        let (connector, action) = (quoted(&self.connector), quoted(&self.action));
        format!("window:{{{tenant}}}:{connector}:{action}:{}", self.period.word())
    }
}

/// One window of a [`TokenWindow`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WindowKey {
    counter: String,
    period: Period,
}

/// What a step wants to reserve.
#[derive(Debug, Clone)]
pub struct WindowRequest<'a> {
    /// The reservation's id, unique in the fleet: step and attempt. The same id reserves once.
    pub reservation: &'a str,
    /// The most it can use, in tokens; a negative amount counts as 0.
    pub amount: i64,
    /// Every window that counts it.
    pub windows: &'a [&'a TokenWindow],
}

/// What became of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowAnswer {
    /// Reserved at every level, now or by an earlier call.
    Reserved,
    /// Full at some level, nothing reserved: the moment when every full window has turned.
    Full(DateTime<Utc>),
    /// More than a whole window allows: it never passes.
    TooLarge {
        /// The limit that it passes.
        limit: i64,
    },
    /// The windows were lost: nothing passes until [`TokenWindows::rebuild`].
    Lost,
}

/// One entry of the ledger, for a rebuild.
#[derive(Debug, Clone)]
pub struct WindowEntry {
    /// The window in which it was reserved ([`TokenWindow::at`]); one entry for each level.
    pub window: WindowKey,
    /// The reservation's id.
    pub reservation: String,
    /// What it counts: the actual amount where settled, else what is reserved.
    pub amount: i64,
    /// Whether it is settled.
    pub settled: bool,
}

/// Token windows of the whole fleet, in Redis.
#[derive(Debug, Clone)]
pub struct TokenWindows {
    store: RuntimeStore,
    reserve: Script,
    settle: Script,
    rebuild: Script,
}

impl TokenWindows {
    /// Windows in a store.
    #[must_use]
    pub fn new(store: RuntimeStore) -> Self {
        Self {
            store,
            reserve: Script::new(include_str!("lua/window_reserve.lua")),
            settle: Script::new(include_str!("lua/window_settle.lua")),
            rebuild: Script::new(include_str!("lua/window_rebuild.lua")),
        }
    }

    /// Reserves a batch in one round trip; answers in the order of the requests, which is the order they are served in.
    pub async fn reserve(&self, requests: &[WindowRequest<'_>]) -> Result<Vec<WindowAnswer>, RedisAway> {
        let answers: Vec<Option<WindowAnswer>> = requests.iter().map(never).collect();
        let mut call = self.reserve.prepare_invoke();
        call.key(self.marker());
        for (request, _) in requests.iter().zip(&answers).filter(|(_, answer)| answer.is_none()) {
            call.key(self.record(request.reservation));
            call.arg(request.amount.max(0)).arg(request.windows.len());
            for window in request.windows {
                call.key(self.store.key(&window.key())).arg(window.period.millis()).arg(window.limit);
            }
        }
        if answers.iter().all(Option::is_some) {
            return Ok(answers.into_iter().flatten().collect());
        }
        let mut given = self.store.run::<Vec<(u8, i64)>>(&call).await?.into_iter();
        answers.into_iter().map(|answer| answer.map_or_else(|| read(given.next()), Ok)).collect()
    }

    /// Corrects reservations to the amounts used, in the windows in which they were made. Again, it changes nothing;
    /// one that is not known, since its windows have turned twice, is left out.
    pub async fn settle(&self, actuals: &[(&str, i64)]) -> Result<(), RedisAway> {
        self.correct(actuals.iter().map(|(reservation, actual)| (*reservation, (*actual).max(0)))).await
    }

    /// Takes reservations back that came to nothing; their ids may reserve again.
    pub async fn release(&self, reservations: &[&str]) -> Result<(), RedisAway> {
        self.correct(reservations.iter().map(|reservation| (*reservation, -1))).await
    }

    async fn correct(
        &self,
        corrections: impl ExactSizeIterator<Item = (&str, i64)>,
    ) -> Result<(), RedisAway> {
        if corrections.len() == 0 {
            return Ok(());
        }
        let mut call = self.settle.prepare_invoke();
        for (reservation, actual) in corrections {
            call.key(self.record(reservation)).arg(actual);
        }
        self.store.run::<i64>(&call).await.map(|_| ())
    }

    /// Fills the windows from the ledger and opens them, unless they are open; whether this call did.
    ///
    /// Atomic, so in one call: give the entries of the current and the previous period only.
    pub async fn rebuild(&self, entries: &[WindowEntry]) -> Result<bool, RedisAway> {
        let mut call = self.rebuild.prepare_invoke();
        call.key(self.marker());
        for WindowEntry { window, reservation, amount, settled } in entries {
            call.key(self.store.key(&window.counter)).key(self.record(reservation));
            call.arg((*amount).max(0)).arg(2 * window.period.millis()).arg(u8::from(*settled));
        }
        self.store.run(&call).await
    }

    fn marker(&self) -> String {
        self.store.key("windows")
    }

    fn record(&self, reservation: &str) -> String {
        self.store.key(&format!("reserved:{reservation}"))
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
