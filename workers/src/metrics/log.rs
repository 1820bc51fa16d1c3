//! What the log tells, in figures: events of each kind, what was reserved and spent, rules that did not hold.
//!
//! Everything that happens is an event, so that it is counted here once, whoever wrote it. A relay counts what it has
//! published, when that is confirmed: over the fleet each event counts once, and again only where it was published again.
//!
//! **Owns** these figures, and keeps their labels few: what tenants name themselves is never one. **May be called** by the
//! relay. **Must never** look anything up: an event has all that is counted of it.

use chrono::{DateTime, Utc};
use dat_plan::event::{EventKind, LoggedEvent};
use dat_plan::{PlanState, StepState};
use prometheus::{Error, Histogram, HistogramVec, IntCounterVec};

use super::few::Few;
use super::{Maker, seconds};

/// From the registration of a plan to its verdict: an agent decides in milliseconds, people take days.
const VERDICT_SECONDS: &[f64] =
    &[0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 14_400.0, 86_400.0, 259_200.0, 604_800.0];
/// From when something happened until it was published.
const DELAY_SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Kinds that somebody is told of when the first of them happens.
const ALARMING: [EventKind; 7] = [
    EventKind::BudgetOverrun,
    EventKind::BudgetRefused,
    EventKind::ConstraintViolated,
    EventKind::SealBroken,
    EventKind::LateAnswer,
    EventKind::RuntimeLost,
    EventKind::SubmissionRejected,
];

/// How many currencies are told apart,
const CURRENCIES: usize = 24;
/// and how many rules of the fleet.
const RULES: usize = 64;

/// Figures of what was published.
pub(crate) struct LogFigures {
    events: IntCounterVec,
    delay: Histogram,
    verdict: HistogramVec,
    spend: IntCounterVec,
    overruns: IntCounterVec,
    violations: IntCounterVec,
    currencies: Few,
    rules: Few,
}

impl LogFigures {
    pub(super) fn new(make: &Maker) -> Result<Self, Error> {
        let events =
            make.counters("dat_log_events_total", "Events published and confirmed, by kind", &["kind"])?;
        // A counter that is there from the start shows its first increase.
        let states =
            StepState::ALL.iter().flat_map(|state| [EventKind::Step(*state), EventKind::Undo(*state)]);
        let kinds = PlanState::ALL.iter().map(|state| EventKind::Plan(*state)).chain(states).chain(ALARMING);
        kinds.for_each(|kind| events.with_label_values(&[kind.routing_key().as_str()]).inc_by(0));
        Ok(Self {
            events,
            delay: make.histogram(
                "dat_relay_delay_seconds",
                "From when something happened until its event was published and confirmed",
                DELAY_SECONDS,
            )?,
            verdict: make.histograms(
                "dat_verdict_wait_seconds",
                "From the registration of a plan to the verdict that bound, by its outcome",
                "outcome",
                VERDICT_SECONDS,
            )?,
            spend: make.counters(
                "dat_spend_units_total",
                "What the ledger entered, in the smallest unit of the currency, by entry",
                &["entry", "currency"],
            )?,
            overruns: make.counters(
                "dat_budget_overrun_units_total",
                "Spent beyond what was reserved, in the smallest unit of the currency",
                &["currency"],
            )?,
            violations: make.counters(
                "dat_constraint_violations_total",
                "Rules that did not hold, by the fleet's rule, or by whose else it is",
                &["rule", "enforcement"],
            )?,
            currencies: Few::new(CURRENCIES),
            rules: Few::new(RULES),
        })
    }

    /// Counts an event that was published at this moment.
    pub(crate) fn published(&self, event: &LoggedEvent, now: DateTime<Utc>) {
        let Ok(kind) = event.kind.parse::<EventKind>() else {
            // A newer version's.
            self.events.with_label_values(&["other"]).inc();
            return;
        };
        self.events.with_label_values(&[event.kind.as_str()]).inc();
        self.delay.observe(seconds(now - event.at));
        match kind {
            EventKind::SpendReserved => self.entered("reserved", event),
            EventKind::SpendIncurred => self.entered("incurred", event),
            EventKind::SpendReleased => self.entered("released", event),
            EventKind::RefundIssued => self.entered("refunded", event),
            EventKind::BudgetOverrun => {
                let (currency, amount) = self.amount(event);
                self.overruns.with_label_values(&[currency.as_str()]).inc_by(amount);
            }
            EventKind::ConstraintViolated => {
                let violation = |field: &str| event.data.get("violation")?.get(field)?.as_str();
                let rule = self.rule(violation("constraint").unwrap_or_default());
                let enforcement = if violation("enforcement") == Some("soft") { "soft" } else { "hard" };
                self.violations.with_label_values(&[rule.as_str(), enforcement]).inc();
            }
            EventKind::Plan(state) if event.data.get("waited_ms").is_some() => {
                let waited = event.data["waited_ms"].as_f64().unwrap_or_default();
                self.verdict.with_label_values(&[state.as_str()]).observe(waited / 1_000.0);
            }
            _ => {}
        }
    }

    fn entered(&self, entry: &str, event: &LoggedEvent) {
        let (currency, amount) = self.amount(event);
        self.spend.with_label_values(&[entry, currency.as_str()]).inc_by(amount);
    }

    fn amount(&self, event: &LoggedEvent) -> (String, u64) {
        let currency = event.data.get("currency").and_then(serde_json::Value::as_str);
        let amount = event.data.get("amount").and_then(serde_json::Value::as_u64);
        (self.currencies.one(currency.unwrap_or_default()), amount.unwrap_or_default())
    }

    /// The fleet's rules are told apart, since operators name them; of a plan's and a tenant's it is said whose they are.
    fn rule(&self, id: &str) -> String {
        match id.split_once('/') {
            Some(("fleet", _)) => self.rules.one(id),
            Some((whose @ ("tenant" | "preconditions" | "postconditions"), _)) => whose.to_owned(),
            _ => "plan".to_owned(),
        }
    }
}
