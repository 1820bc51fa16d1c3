//! Token windows: so many tokens a minute or an hour, as model providers count, for a tenant, connector, action.
//!
//! What a step may use at most is reserved before it runs, at every level or at none; what it used is settled after, in
//! the window in which it was reserved. Windows fail closed: after a loss of Redis nothing is reserved until they are
//! rebuilt from the ledger, under a new era ([`crate::TokenWindows`]).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

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

    /// When the window that is open at a moment began.
    #[must_use]
    pub fn began(&self, moment: DateTime<Utc>) -> DateTime<Utc> {
        let millis = self.period.millis();
        let from = moment.timestamp_millis().div_euclid(millis) * millis;
        DateTime::from_timestamp_millis(from).unwrap_or(moment)
    }

    /// The key of all its windows. The limit is not in it: a changed limit counts on.
    pub(crate) fn key(&self) -> String {
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
    pub(crate) counter: String,
    pub(crate) period: Period,
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

/// What a batch was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowAnswers {
    /// The era in which it was reserved; none where the windows were lost, or nobody had to be asked.
    pub era: Option<i64>,
    /// In the order of the requests.
    pub answers: Vec<WindowAnswer>,
}

/// What the present windows count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowCounts {
    /// The era.
    pub era: i64,
    /// The server's time.
    pub at: DateTime<Utc>,
    /// In the order asked.
    pub windows: Vec<WindowCount>,
}

/// What one window counts, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowCount {
    /// All of it.
    pub counted: i64,
    /// What open reservations hold of it; none where more are open than were looked at.
    pub held: Option<i64>,
}

/// One reservation of the ledger, for a rebuild.
#[derive(Debug, Clone)]
pub struct WindowEntry {
    /// The windows in which it was reserved ([`TokenWindow::at`]): one for each level.
    pub windows: Vec<WindowKey>,
    /// The reservation's id.
    pub reservation: String,
    /// What it counts: the actual amount where settled, else what is reserved.
    pub amount: i64,
    /// Whether it is settled.
    pub settled: bool,
}
