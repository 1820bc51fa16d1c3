//! What is asked outside the database before a claim: rate, and the live copies of budgets.
//!
//! Redis only postpones; what may be spent is PostgreSQL's to say, in the claim. Rates fail open to a limiter in the
//! process; copies are refilled from rows. (Token windows fail closed: `windows`.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use dat_guards::{
    AccountCopies, AccountCopy, Affordable, COPY_LIFETIME, LocalRate, RateLimit, RateRequest, RateSchedule,
    RuntimeStore, Turn, fits, slot_is_valid,
};
use dat_plan::UnitKind;
use dat_store::{AccountView, BUDGET_WAIT, Candidate};

use crate::documents::Prepared;
use crate::settings::{BadSetting, RateSetting, Settings};
use crate::windows::reservation_id;

/// How far ahead the rate schedule gives slots.
const RATE_HORIZON: std::time::Duration = std::time::Duration::from_mins(1);

/// What the limits say of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Limited {
    /// Ask the database.
    Pass,
    /// Not now.
    Wait { until: DateTime<Utc>, reason: String, rate_slot: Option<DateTime<Utc>> },
    /// Never.
    Never(String),
}

/// A candidate with its plan.
pub(crate) type Candidates = Vec<(Candidate, Arc<Prepared>)>;

/// The limits of this fleet.
pub(crate) struct Limits {
    rates: Vec<(RateSetting, RateLimit)>,
    schedule: RateSchedule,
    local: LocalRate,
    copies: AccountCopies,
}

impl Limits {
    pub(crate) fn new(settings: &Settings, runtime: &RuntimeStore) -> Result<Self, BadSetting> {
        let rates = settings
            .rate
            .iter()
            .map(|rate| Ok((rate.clone(), rate.limit()?)))
            .collect::<Result<Vec<_>, BadSetting>>()?;
        Ok(Self {
            rates,
            schedule: RateSchedule::new(runtime.clone(), RATE_HORIZON),
            local: LocalRate::default(),
            copies: AccountCopies::new(runtime.clone()),
        })
    }

    /// Asks for a batch: at most one call each for copies and rates, whatever its size. Token windows are asked after
    /// these, of what may pass.
    pub(crate) async fn ask(&self, batch: &Candidates, now: DateTime<Utc>) -> Vec<Limited> {
        let mut said = vec![Limited::Pass; batch.len()];
        self.ask_copies(batch, &mut said, now).await;
        self.ask_rates(batch, &mut said, now).await;
        said
    }

    /// What the live copies show cannot be afforded is put off; the database is asked when the copy is gone.
    async fn ask_copies(&self, batch: &Candidates, said: &mut [Limited], now: DateTime<Utc>) {
        let ids: BTreeSet<String> =
            batch.iter().filter_map(|(c, _)| c.plan_account).map(|id| id.to_string()).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        if ids.is_empty() {
            return;
        }
        let Ok(copies) = self.copies.get(&ids).await else { return };
        let copies: BTreeMap<&str, AccountCopy> =
            ids.into_iter().zip(copies).filter_map(|(id, copy)| Some((id, copy?))).collect();
        for ((candidate, plan), said) in batch.iter().zip(said) {
            if candidate.unit.kind == UnitKind::Undo {
                continue;
            }
            let copy = candidate.plan_account.and_then(|id| copies.get(id.to_string().as_str()).cloned());
            let cost = plan.unit(candidate.unit).map_or(0, |spec| spec.max_cost);
            if fits(&[copy], cost) == Affordable::No {
                let lifetime = TimeDelta::from_std(COPY_LIFETIME).unwrap_or(TimeDelta::zero());
                let reason = format!("{BUDGET_WAIT}its plan's has no room for it at the moment");
                *said = Limited::Wait { until: now + lifetime, reason, rate_slot: None };
            }
        }
    }

    async fn ask_rates(&self, batch: &Candidates, said: &mut [Limited], now: DateTime<Utc>) {
        struct Asked<'a> {
            place: usize,
            setting: &'a RateSetting,
            limit: RateLimit,
            name: String,
            request: String,
        }
        let mut asked = Vec::new();
        for (place, (candidate, _)) in batch.iter().enumerate() {
            if candidate.unit.kind == UnitKind::Undo || said[place] != Limited::Pass {
                continue;
            }
            let matching = || self.rates.iter().filter(|(setting, _)| counts(setting, candidate));
            // A slot serves one claim without asking again.
            let slot_holds = candidate.rate_slot.is_some_and(|slot| {
                matching().next().is_some() && matching().all(|(_, limit)| slot_is_valid(slot, now, limit))
            });
            if slot_holds {
                continue;
            }
            for (setting, limit) in matching() {
                asked.push(Asked {
                    place,
                    setting,
                    limit: *limit,
                    name: format!(
                        "{}/{}",
                        setting.connector.as_deref().unwrap_or("*"),
                        setting.action.as_deref().unwrap_or("*")
                    ),
                    request: reservation_id(candidate),
                });
            }
        }
        if asked.is_empty() {
            return;
        }
        let requests: Vec<RateRequest<'_>> = asked
            .iter()
            .map(|a| RateRequest {
                tenant: &batch[a.place].0.tenant,
                name: &a.name,
                request: &a.request,
                limit: a.limit,
            })
            .collect();
        let turns = match self.schedule.ask(&requests).await {
            Ok(turns) => turns,
            Err(away) => {
                tracing::warn!(%away, "rates are limited within this process alone");
                requests.iter().map(|r| self.local.ask(now, r.tenant, r.name, r.limit)).collect()
            }
        };
        for (asked, turn) in asked.iter().zip(turns) {
            let (at, slot) = match turn {
                Turn::Granted => continue,
                Turn::Slot(at) => (at, Some(at)),
                Turn::AskAgain(at) => (at, None),
            };
            let reason = format!(
                "the rate limit of {} is {} calls in {} ms",
                asked.name, asked.setting.count, asked.setting.period_ms
            );
            // Several limits: the latest says when.
            match &said[asked.place] {
                Limited::Wait { until, .. } if *until >= at => {}
                _ => said[asked.place] = Limited::Wait { until: at, reason, rate_slot: slot },
            }
        }
    }

    /// Replaces the live copies of accounts that changed.
    pub(crate) async fn copy(&self, accounts: &[AccountView]) {
        let copies: Vec<AccountCopy> = accounts.iter().map(copy_of).collect();
        if copies.is_empty() {
            return;
        }
        if let Err(away) = self.copies.put_all(&copies).await {
            tracing::debug!(%away, "no live copies of budgets");
        }
    }

    /// The live copies.
    pub(crate) const fn copies(&self) -> &AccountCopies {
        &self.copies
    }

    /// Forgets local limiters that are full again.
    pub(crate) fn tidy(&self) {
        self.local.retain_recent();
    }
}

/// A row's live copy.
pub(crate) fn copy_of(view: &AccountView) -> AccountCopy {
    AccountCopy {
        account: view.account_id.to_string(),
        version: view.version,
        limit: view.account.limit,
        settled: view.account.settled,
        reserved: view.account.reserved,
    }
}

fn counts(setting: &RateSetting, candidate: &Candidate) -> bool {
    let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
    is(&setting.tenant, &candidate.tenant)
        && is(&setting.connector, &candidate.connector)
        && is(&setting.action, &candidate.action)
}
