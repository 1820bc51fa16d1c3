//! Whose transactions are in the database: a tenant's claims and outcomes of this worker, one at a time.
//!
//! Everything that a tenant spends locks the same rows, its accounts of the day and the year. Two transactions of one
//! tenant at once are therefore one that works and one that waits with a connection; those that wait here instead come as
//! one larger transaction afterwards, whose cost they share (group commit).
//!
//! **Owns** which tenants are under way. **May be called** by the committer of outcomes, which takes what is free, and by
//! the Dispatcher, which waits: one claim at a time. **Must never** be held across anything but one transaction.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The lanes of one worker.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    state: Mutex<State>,
    /// For the claim that waits.
    freed: Notify,
    /// For the committer, which looks again: kept until it does.
    look_again: Notify,
}

#[derive(Debug, Default)]
struct State {
    busy: BTreeSet<String>,
    /// What a claim waits for: outcomes that come meanwhile wait for the claim, or it would wait for ever.
    wanted: BTreeSet<String>,
}

/// Lanes that are taken; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Lane {
    lanes: Arc<Lanes>,
    tenants: BTreeSet<String>,
}

impl Lanes {
    /// Takes the lanes of those tenants that are free; nothing where none is.
    pub(crate) fn take_free(self: &Arc<Self>, tenants: impl IntoIterator<Item = String>) -> Option<Lane> {
        let mut state = self.lock();
        let free: BTreeSet<String> = tenants
            .into_iter()
            .filter(|tenant| !state.busy.contains(tenant) && !state.wanted.contains(tenant))
            .collect();
        state.busy.extend(free.iter().cloned());
        (!free.is_empty()).then(|| Lane { lanes: Arc::clone(self), tenants: free })
    }

    /// Takes the lanes of all these tenants, once all are free. One caller at a time.
    pub(crate) async fn take(self: &Arc<Self>, tenants: BTreeSet<String>) -> Lane {
        let wanting = Wanting(self);
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Enlisted before the look: what is freed in between is not missed.
            freed.as_mut().enable();
            {
                let mut state = self.lock();
                if state.busy.is_disjoint(&tenants) {
                    state.busy.extend(tenants.iter().cloned());
                    drop(state);
                    drop(wanting);
                    return Lane { lanes: Arc::clone(self), tenants };
                }
                state.wanted.clone_from(&tenants);
            }
            freed.await;
        }
    }

    /// Returns once lanes have become free since the last time.
    pub(crate) async fn freed(&self) {
        self.look_again.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A claim that waits; nothing waits for it any more when it is dropped.
struct Wanting<'a>(&'a Arc<Lanes>);

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.lock().wanted.clear();
        self.0.look_again.notify_one();
    }
}

impl Lane {
    /// Whether it holds this tenant's.
    pub(crate) fn holds(&self, tenant: &str) -> bool {
        self.tenants.contains(tenant)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = self.lanes.lock();
        for tenant in &self.tenants {
            state.busy.remove(tenant);
        }
        drop(state);
        self.lanes.freed.notify_waiters();
        self.lanes.look_again.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn set(tenants: &[&str]) -> BTreeSet<String> {
        tenants.iter().map(|tenant| (*tenant).to_owned()).collect()
    }

    fn free(lanes: &Arc<Lanes>, tenants: &[&str]) -> Option<Lane> {
        lanes.take_free(set(tenants))
    }

    #[test]
    fn a_tenant_is_under_way_once_and_others_pass() {
        let lanes = Arc::new(Lanes::default());
        let first = free(&lanes, &["a", "b"]).expect("both are free");
        let second = free(&lanes, &["b", "c"]).expect("one is free");
        assert!(first.holds("a") && first.holds("b") && second.holds("c") && !second.holds("b"));
        assert!(free(&lanes, &["b", "c"]).is_none());
        drop(first);
        assert!(free(&lanes, &["b"]).is_some());
    }

    #[test]
    fn a_claim_waits_for_all_of_its_tenants_and_outcomes_wait_for_it() {
        let lanes = Arc::new(Lanes::default());
        let flight = free(&lanes, &["a"]);
        let mut claim = Box::pin(lanes.take(set(&["a", "b"])));
        assert!(claim.as_mut().now_or_never().is_none());
        assert!(free(&lanes, &["b"]).is_none(), "a claim waits for it");
        drop(flight);
        let claimed = claim.as_mut().now_or_never().expect("all are free");
        assert!(claimed.holds("a") && claimed.holds("b"));
        assert!(free(&lanes, &["a"]).is_none());
        drop(claimed);
        assert!(free(&lanes, &["a", "b"]).is_some_and(|lane| lane.holds("b")));
    }

    #[test]
    fn a_claim_that_is_given_up_holds_nobody_back() {
        let lanes = Arc::new(Lanes::default());
        let flight = free(&lanes, &["a"]);
        let mut claim = Box::pin(lanes.take(set(&["a", "b"])));
        assert!(claim.as_mut().now_or_never().is_none());
        drop(claim);
        assert!(free(&lanes, &["b"]).is_some());
        drop(flight);
    }

    #[test]
    fn the_committer_is_told_of_what_became_free_before_it_asked() {
        let lanes = Arc::new(Lanes::default());
        drop(free(&lanes, &["a"]));
        assert!(lanes.freed().now_or_never().is_some());
        assert!(free(&lanes, &[]).is_none(), "and nothing that is free tells of nothing");
        assert!(lanes.freed().now_or_never().is_none());
    }
}
