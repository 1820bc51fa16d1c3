//! What a connector tells of a request beside its answer, and who hears it.

use std::fmt::Debug;

use dat_plan::Progress;

use crate::connector::Answer;

/// Hears what a connector tells of one request beside its answer. Whoever tells does not wait, and nothing that is told
/// changes what the answer said.
pub trait Listener: Debug + Send + Sync {
    /// How far a long action is; as often as the connector hears of it, the last word counts.
    fn progress(&self, progress: Progress);

    /// The answer came after [`Answer::Unanswered`] was given for want of one. Told once at most, and only where the
    /// connector still could hear it: `mux` remembers so many requests for so long (see `dat-bus`), `http` none, as it
    /// hangs up when the time is up.
    fn late(&self, answer: Answer);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Listener for Nobody {
    fn progress(&self, _: Progress) {}

    fn late(&self, _: Answer) {}
}
