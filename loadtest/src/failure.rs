//! Why there is no report.

use std::path::PathBuf;

use dat_bus::{ConfigError, Malformed, PublishError};

/// Why a run could not be made, or not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The settings contradict each other.
    #[error("{0}")]
    Settings(String),
    /// The document to submit cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Document {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The address of the broker is none.
    #[error(transparent)]
    Address(#[from] ConfigError),
    /// The broker cannot be reached.
    #[error("the broker does not answer: check AMQP_URL, and whether it runs")]
    Unreachable,
    /// The events of the fleet cannot be followed.
    #[error("cannot bind a queue to dat.events: is the topology applied, and the namespace right?")]
    Unbound,
    /// A name is longer than AMQP can carry.
    #[error(transparent)]
    Name(#[from] Malformed),
    /// No queue takes plans.
    #[error("no queue takes plan.submitted ({0}): apply the topology")]
    Unroutable(String),
    /// The broker refuses what is published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A task of the run broke.
    #[error("a task of the run broke: {0}")]
    Broken(#[from] tokio::task::JoinError),
    /// The connections have been shut down under the run.
    #[error("the connections to the broker were shut down")]
    Closed,
    /// There is no histogram to measure with.
    #[error("cannot make a histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// The sandbox does not report.
    #[error("the sandbox does not report at {url}: {why}")]
    Sandbox {
        /// What was asked.
        url: String,
        /// How it failed.
        why: String,
    },
    /// Counters that the report was to have cannot be read.
    #[error("cannot read counters: {0}")]
    Counters(String),
    /// The picture cannot be drawn.
    #[error("cannot draw {}: {why}", path.display())]
    Picture {
        /// Where it should be.
        path: PathBuf,
        /// How it failed.
        why: String,
    },
}
