//! The command line.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::cost::Counters;
use crate::failure::Failure;
use crate::history::HistoryArgs;
use crate::limit::LimitArgs;
use crate::pace::Pace;

/// Generates load for a DAT fleet by the published contract alone, and measures.
#[derive(Debug, Parser)]
#[command(name = "dat-loadtest", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What a load test can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Submit plans, follow each to its end, and report throughput, latency and whatever was lost or doubled
    Run(Box<RunArgs>),
    /// Copy a plan's rows many times, so that a run may be measured on a database with a history, or with a backlog
    History(HistoryArgs),
    /// Measure what the servers let through with no logic at all: the limit that a run's figure is a share of
    Limit {
        /// How it is measured
        #[command(flatten)]
        args: LimitArgs,
        /// How to print it
        #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
        output: OutputFormat,
    },
}

/// The shapes of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// One step after the other.
    Sequence,
    /// One step, then all others at once.
    Fanout,
    /// The document in `--file`, each time under a plan id of its own.
    ChainFromFile,
}

/// Where generated steps act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Connector {
    /// Nowhere.
    Echo,
    /// In MUX, which must be the sandbox's: steps tell it what they cost.
    Mux,
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// One run.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// How many plans to submit
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) plans: u32,
    /// How many steps a plan has
    #[arg(long, default_value_t = 5, conflicts_with = "file", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) steps: u32,
    /// How the steps of a plan depend on each other
    #[arg(long, value_enum, default_value_t = Shape::Sequence)]
    pub(crate) shape: Shape,
    /// A plan document that completes, for `--shape chain-from-file`
    #[arg(long, value_name = "FILE", required_if_eq("shape", "chain-from-file"))]
    file: Option<PathBuf>,
    /// Where the steps act
    #[arg(long, value_enum, default_value_t = Connector::Echo, conflicts_with = "file")]
    pub(crate) connector: Connector,
    /// The share of plans in which a step is refused, so that they roll back (0 to 1; needs `--connector mux`)
    #[arg(long, default_value_t = 0.0, value_parser = share, conflicts_with = "file")]
    fail_share: f64,
    /// Open loop: plans a second, at a pace that does not slow down when the fleet does
    #[arg(long, value_parser = rate, conflicts_with = "in_flight")]
    rate: Option<f64>,
    /// Closed loop: how many plans are under way at a time
    #[arg(long, default_value = "64")]
    in_flight: NonZeroU32,
    /// Give up after so many seconds
    #[arg(long, default_value = "120")]
    timeout_s: NonZeroU64,
    /// Over how many tenants to spread the plans
    #[arg(long, default_value = "1")]
    pub(crate) tenants: NonZeroU32,
    /// Makes the plan ids and the refused steps repeatable. A fleet that has seen a seed's plans ignores them
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How to print the report
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
    /// Measure the limit too, right after the run, and give the run's figure as a share of it (needs `--database-url`)
    #[arg(long, requires = "database_url")]
    pub(crate) limit: bool,
    /// Draw throughput and latency over time into this file
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) picture: Option<PathBuf>,
    /// What the run costs
    #[command(flatten)]
    pub(crate) counters: Counters,
    /// Where the sandbox reports, to compare its effects and its ledger with what was announced
    #[arg(long, value_name = "URL")]
    pub(crate) sandbox_url: Option<String>,
    /// The broker
    #[arg(long, value_name = "URL", env = "AMQP_URL", hide_env_values = true)]
    pub(crate) amqp_url: String,
    /// The fleet's namespace
    #[arg(long, env = "DAT_NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

impl RunArgs {
    /// The document to submit, for a run that has one.
    pub(crate) fn file(&self) -> Result<Option<&Path>, Failure> {
        match (self.shape, &self.file) {
            (Shape::Sequence | Shape::Fanout, Some(_)) => {
                Err(Failure::Settings("--file needs --shape chain-from-file".to_owned()))
            }
            (_, file) => Ok(file.as_deref()),
        }
    }

    /// The share of plans in which a step is refused.
    pub(crate) fn fail_share(&self) -> Result<f64, Failure> {
        if self.fail_share > 0.0 && self.connector == Connector::Echo {
            return Err(Failure::Settings(
                "--fail-share needs --connector mux: echo refuses nothing".to_owned(),
            ));
        }
        Ok(self.fail_share)
    }

    /// How the plans are paced.
    pub(crate) fn pace(&self) -> Result<Pace, Failure> {
        let Some(rate) = self.rate else { return Ok(Pace::InFlight(self.in_flight)) };
        let interval = Duration::from_secs_f64(rate.recip());
        if interval.saturating_mul(self.plans) >= self.timeout() {
            return Err(Failure::Settings(format!(
                "{} plans at {rate} a second take longer than --timeout-s {}",
                self.plans, self.timeout_s
            )));
        }
        Ok(Pace::Every(interval))
    }

    /// How to measure the limit that this run's figure is a share of.
    pub(crate) fn limit(&self, steps: usize) -> Option<LimitArgs> {
        let database_url = self.counters.database_url.clone().filter(|_| self.limit)?;
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        Some(LimitArgs::new(steps, database_url, self.amqp_url.clone()))
    }

    /// After how long the run gives up.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s.get())
    }
}

fn share(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1.0)
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, 0.001, 1_000_000.0)
}

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("not a number from {least} to {most}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<RunArgs, clap::Error> {
        let words = format!("dat-loadtest run --amqp-url amqp://localhost {line}");
        Cli::try_parse_from(words.split_whitespace()).map(|cli| match cli.command {
            Command::Run(args) => *args,
            Command::History(_) | Command::Limit { .. } => panic!("not a run: {line}"),
        })
    }

    fn pace(line: &str) -> Result<Pace, Failure> {
        parsed(line).expect("a valid line").pace()
    }

    #[test]
    fn a_rate_opens_the_loop() {
        assert_eq!(pace("--rate 100").expect("valid"), Pace::Every(Duration::from_millis(10)));
        assert!(matches!(pace("").expect("valid"), Pace::InFlight(window) if window.get() == 64));
        assert!(parsed("--rate 100 --in-flight 5").is_err());
        assert!(parsed("--rate 0").is_err());
        assert!(pace("--rate 1 --plans 200 --timeout-s 120").is_err());
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        assert!(parsed("--shape chain-from-file").is_err());
        assert!(parsed("--shape chain-from-file --file x.json --steps 3").is_err());
        assert!(parsed("--file x.json").expect("parses").file().is_err());
        assert!(parsed("--fail-share 1.1 --connector mux").is_err());
        assert!(parsed("--fail-share 0.1").expect("parses").fail_share().is_err());
        let mux = parsed("--fail-share 0.1 --connector mux").expect("parses");
        assert!((mux.fail_share().expect("valid") - 0.1).abs() < f64::EPSILON);
    }
}
