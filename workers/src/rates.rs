//! Rates as they are set: which of them apply to a step, what this process keeps of them by itself, and what is said of
//! them. The fleet's schedules are in Redis ([`dat_guards::RateSchedule`]), asked by [`crate::limits`] alone.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dat_guards::{LocalRate, RateLimit, RateRequest, RateRule, SHARED, Turn};
use dat_plan::Clock;
use dat_store::Candidate;

use crate::settings::{BadSetting, RateSetting};
use crate::windows::reservation_id;

/// The longest that an attempt is held back to smooth what this process sends: it holds a slot and a lease meanwhile.
const SMOOTHED: Duration = Duration::from_secs(2);

/// The longest that turns are gathered for one claim.
const GATHERED: TimeDelta = TimeDelta::milliseconds(140);

/// The rates of this fleet.
pub(crate) struct Rates {
    set: Vec<(RateSetting, RateLimit)>,
    /// What is kept while Redis is away.
    alone: LocalRate,
    /// What is kept always, right before something is sent: a process that stood still sends what it had claimed evenly.
    even: LocalRate,
}

/// What is asked of a candidate's rates.
pub(crate) struct Rated {
    tenant: String,
    lane: String,
    request: String,
    pub(crate) limits: Vec<(String, RateLimit)>,
    /// What each of them is, for people.
    says: Vec<String>,
}

impl Rated {
    pub(crate) fn request(&self) -> RateRequest<'_> {
        let Self { tenant, lane, request, limits, .. } = self;
        RateRequest { tenant, lane, request, limits }
    }

    /// Asks nothing but whether its connector wants to be left alone.
    pub(crate) fn hold_turn(&mut self) {
        self.limits.clear();
        self.says.clear();
    }

    /// Why it waits.
    pub(crate) fn reason(&self) -> String {
        if self.says.is_empty() {
            format!("the connector asked for a pause of {}", self.lane)
        } else {
            self.says.join("; ")
        }
    }
}

impl Rates {
    pub(crate) fn new(settings: &[RateSetting]) -> Result<Self, BadSetting> {
        let set = settings
            .iter()
            .map(|rate| Ok((rate.clone(), rate.limit()?)))
            .collect::<Result<Vec<_>, BadSetting>>()?;
        Ok(Self { set, alone: LocalRate::default(), even: LocalRate::default() })
    }

    fn matching(
        &self,
        tenant: &str,
        connector: &str,
        action: &str,
    ) -> impl Iterator<Item = &(RateSetting, RateLimit)> {
        self.set.iter().filter(move |(setting, _)| {
            let is =
                |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
            is(&setting.tenant, tenant) && is(&setting.connector, connector) && is(&setting.action, action)
        })
    }

    /// What applies to a candidate: what is set here, and what constraints say.
    pub(crate) fn of(&self, candidate: &Candidate, rules: Vec<RateRule>) -> Rated {
        let Candidate { tenant, connector, action, .. } = candidate;
        let (mut limits, mut says) = (Vec::new(), Vec::new());
        for (setting, limit) in self.matching(tenant, connector, action) {
            limits.push((key(setting), *limit));
            says.push(format!(
                "the rate limit of {} is {} calls in {} ms",
                name(setting),
                setting.count,
                setting.period_ms
            ));
        }
        for RateRule { key, limit, says: rule } in rules {
            limits.push((format!("{SHARED}{key}"), limit));
            says.push(rule);
        }
        Rated {
            tenant: tenant.clone(),
            lane: format!("{connector}/{action}"),
            request: reservation_id(candidate),
            limits,
            says,
        }
    }

    /// How long a turn may wait for others, so that one claim takes several: less than half of the time that it is good
    /// for, and nothing where no rate applies.
    pub(crate) fn slack(&self, candidate: &Candidate) -> TimeDelta {
        let Candidate { tenant, connector, action, .. } = candidate;
        let shortest = self.matching(tenant, connector, action).map(|(_, limit)| limit.lateness()).min();
        shortest.map_or(TimeDelta::zero(), |lateness| (lateness * 2 / 5).min(GATHERED))
    }

    /// Asks this process alone. A turn of the one limit is lost where another says no: it keeps less than is allowed.
    pub(crate) fn ask_alone(&self, request: &RateRequest<'_>, now: DateTime<Utc>) -> Turn {
        let said =
            request.limits.iter().map(|(name, limit)| self.alone.ask(now, request.tenant, name, *limit));
        said.fold(Turn::Granted, |worst, turn| match (worst, turn) {
            (Turn::AskAgain(at), Turn::AskAgain(later)) => Turn::AskAgain(at.max(later)),
            (Turn::Granted, turn) => turn,
            (worst, _) => worst,
        })
    }

    /// Waits until this process by itself keeps every rate of an action, or for [`SMOOTHED`].
    pub(crate) async fn smooth(&self, clock: &dyn Clock, tenant: &str, connector: &str, action: &str) {
        let until = clock.now() + TimeDelta::from_std(SMOOTHED).unwrap_or(TimeDelta::zero());
        for (setting, limit) in self.matching(tenant, connector, action) {
            let key = key(setting);
            let limit = limit.at_least_two();
            while let Turn::AskAgain(at) = self.even.ask(clock.now(), tenant, &key, limit) {
                let now = clock.now();
                if at > until {
                    break;
                }
                tokio::time::sleep((at - now).to_std().unwrap_or(Duration::ZERO)).await;
            }
        }
    }

    /// Forgets limiters that are full again.
    pub(crate) fn tidy(&self) {
        self.alone.retain_recent();
        self.even.retain_recent();
    }
}

/// What its schedule is named by: several limits may be set for the same steps.
fn key(setting: &RateSetting) -> String {
    let of = setting.tenant.as_deref().unwrap_or("*");
    format!("{of}/{} {}/{}", name(setting), setting.count, setting.period_ms)
}

/// What a limit is named by to people.
fn name(setting: &RateSetting) -> String {
    let or_any = |selector: &Option<String>| selector.clone().unwrap_or_else(|| "*".to_owned());
    format!("{}/{}", or_any(&setting.connector), or_any(&setting.action))
}
