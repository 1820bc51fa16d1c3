//! An alarm: rings when told to, or at the earliest moment it was set to.

use std::sync::Mutex;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// Wakes one waiting task, at once or later. Ringing twice before it wakes is ringing once.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    bell: Notify,
    next: Mutex<Option<Instant>>,
}

impl Alarm {
    /// Rings now.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Rings at a moment, unless it rings sooner anyway. Kept in memory only: the sweeper rings too.
    pub(crate) fn set(&self, at: DateTime<Utc>, now: DateTime<Utc>) {
        let wait = (at - now).to_std().unwrap_or(Duration::ZERO);
        let at = Instant::now() + wait;
        let mut next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if next.is_none_or(|set| at < set) {
            *next = Some(at);
            drop(next);
            // The waiting task takes the earlier moment into account.
            self.bell.notify_one();
        }
    }

    /// Waits until it rings.
    pub(crate) async fn rung(&self) {
        let at = *self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match at {
            None => self.bell.notified().await,
            Some(at) => tokio::select! {
                () = self.bell.notified() => {}
                () = tokio::time::sleep_until(at) => {
                    let mut next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if next.is_some_and(|set| set <= at) {
                        *next = None;
                    }
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_the_earliest_moment_it_was_set_to() {
        let alarm = Alarm::default();
        let now = DateTime::UNIX_EPOCH;
        let start = Instant::now();
        alarm.set(now + TimeDelta::seconds(9), now);
        alarm.rung().await; // being set wakes the waiter once
        alarm.set(now + TimeDelta::seconds(2), now);
        alarm.rung().await;
        alarm.rung().await;
        assert_eq!(Instant::now() - start, Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_before_the_wait_is_not_lost() {
        let alarm = Alarm::default();
        alarm.ring();
        alarm.rung().await;
    }
}
