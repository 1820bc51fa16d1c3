//! An alarm: rings when told to, and at the moments that it was set to.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// The most moments that are kept; of more, the latest are left to the sweeper.
const MOST: usize = 4_096;

/// Wakes one waiting task, at once or later. Ringing twice before it wakes is ringing once.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    bell: Notify,
    /// There is an earlier moment now: the waiting task waits for that instead.
    earlier: Notify,
    /// When to ring at the latest, and from when on a ring will do.
    moments: Mutex<BTreeSet<(Instant, Instant)>>,
}

impl Alarm {
    /// Rings now.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Rings at a moment. Kept in memory only: the sweeper rings too.
    pub(crate) fn set(&self, at: DateTime<Utc>, now: DateTime<Utc>) {
        self.set_between(at, at, now);
    }

    /// Rings once between two moments, at the later one unless another ring comes before: moments that lie close
    /// together are one ring.
    pub(crate) fn set_between(&self, from: DateTime<Utc>, to: DateTime<Utc>, now: DateTime<Utc>) {
        let start = Instant::now();
        let after = |moment: DateTime<Utc>| start + (moment - now).to_std().unwrap_or(Duration::ZERO);
        let mut moments = self.lock();
        let first = moments.first().copied();
        moments.insert((after(to), after(from)));
        if moments.len() > MOST {
            moments.pop_last();
        }
        if moments.first().copied() != first {
            self.earlier.notify_one();
        }
    }

    /// Waits until it rings.
    pub(crate) async fn rung(&self) {
        loop {
            let at = self.lock().first().map(|(at, _)| *at);
            tokio::select! {
                () = self.bell.notified() => break,
                () = self.earlier.notified() => {}
                () = until(at) => break,
            }
        }
        // Only a task that was woken clears anything: one that gives up waiting does not come here.
        let now = Instant::now();
        self.lock().retain(|(_, from)| *from > now);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(Instant, Instant)>> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner)
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
    async fn it_rings_once_at_each_moment_that_it_was_set_to() {
        let alarm = Alarm::default();
        let now = DateTime::UNIX_EPOCH;
        let start = Instant::now();
        alarm.set(now + TimeDelta::seconds(9), now);
        alarm.set(now + TimeDelta::seconds(2), now);
        for seconds in [2, 9] {
            alarm.rung().await;
            assert_eq!(Instant::now() - start, Duration::from_secs(seconds));
        }
        let again = tokio::time::timeout(Duration::from_mins(1), alarm.rung()).await;
        assert!(again.is_err(), "it rang again without being set");
    }

    #[tokio::test(start_paused = true)]
    async fn moments_that_may_wait_for_each_other_are_one_ring() {
        let alarm = Alarm::default();
        let now = DateTime::UNIX_EPOCH;
        let start = Instant::now();
        let at = |ms| now + TimeDelta::milliseconds(ms);
        for ms in [1_000, 1_020, 1_080, 1_120] {
            alarm.set_between(at(ms), at(ms + 100), now);
        }
        for ms in [1_100, 1_220] {
            alarm.rung().await;
            assert_eq!(Instant::now() - start, Duration::from_millis(ms));
        }
        assert!(alarm.lock().is_empty());
        for n in 0..2 * i64::try_from(MOST).unwrap() {
            alarm.set(at(2_000 + n), now);
        }
        assert_eq!(alarm.lock().len(), MOST);
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
