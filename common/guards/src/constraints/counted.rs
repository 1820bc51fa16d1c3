//! Rules that count: concurrency, spend and rate. **Owns** what is counted together (the counter's key) and what a count
//! means. **May be called** with what a claim transaction counted under its locks. **Must never** count by itself.

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::PlanKey;
use dat_plan::constraint::{Per, Rule, SpendPeriod};
use dat_plan::document::Enforcement;

use super::{Compiled, ConstraintSet, Origin, Test};
use crate::inputs::{Counted, Inputs};
use crate::limits::Breach;
use crate::rate::RateLimit;

/// How soon a step that found no room among those that run looks again.
const CONCURRENCY_WAIT: TimeDelta = TimeDelta::milliseconds(500);
/// How soon one that did not fit an amount looks again: what others hold may come back.
const SPEND_WAIT: TimeDelta = TimeDelta::seconds(5);

/// Where a step stands, as far as it decides which counters count it.
#[derive(Debug, Clone, Copy)]
pub struct StepPlace<'a> {
    /// Who pays.
    pub tenant: &'a str,
    /// Its plan.
    pub plan: PlanKey,
    /// Its connector.
    pub connector: &'a str,
    /// Its action.
    pub action: &'a str,
}

/// A counter of attempts that run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// What is counted together; the same in every worker.
    pub key: String,
    /// Whose rule it is: a plan's own is counted under the lock of the plan, others under a lock of their own.
    pub origin: Origin,
}

/// An amount that a step's cost counts against, as an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cap {
    /// What is counted together.
    pub key: String,
    /// In how long.
    pub period: SpendPeriod,
    /// The most, in the smallest unit of the step's currency.
    pub max: i64,
    /// Whether it stops; one that does not is counted all the same, and flagged.
    pub hard: bool,
    /// Whether it is a plan's own.
    pub own: bool,
}

/// A rate that a step's calls count against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateRule {
    /// What shares the schedule.
    pub key: String,
    /// The rate.
    pub limit: RateLimit,
    /// For people.
    pub says: String,
}

impl ConstraintSet {
    /// Whether any rule counts what runs.
    #[must_use]
    pub fn counts_running(&self) -> bool {
        self.constraints.iter().any(|constraint| matches!(constraint.test, Test::Concurrency(_)))
    }

    /// The counters of what runs that count the step in `inputs`.
    #[must_use]
    pub fn counters(&self, inputs: &Inputs) -> Vec<Counter> {
        let counting = self.constraints.iter().filter(|one| matches!(one.test, Test::Concurrency(_)));
        counting
            .filter_map(|one| Some(Counter { key: self.key(one, inputs)?, origin: self.origin }))
            .collect()
    }

    /// The amounts that a step of this place and currency counts against.
    #[must_use]
    pub fn caps(&self, place: &StepPlace<'_>, currency: &str) -> Vec<Cap> {
        let spends = self.constraints.iter().filter_map(|one| {
            let Rule::Spend { per, period, currency: of, max, .. } = &one.rule else { return None };
            let counted = of.as_str() == currency && one.rule.selects(place.connector, place.action);
            counted.then(|| Cap {
                key: self.base(one, place, *per),
                period: *period,
                max: *max,
                hard: one.enforcement == Enforcement::Hard,
                own: self.origin == Origin::Plan,
            })
        });
        spends.collect()
    }

    /// The rates that a step of this place counts against.
    #[must_use]
    pub fn rates(&self, place: &StepPlace<'_>) -> Vec<RateRule> {
        let rates = self.constraints.iter().filter_map(|one| {
            let (Rule::Rate { per, count, period_ms, .. }, Test::Rate(limit)) = (&one.rule, &one.test) else {
                return None;
            };
            one.rule.selects(place.connector, place.action).then(|| RateRule {
                key: self.base(one, place, *per),
                limit: *limit,
                says: format!("constraint {}: {count} calls in {period_ms} ms", one.id),
            })
        });
        rates.collect()
    }

    /// The counter of a rule that counts the step in `inputs`; none where it is not about that step.
    pub(super) fn key(&self, constraint: &Compiled, inputs: &Inputs) -> Option<String> {
        let step = inputs.step.as_ref()?;
        let place = StepPlace {
            tenant: &inputs.tenant,
            plan: PlanKey::new(inputs.plan.id, inputs.plan.version),
            connector: &step.connector,
            action: &step.action,
        };
        if !constraint.rule.selects(place.connector, place.action) {
            return None;
        }
        match &constraint.rule {
            Rule::Concurrency { per, parameter: None, .. } => Some(self.base(constraint, &place, *per)),
            Rule::Concurrency { per, parameter: Some(name), .. } => {
                let value = step.parameters.get(name)?;
                Some(format!("{}/{name:?}={value}", self.base(constraint, &place, *per)))
            }
            Rule::Spend { per, currency, .. } => {
                (*currency == inputs.budget.currency).then(|| self.base(constraint, &place, *per))
            }
            _ => None,
        }
    }

    fn base(&self, constraint: &Compiled, place: &StepPlace<'_>, per: Option<Per>) -> String {
        // The id says `fleet/` or `tenant/` itself; it, tenants and plan ids hold no `/`, connectors and actions may.
        let whose = match self.origin {
            Origin::Fleet => String::new(),
            Origin::Tenant => format!("{}/", place.tenant),
            Origin::Plan => format!("plan/{}/", place.plan),
        };
        let each = match per {
            None => String::new(),
            Some(Per::Tenant) => format!("/tenant={:?}", place.tenant),
            Some(Per::Plan) => format!("/plan={}", place.plan.plan_id),
            Some(Per::Connector) => format!("/connector={:?}", place.connector),
            Some(Per::Action) => format!("/action={:?}", place.action),
        };
        format!("{whose}{}{each}", constraint.id)
    }
}

/// So many at once.
#[derive(Debug, Clone)]
pub(super) struct Concurrency {
    pub(super) max: i64,
}

impl Concurrency {
    pub(super) fn breach(&self, key: &str, inputs: &Inputs) -> Option<Breach> {
        let running = inputs.counts.running.get(key).copied().unwrap_or(0);
        if running < self.max {
            return None;
        }
        // No figure that changes: what waits is told of once, not at every look.
        let reason = format!("at most {} run at once, counted as {key}", self.max);
        Some(Breach { reason: short(reason), retry_at: Some(inputs.now + CONCURRENCY_WAIT), lasting: false })
    }
}

/// So much in a period.
#[derive(Debug, Clone)]
pub(super) struct Spend {
    pub(super) max: i64,
    pub(super) period: SpendPeriod,
}

impl Spend {
    pub(super) fn breach(&self, origin: Origin, key: &str, inputs: &Inputs) -> Option<Breach> {
        let Counted { settled, reserved, undos } = inputs.counts.spent.get(key).copied().unwrap_or_default();
        let need = inputs.counts.need;
        if settled.saturating_add(reserved).saturating_add(need) <= self.max {
            return None;
        }
        let every = match self.period {
            SpendPeriod::Total => "in all".to_owned(),
            period => format!("a {}", period.as_str()),
        };
        let reason = short(format!("at most {} {every} is spent, counted as {key}", self.max));
        // As with a plan's budget: final when nothing that can still be released would make room.
        let never = origin == Origin::Plan
            && self.period == SpendPeriod::Total
            && settled.saturating_add(undos).saturating_add(need) > self.max;
        let retry_at: Option<DateTime<Utc>> = (!never).then(|| inputs.now + SPEND_WAIT);
        Some(Breach { reason, retry_at, lasting: never })
    }
}

/// At most 300 characters.
fn short(reason: String) -> String {
    if reason.chars().count() <= 300 { reason } else { reason.chars().take(299).chain(['…']).collect() }
}
