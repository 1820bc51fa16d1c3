//! The limit: what the servers of this machine let through if a fleet did only what cannot be avoided for a step, with no
//! logic at all. A step's row is claimed and completed in batches, its three events are inserted and two of them published
//! with confirms, its dispatch is published, consumed and acknowledged. No approval, no guard, no budget, no lease, no audit: what remains is
//! the price of the servers, and DAT's figure is given as a share of it.
//!
//! **Owns** a schema and two queues of its own, made for a run and removed after it. **May be called** by `limit`, and after
//! a run that is to be compared. **Must never** touch what a fleet owns.

mod pipeline;
mod queues;
mod tables;

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::failure::Failure;
use pipeline::Pipeline;
use queues::Queues;
use tables::Tables;

/// How a limit is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct LimitArgs {
    /// How many plans
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) plans: u32,
    /// Of how many steps, one after the other
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) steps: u32,
    /// How many pipelines at once, each with connections of its own
    #[arg(long, default_value = "4")]
    pub(crate) pipelines: NonZeroU32,
    /// How many steps a pipeline takes at once, at most
    #[arg(long, default_value = "256")]
    pub(crate) batch: NonZeroU32,
    /// Give up after so many seconds, for each way
    #[arg(long, default_value = "120")]
    pub(crate) timeout_s: NonZeroU32,
    /// `PostgreSQL`: a schema of its own is made there, and removed
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,
    /// The broker: two queues are made there, and removed
    #[arg(long, value_name = "URL", env = "AMQP_URL", hide_env_values = true)]
    pub(crate) amqp_url: String,
}

impl LimitArgs {
    /// As the defaults are, for plans of so many steps.
    pub(crate) fn new(steps: u32, database_url: String, amqp_url: String) -> Self {
        let some = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self {
            plans: (15_000 / steps.max(1)).max(1),
            steps,
            pipelines: some(4),
            batch: some(256),
            timeout_s: some(120),
            database_url,
            amqp_url,
        }
    }
}

/// What a step sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Way {
    /// The transaction that completes a step claims its successor: a dispatch only for a plan's first step.
    pub(crate) going_on: bool,
    /// All events of a batch are one message.
    pub(crate) batched_events: bool,
}

impl Way {
    /// Every way, the dearest first.
    pub(crate) const ALL: [Self; 4] = [
        Self { going_on: false, batched_events: false },
        Self { going_on: true, batched_events: false },
        Self { going_on: false, batched_events: true },
        Self { going_on: true, batched_events: true },
    ];
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dispatch = if self.going_on { "a dispatch a plan" } else { "a dispatch a step" };
        let events =
            if self.batched_events { "events of a batch in one message" } else { "a message an event" };
        write!(f, "{dispatch}, {events}")
    }
}

/// What one way lets through.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Limit {
    /// What a step sends.
    pub(crate) way: Way,
    /// Completed steps a second.
    pub(crate) steps_per_s: f64,
}

/// Measures every way, one after the other.
pub(crate) async fn measure(args: &LimitArgs) -> Result<Vec<Limit>, Failure> {
    let mut limits = Vec::new();
    for way in Way::ALL {
        let steps_per_s = one(args, way).await?;
        limits.push(Limit { way, steps_per_s });
    }
    Ok(limits)
}

async fn one(args: &LimitArgs, way: Way) -> Result<f64, Failure> {
    let tables = Tables::make(&args.database_url, args.plans, args.steps).await?;
    let queues = Queues::make(&args.amqp_url).await?;
    let patience = Duration::from_secs(args.timeout_s.get().into());
    let outcome = timeout(patience, run(args, way, &queues)).await;
    // Whatever came of it, nothing of it is left.
    let (removed, done) = (queues.remove().await, tables.remove().await);
    let seconds = outcome.map_err(|_| {
        Failure::Settings(format!("the limit of '{way}' took longer than --timeout-s {}", args.timeout_s))
    })??;
    removed?;
    let done = done?;
    let meant = u64::from(args.plans) * u64::from(args.steps);
    if done != meant {
        return Err(Failure::Settings(format!(
            "{done} of {meant} steps were completed: the measure is wrong"
        )));
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(meant as f64 / seconds)
}

async fn run(args: &LimitArgs, way: Way, queues: &Queues) -> Result<f64, Failure> {
    let left = Arc::new(std::sync::atomic::AtomicU32::new(args.plans));
    let mut pipelines = Vec::new();
    for _ in 0..args.pipelines.get() {
        pipelines.push(Pipeline::open(args, way, queues, Arc::clone(&left)).await?);
    }
    let started = Instant::now();
    let mut running = JoinSet::new();
    running.spawn(queues::submit(args.amqp_url.clone(), args.plans));
    for pipeline in pipelines {
        running.spawn(pipeline.run());
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// The limits as a table; where a run is to be compared, with its share of each.
pub(crate) fn table(limits: &[Limit], run: Option<f64>) -> String {
    let mut text = format!("{:58}{:>12}", "the limit, with no logic at all", "steps/s");
    if run.is_some() {
        text.push_str("   the run's share");
    }
    text.push('\n');
    for Limit { way, steps_per_s } in limits {
        // Writing to a String does not fail.
        let _ = write!(text, "{:58}{steps_per_s:>12.0}", way.to_string());
        if let Some(run) = run {
            let _ = write!(text, "{:>15.1} %", run / steps_per_s * 100.0);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_shown_as_a_share_of_each_limit() {
        let limits = Way::ALL.map(|way| Limit { way, steps_per_s: 4_000.0 });
        let shown = table(&limits, Some(1_000.0));
        assert_eq!(shown.matches("25.0 %").count(), 4, "{shown}");
        assert!(!table(&limits, None).contains('%'));
    }
}
