//! The meter: how much of its inputs one evaluation may read.
//!
//! Text bounds do not bound cost: `results.all(…)` over ten thousand results is short. The meter counts what is read,
//! so the bound is the same on every machine and a decision made again ends the same way.

use std::sync::atomic::{AtomicU64, Ordering};

use cel::ExecutionError;

/// The most values one evaluation reads; a text counts one more for each 64 bytes.
pub(super) const READS: u64 = 50_000;
/// The longest text that a predicate reads, in bytes.
pub(super) const TEXT_BYTES: usize = 65_536;

/// Counts reads; once it is exhausted, every read fails.
#[derive(Debug, Default)]
pub(super) struct Meter(AtomicU64);

impl Meter {
    /// Counts a read of so many values.
    pub(super) fn read(&self, values: usize) -> Result<(), ExecutionError> {
        let values = u64::try_from(values).unwrap_or(u64::MAX);
        let before = self.0.fetch_add(values.min(READS + 1), Ordering::Relaxed);
        if before.saturating_add(values) > READS { Err(exhausted()) } else { Ok(()) }
    }

    /// Counts a read of a text.
    pub(super) fn text(&self, bytes: usize) -> Result<(), ExecutionError> {
        if bytes > TEXT_BYTES {
            let message =
                format!("a text of {bytes} bytes is longer than the {TEXT_BYTES} that a predicate reads");
            return Err(ExecutionError::function_error("read", message));
        }
        self.read(1 + bytes / 64)
    }

    /// Whether a read has failed: then nothing that the expression gave counts.
    pub(super) fn is_exhausted(&self) -> bool {
        self.0.load(Ordering::Relaxed) > READS
    }
}

/// The error of a read too many.
pub(super) fn exhausted() -> ExecutionError {
    ExecutionError::function_error("read", format!("the expression reads more than {READS} values"))
}
