//! What is asked outside the database before a claim: rate, and the live copies of budgets.
//!
//! Redis only postpones; what may be spent is PostgreSQL's to say, in the claim. Rates fail open to a limiter in the
//! process; copies are refilled from rows. (Token windows fail closed: `windows`.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use dat_guards::{
    AccountCopies, AccountCopy, Affordable, COPY_LIFETIME, RateRequest, RateRule, RateSchedule, RuntimeStore,
    StepPlace, Turn, fits, slot_is_valid,
};
use dat_plan::{Clock, UnitKind};
use dat_store::{AccountView, BUDGET_WAIT, Candidate};

use crate::documents::Prepared;
use crate::operators::Operators;
use crate::rates::{Rated, Rates};
use crate::settings::{BadSetting, Settings};

/// How far ahead the rate schedule gives slots.
const RATE_HORIZON: std::time::Duration = std::time::Duration::from_mins(1);

/// Which limit puts a candidate off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limiter {
    Breaker,
    Budget,
    Rate,
    TokenWindow,
}

impl Limiter {
    /// The word of the metric.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Breaker => "breaker",
            Self::Budget => "budget",
            Self::Rate => "rate",
            Self::TokenWindow => "token_window",
        }
    }
}

/// What the limits say of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Limited {
    /// Ask the database.
    Pass,
    /// Not now.
    Wait { until: DateTime<Utc>, reason: String, rate_slot: Option<DateTime<Utc>>, by: Limiter },
    /// Never.
    Never(String),
}

/// A candidate with its plan.
pub(crate) type Candidates = Vec<(Candidate, Arc<Prepared>)>;

/// The limits of this fleet.
pub(crate) struct Limits {
    rates: Rates,
    schedule: RateSchedule,
    copies: AccountCopies,
}

impl Limits {
    pub(crate) fn new(settings: &Settings, runtime: &RuntimeStore) -> Result<Self, BadSetting> {
        Ok(Self {
            rates: Rates::new(&settings.rate)?,
            schedule: RateSchedule::new(runtime.clone(), RATE_HORIZON),
            copies: AccountCopies::new(runtime.clone()),
        })
    }

    /// Asks of what may pass of a batch: at most one call each for copies and rates, whatever its size. Breakers are
    /// asked before these, token windows after.
    pub(crate) async fn ask(
        &self,
        batch: &Candidates,
        said: &mut [Limited],
        operators: &Operators,
        now: DateTime<Utc>,
    ) {
        self.ask_copies(batch, said, now).await;
        self.ask_rates(batch, operators, said, now).await;
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
            if candidate.unit.kind == UnitKind::Undo || plan.is_dry() || *said != Limited::Pass {
                continue;
            }
            let copy = candidate.plan_account.and_then(|id| copies.get(id.to_string().as_str()).cloned());
            let cost = plan.unit(candidate.unit).map_or(0, |spec| spec.max_cost);
            if fits(&[copy], cost) == Affordable::No {
                let lifetime = TimeDelta::from_std(COPY_LIFETIME).unwrap_or(TimeDelta::zero());
                let reason = format!("{BUDGET_WAIT}its plan's has no room for it at the moment");
                *said = Limited::Wait { until: now + lifetime, reason, rate_slot: None, by: Limiter::Budget };
            }
        }
    }

    async fn ask_rates(
        &self,
        batch: &Candidates,
        operators: &Operators,
        said: &mut [Limited],
        now: DateTime<Utc>,
    ) {
        let mut asked: Vec<(usize, Rated)> = Vec::new();
        for (place, (candidate, plan)) in batch.iter().enumerate() {
            // A dry run calls nobody, and takes no turn from what does.
            if candidate.unit.kind == UnitKind::Undo || plan.is_dry() || said[place] != Limited::Pass {
                continue;
            }
            let mut rated = self.rates.of(candidate, rules(candidate, plan, operators));
            // A slot serves one claim without asking again; whether its connector asked to be left alone is asked.
            let slot_holds = candidate
                .rate_slot
                .is_some_and(|slot| rated.limits.iter().all(|(_, limit)| slot_is_valid(slot, now, limit)));
            if slot_holds {
                rated.hold_turn();
            }
            asked.push((place, rated));
        }
        let requests: Vec<RateRequest<'_>> = asked.iter().map(|(_, rated)| rated.request()).collect();
        let turns = match self.schedule.ask(&requests).await {
            Ok(turns) => turns,
            Err(away) => {
                tracing::warn!(%away, "rates are limited within this process alone");
                requests.iter().map(|request| self.rates.ask_alone(request, now)).collect()
            }
        };
        for ((place, rated), turn) in asked.iter().zip(turns) {
            let (until, rate_slot) = match turn {
                Turn::Granted => continue,
                Turn::Slot(at) => (at, Some(at)),
                Turn::AskAgain(at) => (at, None),
            };
            said[*place] = Limited::Wait { until, reason: rated.reason(), rate_slot, by: Limiter::Rate };
        }
    }

    /// Gives back the turns of what was put off after all: a step that waits for something else uses up nothing. One
    /// that waits for its turn keeps it.
    pub(crate) async fn give_back<'a>(
        &self,
        operators: &Operators,
        put_off: impl Iterator<Item = &'a (Candidate, Arc<Prepared>)>,
    ) {
        let rated: Vec<Rated> = put_off
            .filter(|(candidate, plan)| candidate.unit.kind == UnitKind::Action && !plan.is_dry())
            .map(|(candidate, plan)| self.rates.of(candidate, rules(candidate, plan, operators)))
            .filter(|rated| !rated.limits.is_empty())
            .collect();
        let requests: Vec<RateRequest<'_>> = rated.iter().map(Rated::request).collect();
        if let Err(away) = self.schedule.give_back(&requests).await {
            tracing::debug!(%away, "turns that were not used are void");
        }
    }

    /// Whether a candidate takes a turn of any rate.
    pub(crate) fn has_rate(&self, operators: &Operators, candidate: &Candidate, plan: &Prepared) -> bool {
        candidate.unit.kind == UnitKind::Action
            && !plan.is_dry()
            && !self.rates.of(candidate, rules(candidate, plan, operators)).limits.is_empty()
    }

    /// By how much a candidate's claim may wait for those of others: far less than its turn is good for.
    pub(crate) fn slack(&self, candidate: &Candidate) -> TimeDelta {
        self.rates.slack(candidate)
    }

    /// Remembers that a connector asked to be left alone: other steps of the same lane wait too.
    pub(crate) async fn later(&self, tenant: &str, connector: &str, action: &str, wait: std::time::Duration) {
        let lane = format!("{connector}/{action}");
        if let Err(away) = self.schedule.later(tenant, &lane, wait).await {
            tracing::debug!(%away, "only the step that was told to come later does");
        }
    }

    /// Waits until this process by itself keeps the rates of an action that is about to be sent.
    pub(crate) async fn smooth(&self, clock: &dyn Clock, tenant: &str, connector: &str, action: &str) {
        self.rates.smooth(clock, tenant, connector, action).await;
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
        self.rates.tidy();
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

/// The rates that constraints set for a candidate: its plan's own and the operators'. Which operator set is the newest
/// the claim itself compares; until it has, a rate may be that of the version before.
fn rules(candidate: &Candidate, plan: &Prepared, operators: &Operators) -> Vec<RateRule> {
    let place = StepPlace {
        tenant: &candidate.tenant,
        plan: candidate.unit.plan,
        connector: &candidate.connector,
        action: &candidate.action,
    };
    let binding = operators.binding(&candidate.tenant);
    std::iter::once(&plan.constraints).chain(binding.applicable()).flat_map(|set| set.rates(&place)).collect()
}
