//! An alarm: rings when told to, or at the earliest moment it was set to.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// Wakes one waiting task, at once or later. Ringing twice before it wakes is ringing once.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    bell: Notify,
    /// The moment became an earlier one: the waiting task waits for that instead.
    earlier: Notify,
    next: Mutex<Option<Instant>>,
}

impl Alarm {
    /// Rings now.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Rings at a moment, unless it rings sooner anyway. Kept in memory only: the sweeper rings too.
    pub(crate) fn set(&self, at: DateTime<Utc>, now: DateTime<Utc>) {
        let at = Instant::now() + (at - now).to_std().unwrap_or(Duration::ZERO);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if next.is_none_or(|set| at < set) {
            *next = Some(at);
            self.earlier.notify_one();
        }
    }

    /// Waits until it rings.
    pub(crate) async fn rung(&self) {
        loop {
            let at = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
            tokio::select! {
                () = self.bell.notified() => return,
                () = self.earlier.notified() => {}
                () = until(at) => {
                    let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
                    // Cleared only if it is this moment that came: a task that gives up waiting clears nothing.
                    if *next == at {
                        *next = None;
                    }
                    return;
                }
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[tokio::test(start_paused = true)]
    async fn it_rings_once_at_the_earliest_moment_it_was_set_to() {
        let alarm = Alarm::default();
        let now = DateTime::UNIX_EPOCH;
        let start = Instant::now();
        alarm.set(now + TimeDelta::seconds(9), now);
        alarm.set(now + TimeDelta::seconds(2), now);
        alarm.rung().await;
        assert_eq!(Instant::now() - start, Duration::from_secs(2));
        let again = tokio::time::timeout(Duration::from_mins(1), alarm.rung()).await;
        assert!(again.is_err(), "it rang again without being set");
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_moment_is_noticed_by_a_task_that_waits_already() {
        let alarm = Alarm::default();
        let now = DateTime::UNIX_EPOCH;
        let start = Instant::now();
        alarm.set(now + TimeDelta::seconds(9), now);
        tokio::join!(alarm.rung(), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            alarm.set(now + TimeDelta::seconds(3), now);
        });
        assert_eq!(Instant::now() - start, Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_before_the_wait_is_not_lost() {
        let alarm = Alarm::default();
        alarm.ring();
        alarm.rung().await;
    }
}
