//! The attempts that run in this worker: their leases are renewed, and what their connectors tell of them is stored.
//!
//! **Owns** both lists and the one loop over them. **Called** by the Dispatcher, which adds and removes, and by
//! connectors' listeners, which do not wait. **Must never** hold its lock across a wait.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dat_plan::{Progress, UnitKey};
use dat_store::Lease;
use tokio::time::Instant;

use crate::fleet::Fleet;

/// How an attempt is doing is stored once in so long at most.
const EVERY: Duration = Duration::from_secs(1);

/// The attempts that run in this worker.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<BTreeMap<UnitKey, Attempt>>);

#[derive(Debug)]
struct Attempt {
    lease: Lease,
    /// The last that was told and is not stored.
    news: Option<Progress>,
    /// When something was stored.
    stored: Option<Instant>,
}

impl Running {
    /// An attempt begins.
    pub(crate) fn add(&self, lease: &Lease) {
        self.lock().insert(lease.unit, Attempt { lease: lease.clone(), news: None, stored: None });
    }

    /// Stops renewing; gives whether it was being renewed.
    pub(crate) fn remove(&self, unit: &UnitKey) -> bool {
        self.lock().remove(unit).is_some()
    }

    /// How far the attempt under this lease is. One that has ended has nothing to tell.
    pub(crate) fn told(&self, lease: &Lease, progress: Progress) {
        if let Some(attempt) = self.lock().get_mut(&lease.unit)
            && attempt.lease.epoch == lease.epoch
        {
            attempt.news = Some(progress);
        }
    }

    /// What is to be stored now.
    fn news(&self, now: Instant) -> Vec<(Lease, Progress)> {
        let mut news = Vec::new();
        for attempt in self.lock().values_mut() {
            if attempt.stored.is_none_or(|stored| now.saturating_duration_since(stored) >= EVERY)
                && let Some(progress) = attempt.news.take()
            {
                attempt.stored = Some(now);
                news.push((attempt.lease.clone(), progress));
            }
        }
        news
    }

    /// What was not stored after all is told again, unless there is something newer.
    fn keep(&self, news: Vec<(Lease, Progress)>) {
        let mut running = self.lock();
        for (lease, progress) in news {
            if let Some(attempt) = running.get_mut(&lease.unit).filter(|one| one.lease.epoch == lease.epoch) {
                attempt.news.get_or_insert(progress);
            }
        }
    }

    fn leases(&self) -> Vec<Lease> {
        self.lock().values().map(|attempt| attempt.lease.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<UnitKey, Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews what runs, at a third of the lease, and stores what is told, until the last attempt has ended.
    pub(crate) async fn renew(&self, fleet: &Fleet) {
        let every = Duration::from_millis(fleet.settings.lease_ms / 3);
        let beat = every.min(EVERY);
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(beat).await;
            self.store(fleet).await;
            // At the last beat within a third, so that none is renewed later than that.
            if renewed.elapsed() + beat <= every {
                continue;
            }
            renewed = Instant::now();
            let leases = self.leases();
            if leases.is_empty() {
                continue;
            }
            match fleet.store.renew(&leases, fleet.lease_end(fleet.now())).await {
                Ok(lost) => self.lose(lost),
                Err(error) => tracing::warn!(%error, "leases were not renewed"),
            }
        }
    }

    async fn store(&self, fleet: &Fleet) {
        let news = self.news(Instant::now());
        if news.is_empty() {
            return;
        }
        let now = fleet.now();
        match fleet.store.progress(&news, fleet.lease_end(now), now).await {
            Ok(lost) => self.lose(lost),
            Err(error) => {
                tracing::warn!(%error, "what connectors tell of their progress was not stored");
                self.keep(news);
            }
        }
    }

    fn lose(&self, lost: Vec<UnitKey>) {
        // An attempt that ended meanwhile has left the list: its row is not running because it is settled.
        for unit in lost.into_iter().filter(|unit| self.remove(unit)) {
            tracing::warn!(plan = %unit.plan, step = unit.index, "its lease was lost; what comes of it is not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use dat_plan::{PlanKey, UnitKind};
    use uuid::Uuid;

    use super::*;

    fn lease(epoch: i64) -> Lease {
        let unit = UnitKey { plan: PlanKey::new(Uuid::nil(), 1), kind: UnitKind::Action, index: 0 };
        Lease { unit, epoch, until: DateTime::UNIX_EPOCH }
    }

    fn at(done: i64) -> Progress {
        Progress { done: Some(done), ..Progress::default() }
    }

    #[test]
    fn how_far_an_attempt_is_is_stored_once_a_second_and_the_last_word_counts() {
        let (running, begin) = (Running::default(), Instant::now());
        let told = |after_ms| running.news(begin + Duration::from_millis(after_ms));
        running.add(&lease(1));
        assert_eq!(told(0), []);
        running.told(&lease(1), at(1));
        running.told(&lease(1), at(2));
        assert_eq!(told(0), [(lease(1), at(2))]);
        running.told(&lease(1), at(3));
        assert_eq!(told(999), []);
        assert_eq!(told(1_000), [(lease(1), at(3))]);
        assert_eq!(told(5_000), [], "nothing new");
    }

    #[test]
    fn what_an_attempt_before_is_told_of_is_not_the_present_ones() {
        let (running, now) = (Running::default(), Instant::now());
        running.add(&lease(2));
        running.told(&lease(1), at(1));
        assert_eq!(running.news(now), []);
        // What was not stored is told again, but for something newer.
        running.keep(vec![(lease(1), at(4)), (lease(2), at(5))]);
        running.told(&lease(2), at(6));
        running.keep(vec![(lease(2), at(5))]);
        assert_eq!(running.news(now), [(lease(2), at(6))]);
        running.remove(&lease(2).unit);
        running.told(&lease(2), at(7));
        assert_eq!(running.news(now), []);
    }
}
