//! Figures that are read when they are asked for: what waits in the database and in the queues.
//!
//! They are of the whole fleet, so that every worker says the same: take their maximum over workers, not their sum.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use dat_plan::PlanState;
use dat_store::Gauges;
use dat_topology::Stage;
use prometheus::{Error, Gauge, GaugeVec, IntGauge, IntGaugeVec};

use super::Maker;
use super::few::Few;

/// How many currencies are told apart.
const CURRENCIES: usize = 24;

/// Figures of what waits.
pub(crate) struct WaitingFigures {
    units: IntGaugeVec,
    oldest: IntGaugeVec,
    plans: IntGaugeVec,
    due_plans: IntGauge,
    relay_lag: IntGauge,
    relay_lag_seconds: IntGauge,
    snapshot: Gauge,
    budget_used: GaugeVec,
    queue_depth: IntGaugeVec,
    queue_oldest: IntGaugeVec,
    dead_depth: IntGaugeVec,
    currencies: Few,
    /// By queue: nothing in it is older, as far as this process knows.
    none_older: Mutex<BTreeMap<Stage, DateTime<Utc>>>,
}

impl WaitingFigures {
    pub(super) fn new(make: &Maker) -> Result<Self, Error> {
        Ok(Self {
            units: make.gauges(
                "dat_steps_waiting",
                "Steps and undos that are not over, by state",
                "state",
            )?,
            oldest: make.gauges(
                "dat_steps_oldest_due_seconds",
                "How long the oldest due step waits, by state",
                "state",
            )?,
            plans: make.gauges(
                "dat_plans_open",
                "Plans that were approved and have not ended, by state",
                "state",
            )?,
            due_plans: make.gauge("dat_plans_due", "Plans that the sweeper must look at")?,
            relay_lag: make.gauge("dat_relay_lag_events", "Events that wait to be published")?,
            relay_lag_seconds: make
                .gauge("dat_relay_lag_seconds", "Age of the oldest event that waits to be published")?,
            snapshot: make.real(
                "dat_database_oldest_snapshot_seconds",
                "Age of the oldest open transaction that holds back vacuum, of those this login may see",
            )?,
            budget_used: make.reals(
                "dat_budget_used_ratio",
                "Spent and reserved of the limit, of the tenant that has used most of its own, by period",
                &["currency", "period"],
            )?,
            queue_depth: make.gauges(
                "dat_queue_messages",
                "Messages that wait in a queue, but for those that a worker holds",
                "queue",
            )?,
            queue_oldest: make.gauges(
                "dat_queue_oldest_seconds",
                "How old the oldest message of a queue may be, but for one that was given back; the least of all workers is the one to believe",
                "queue",
            )?,
            dead_depth: make.gauges(
                "dat_dead_letters_messages",
                "Parked messages, by the queue they came from",
                "queue",
            )?,
            currencies: Few::new(CURRENCIES),
            none_older: Mutex::default(),
        })
    }

    /// What the database says.
    pub(crate) fn rows(&self, gauges: &Gauges, lag: (i64, Option<DateTime<Utc>>), now: DateTime<Utc>) {
        let age = |since: Option<DateTime<Utc>>| since.map_or(0, |since| (now - since).num_seconds().max(0));
        self.units.reset();
        self.oldest.reset();
        for (state, count, oldest) in &gauges.units {
            self.units.with_label_values(&[state]).set(*count);
            self.oldest.with_label_values(&[state]).set(age(*oldest));
        }
        for state in [
            PlanState::Staged,
            PlanState::Executing,
            PlanState::Paused,
            PlanState::RollingBack,
            PlanState::Stuck,
        ] {
            let count =
                gauges.plans.iter().find(|(found, _)| found == state.as_str()).map_or(0, |(_, count)| *count);
            self.plans.with_label_values(&[state.as_str()]).set(count);
        }
        self.due_plans.set(gauges.due_plans);
        self.relay_lag.set(lag.0);
        self.relay_lag_seconds.set(age(lag.1));
        self.snapshot.set(gauges.oldest_snapshot_s);
        self.budget_used.reset();
        for (currency, period, used) in &gauges.budgets_used {
            let currency = self.currencies.one(currency);
            let gauge = self.budget_used.with_label_values(&[currency.as_str(), period.as_str()]);
            gauge.set(gauge.get().max(*used));
        }
    }

    /// A message of a queue that was made at this moment was taken: those that came before it are gone, too.
    pub(crate) fn taken(&self, queue: Stage, made: DateTime<Utc>) {
        let mut known = self.none_older.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = known.entry(queue).or_insert(made);
        *oldest = made.max(*oldest);
    }

    /// How many messages wait in a queue, and how many were parked from it; nothing where the broker did not say. How old
    /// the first is cannot be asked without taking it: it came after the one that was taken last, and after the queue was
    /// last seen empty.
    pub(crate) fn queue(&self, queue: Stage, depth: Option<u32>, dead: Option<u32>, now: DateTime<Utc>) {
        if let Some(depth) = depth {
            let mut known = self.none_older.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = known.entry(queue).or_insert(now);
            if depth == 0 {
                *oldest = now;
            }
            let age = (now - *oldest).num_seconds().max(0);
            self.queue_oldest.with_label_values(&[queue.as_str()]).set(age);
            self.queue_depth.with_label_values(&[queue.as_str()]).set(i64::from(depth));
        }
        if let Some(dead) = dead {
            self.dead_depth.with_label_values(&[queue.as_str()]).set(i64::from(dead));
        }
    }
}
