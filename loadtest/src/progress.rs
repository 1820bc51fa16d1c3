//! One line on a terminal that says how far the run is.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use crate::tally::Counts;

/// Writes to standard error, and only if that is a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
}

impl Progress {
    /// Looks where standard error goes.
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// Overwrites the line.
    pub(crate) fn show(&self, counts: Counts, submitted: u32, plans: u32, elapsed: Duration) {
        if self.terminal {
            let Counts { ended, steps, .. } = counts;
            let _ = write!(
                std::io::stderr(),
                "\r\x1b[K{:6.1} s  {submitted} of {plans} plans submitted, {ended} ended, {steps} steps completed",
                elapsed.as_secs_f64()
            );
        }
    }

    /// Removes the line.
    pub(crate) fn clear(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
