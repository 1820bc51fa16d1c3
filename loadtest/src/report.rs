//! The report of a run, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::command::{Connector, Shape};
use crate::cost::{Cost, ProcessCost};
use crate::event::End;
use crate::faults::Faults;
use crate::latency::Percentiles;
use crate::limit::{self, Limit};
use crate::pace::Pace;
use crate::sandbox::World;
use crate::session::Outcome;
use crate::tally::Counts;
use crate::timeline::Point;

/// What was run.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Setup {
    /// What makes the same plans again.
    pub(crate) seed: u64,
    /// How many plans.
    pub(crate) plans: u32,
    /// Of how many steps each.
    pub(crate) steps: usize,
    /// In which order.
    pub(crate) shape: Shape,
    /// Where generated steps act.
    pub(crate) connector: Option<Connector>,
    /// The share of plans in which a step is refused.
    pub(crate) fail_share: f64,
    /// Over how many tenants.
    pub(crate) tenants: u32,
    /// How they were paced: an interval in seconds, or a window of plans.
    pub(crate) pace: Pace,
}

/// Latencies, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latencies {
    /// From when a plan was due to its completion.
    completed: Option<Percentiles>,
    /// From when a plan was due to the end of its rollback.
    aborted: Option<Percentiles>,
    /// From approval to completion, by DAT's own clock.
    executed: Option<Percentiles>,
    /// From when a plan was due until it was handed to the broker: the generator's own part.
    generator_lag: Option<Percentiles>,
}

/// The report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    setup: Setup,
    /// From the first submission to the last end.
    measured_s: f64,
    plans_per_s: f64,
    steps_per_s: f64,
    ends: BTreeMap<End, u32>,
    counts: Counts,
    latency_ms: Latencies,
    republished: usize,
    interrupted: bool,
    faults: Faults,
    world: Option<World>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Cost>,
    /// What the servers let through with no logic at all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    limits: Vec<Limit>,
    timeline: Vec<Point>,
    /// Whether every plan ended once and as expected, and the world agrees.
    pub(crate) passed: bool,
}

impl Report {
    /// Sums up a run.
    pub(crate) fn new(
        setup: Setup,
        outcome: &Outcome,
        world: Option<World>,
        (cost, limits): (Option<Cost>, Vec<Limit>),
    ) -> Self {
        let tally = &outcome.tally;
        let measured = if tally.counts.ended == 0 { outcome.elapsed } else { tally.last_end() };
        // A clock that has not moved measures nothing.
        let measured_s = measured.as_secs_f64().max(f64::MIN_POSITIVE);
        let faults = tally.faults(setup.plans);
        let passed = faults.none()
            && !outcome.interrupted
            && world.as_ref().is_none_or(|world| world.disagreements == 0);
        Self {
            setup,
            measured_s,
            plans_per_s: f64::from(tally.counts.ended) / measured_s,
            steps_per_s: f64::from(tally.counts.steps) / measured_s,
            ends: tally.ends(),
            counts: tally.counts,
            latency_ms: Latencies {
                completed: tally.completed.percentiles(),
                aborted: tally.aborted.percentiles(),
                executed: tally.executed.percentiles(),
                generator_lag: outcome.lag.percentiles(),
            },
            republished: outcome.republished,
            interrupted: outcome.interrupted,
            faults,
            world,
            cost,
            limits,
            timeline: tally.timeline.points(),
            passed,
        }
    }

    /// As JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
    }

    /// As a table.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Setup { seed, plans, steps, tenants, pace, .. } = self.setup;
        let pace = match pace {
            Pace::Every(interval) => format!("{:.1} plans/s, open loop", interval.as_secs_f64().recip()),
            Pace::InFlight(window) => format!("{window} in flight, closed loop"),
        };
        writeln!(out, "run          {plans} plans of {steps} steps, {tenants} tenants, {pace}, seed {seed}")?;
        writeln!(out, "throughput   {:.1} steps/s, {:.1} plans/s", self.steps_per_s, self.plans_per_s)?;
        write!(out, "ended        in {:.3} s:", self.measured_s)?;
        for (end, plans) in &self.ends {
            write!(out, " {plans} {end},")?;
        }
        writeln!(out, " {} steps completed", self.counts.steps)?;
        writeln!(
            out,
            "\n{:24}{:>9}{:>10}{:>10}{:>10}{:>10}",
            "latency, ms", "plans", "p50", "p90", "p99", "max"
        )?;
        let latency = &self.latency_ms;
        for (name, percentiles) in [
            ("submitted to completed", latency.completed),
            ("submitted to aborted", latency.aborted),
            ("approved to completed", latency.executed),
            ("due to handed over", latency.generator_lag),
        ] {
            if let Some(Percentiles { count, p50, p90, p99, max }) = percentiles {
                writeln!(out, "{name:24}{count:>9}{p50:>10.2}{p90:>10.2}{p99:>10.2}{max:>10.2}")?;
            }
        }
        writeln!(
            out,
            "\nevents       {} duplicates ignored, {} of other plans; {} documents published again",
            self.counts.duplicates, self.counts.foreign, self.republished
        )?;
        if let Some(World { plans, effects, undone, net, disagreements, .. }) = &self.world {
            writeln!(
                out,
                "world        {plans} plans: {effects} effects, {undone} undone, net {net}; {disagreements} disagree"
            )?;
        }
        if let Some(cost) = &self.cost {
            write_cost(cost, out)?;
        }
        if !self.limits.is_empty() {
            writeln!(out, "\n{}", limit::table(&self.limits, Some(self.steps_per_s)))?;
        }
        self.write_verdict(out)
    }

    fn write_verdict(&self, out: &mut String) -> std::fmt::Result {
        if self.passed {
            return writeln!(out, "PASSED       every plan ended once, as expected");
        }
        let Faults {
            unsubmitted, missing, doubled, unexpected, miscounted, out_of_order, unreadable, ..
        } = self.faults;
        writeln!(
            out,
            "FAILED       plans: {unsubmitted} not submitted, {missing} missing, {doubled} doubled, {unexpected} ended \
             otherwise, {miscounted} with steps miscounted, {out_of_order} with events out of order; {unreadable} \
             messages unreadable"
        )?;
        if self.interrupted {
            writeln!(
                out,
                "             a connection was lost, and perhaps events with it: the counts prove nothing"
            )?;
        }
        let examples = self.faults.examples.iter().chain(self.world.iter().flat_map(|world| &world.examples));
        examples.into_iter().try_for_each(|example| writeln!(out, "             {example}"))
    }
}

fn write_cost(cost: &Cost, out: &mut String) -> std::fmt::Result {
    writeln!(out, "\n{:24}{:>9}{:>10}{:>10}", "cost", "at once", "cpu, s", "peak MiB")?;
    for ProcessCost { name, count, cpu_s, peak_bytes } in &cost.processes {
        writeln!(out, "{name:24}{count:>9}{cpu_s:>10.2}{:>10}", peak_bytes / (1024 * 1024))?;
    }
    write!(out, "a step       {:.0} us of processor time", cost.cpu_us_per_step)?;
    for (figure, unit) in [
        (cost.transactions_per_step, "transactions"),
        (cost.wal_bytes_per_step, "bytes of write-ahead log"),
        (cost.messages_per_step, "messages published"),
        (cost.deliveries_per_step, "delivered"),
        (cost.redis_commands_per_step, "commands of Redis"),
        (cost.redis_round_trips_per_step, "round trips to it"),
    ] {
        if let Some(figure) = figure {
            write!(out, ", {figure:.2} {unit}")?;
        }
    }
    writeln!(out, "\n")
}
