//! The gate in front of MUX: tests hold requests at it, so that they know what is in flight.

use std::time::Duration;

use dat_plan::mux::PROBE;
use tokio::sync::watch;

/// Lets requests pass, but for those whose action matches a held pattern. What is held is not kept across a restart:
/// a held request is not acknowledged, so the broker delivers it again.
#[derive(Debug)]
pub(crate) struct Gate {
    patterns: watch::Sender<Vec<String>>,
    held: watch::Sender<u64>,
}

impl Gate {
    /// A gate that stands open.
    pub(crate) fn new() -> Self {
        Self { patterns: watch::Sender::new(Vec::new()), held: watch::Sender::new(0) }
    }

    /// Holds what matches from now on.
    pub(crate) fn hold(&self, pattern: String) {
        self.patterns.send_modify(|patterns| patterns.push(pattern));
    }

    /// Opens the gate for everything.
    pub(crate) fn release(&self) {
        self.patterns.send_replace(Vec::new());
    }

    /// How many requests stand at the gate.
    pub(crate) fn held(&self) -> u64 {
        *self.held.borrow()
    }

    /// Waits until so many requests stand at the gate, but not longer than `patience`; says how many do.
    pub(crate) async fn at_least(&self, count: u64, patience: Duration) -> u64 {
        let mut held = self.held.subscribe();
        // Both ends of the wait are answered by what stands at the gate.
        let _ = tokio::time::timeout(patience, held.wait_for(|now| *now >= count)).await;
        self.held()
    }

    /// Whether an action is held now.
    pub(crate) fn holds(&self, action: &str) -> bool {
        any_holds(&self.patterns.borrow(), action)
    }

    /// Returns when no held pattern matches.
    pub(crate) async fn pass(&self, action: &str) {
        let mut patterns = self.patterns.subscribe();
        if !any_holds(&patterns.borrow_and_update(), action) {
            return;
        }
        let _place = Place::take(&self.held);
        // The sender lives in `self`, so the wait cannot fail.
        let _ = patterns.wait_for(|now| !any_holds(now, action)).await;
    }
}

/// A place at the gate, given up when the request goes on or is dropped.
struct Place<'a>(&'a watch::Sender<u64>);

impl<'a> Place<'a> {
    fn take(held: &'a watch::Sender<u64>) -> Self {
        held.send_modify(|held| *held += 1);
        Self(held)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|held| *held = held.saturating_sub(1));
    }
}

fn any_holds(patterns: &[String], action: &str) -> bool {
    patterns.iter().any(|pattern| holds(pattern, action))
}

/// Whether a pattern holds an action. A test that holds every action still wants to ask about it: probes pass.
fn holds(pattern: &str, action: &str) -> bool {
    if action == PROBE { pattern == PROBE } else { matches(pattern, action) }
}

/// Whether a text matches a pattern in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).any(|n| tail.get(n..).is_some_and(|end| matches(rest, end)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        assert!(matches("*", "") && matches("*", "ads.on") && matches("ads.*", "ads.on"));
        assert!(matches("*.create", "listing.create") && matches("a*b*c", "aXbYc") && matches("a", "a"));
        assert!(!matches("ads.*", "listing.create") && !matches("a", "ab") && !matches("a*c", "ab"));
    }

    #[test]
    fn every_action_is_held_by_a_star_but_no_probe() {
        assert!(holds("*", "ads.on") && !holds("*", PROBE) && holds(PROBE, PROBE));
    }

    #[tokio::test]
    async fn what_is_held_waits_for_the_release() {
        let gate = Arc::new(Gate::new());
        gate.hold("ads.*".to_owned());
        gate.pass("listing.create").await;
        let held = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.pass("ads.on").await }
        });
        assert_eq!(gate.at_least(1, Duration::from_secs(10)).await, 1);
        assert!(!held.is_finished());
        gate.release();
        held.await.expect("passed");
        assert_eq!(gate.held(), 0);
    }
}
