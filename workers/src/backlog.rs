//! Whether a worker is behind: more is due than it has slots for. While it is, it takes new submissions in slowly.
//!
//! To register a plan and to bind its approval takes as much of the servers as several of its steps. Under more load than
//! the fleet bears, taking everything in at once would leave the steps what is left, and plans that were approved long ago
//! would wait behind those that have just come (`docs/performance.md`). What is not taken in waits in its queue.
//!
//! **Owns** that one bit, and how long intake rests. **May be called** by the Dispatcher, which sees what is due, and by the
//! stage of submissions, which rests. **Must never** stop intake: steps may run for hours, and governance must hear of a
//! plan all the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// How many times as long as it worked intake rests while the worker is behind: it has a tenth of its time.
const RESTS: u32 = 9;
/// The longest that it rests at once.
const LONGEST: Duration = Duration::from_secs(5);

/// What the Dispatcher saw last.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    behind: AtomicBool,
    caught_up: Notify,
}

impl Backlog {
    /// Whether there was more due than could be claimed, at the last look.
    pub(crate) fn saw(&self, more: bool) {
        if self.behind.swap(more, Ordering::Relaxed) && !more {
            self.caught_up.notify_waiters();
        }
    }

    /// Whether the worker is behind.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }

    /// Rests from work that took so long: not at all where the worker is not behind, and no longer than it is.
    pub(crate) async fn rest(&self, took: Duration) {
        let caught_up = self.caught_up.notified();
        tokio::pin!(caught_up);
        // Enlisted before the look: what is seen in between is not missed.
        caught_up.as_mut().enable();
        if self.is_behind() {
            let _ = tokio::time::timeout((took * RESTS).min(LONGEST), caught_up).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    const TOOK: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn who_is_behind_rests_nine_times_as_long_as_it_worked_and_at_most_five_seconds() {
        let backlog = Backlog::default();
        backlog.saw(true);
        for (took, rests) in [(TOOK, TOOK * 9), (Duration::from_mins(1), LONGEST)] {
            let began = Instant::now();
            backlog.rest(took).await;
            let rested = began.elapsed();
            // The timer's grain is a millisecond.
            assert!(rested.abs_diff(rests) <= Duration::from_millis(1), "{rested:?} after {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_behind_does_not_rest_and_who_catches_up_rests_no_longer() {
        let backlog = Backlog::default();
        assert!(backlog.rest(TOOK).now_or_never().is_some());
        backlog.saw(true);
        let mut rest = Box::pin(backlog.rest(TOOK));
        assert!(rest.as_mut().now_or_never().is_none());
        backlog.saw(true);
        assert!(rest.as_mut().now_or_never().is_none(), "it is behind still");
        backlog.saw(false);
        assert!(rest.as_mut().now_or_never().is_some());
    }
}
