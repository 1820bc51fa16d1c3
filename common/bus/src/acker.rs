//! Settling deliveries, from any task.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tracing::debug;

use crate::delivery::DeliveryToken;

/// Settles the deliveries of one consumer. Cheap to clone.
///
/// Settling queues a few bytes on the connection and waits for nothing. What is lost with the connection needs no
/// repair: the broker delivers an unsettled message again.
#[derive(Clone, Default)]
pub struct Acker {
    open: Arc<Mutex<Option<Open>>>,
}

/// The channel that deliveries come from now, and what was not settled yet.
struct Open {
    generation: u64,
    channel: Channel,
    outstanding: BTreeSet<u64>,
}

/// One answer to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settlement {
    tag: u64,
    /// This tag and every lower one that is outstanding.
    multiple: bool,
}

impl Acker {
    /// Says that what these deliveries caused is stored. A token that was settled before, or whose channel is gone, is
    /// passed over.
    pub fn ack(&self, tokens: &[DeliveryToken]) {
        self.settle(tokens, |channel, Settlement { tag, multiple }| {
            channel.basic_ack(tag, BasicAckOptions { multiple }).now_or_never()
        });
    }

    /// Puts the messages back into their queue. This counts towards the queue's delivery limit, so it is for handing
    /// work to another worker, and not for waiting until a database is back.
    pub fn nack_requeue(&self, tokens: &[DeliveryToken]) {
        self.settle(tokens, |channel, Settlement { tag, multiple }| {
            channel.basic_nack(tag, BasicNackOptions { multiple, requeue: true }).now_or_never()
        });
    }

    /// How many deliveries are not settled.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.lock().as_ref().map_or(0, |open| open.outstanding.len())
    }

    pub(crate) fn open(&self, generation: u64, channel: Channel) {
        *self.lock() = Some(Open { generation, channel, outstanding: BTreeSet::new() });
    }

    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    /// Whether a token of this generation can still be settled.
    pub(crate) fn is_open(&self, generation: u64) -> bool {
        self.lock().as_ref().is_some_and(|open| open.generation == generation)
    }

    pub(crate) fn note(&self, token: DeliveryToken) {
        if let Some(open) = self.lock().as_mut().filter(|open| open.generation == token.generation) {
            open.outstanding.insert(token.tag);
        }
    }

    /// The first poll of lapin's futures queues the answer, and the rest waits for the socket; so polling once under the
    /// lock keeps the answers in the order in which tags left `outstanding`. Out of that order a `multiple` would settle
    /// a tag before its own answer does, and for settling one twice the broker closes the channel.
    fn settle(
        &self,
        tokens: &[DeliveryToken],
        answer: impl Fn(&Channel, Settlement) -> Option<lapin::Result<()>>,
    ) {
        let mut open = self.lock();
        let Some(open) = open.as_mut() else { return };
        let tags = tokens.iter().filter(|token| token.generation == open.generation).map(|token| token.tag);
        for settlement in settlements(&mut open.outstanding, tags) {
            if let Some(Err(error)) = answer(&open.channel, settlement) {
                debug!(%error, "not settled: the broker delivers it again");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fewest answers that settle these tags and no other: one `multiple` up to the first tag that stays outstanding,
/// then one for each.
fn settlements(outstanding: &mut BTreeSet<u64>, tags: impl Iterator<Item = u64>) -> Vec<Settlement> {
    let mut tags: Vec<u64> = tags.filter(|tag| outstanding.remove(tag)).collect();
    tags.sort_unstable();
    let bound = outstanding.first().copied().unwrap_or(u64::MAX);
    let (below, above) = tags.split_at(tags.partition_point(|tag| *tag < bound));
    let together = below.last().map(|tag| Settlement { tag: *tag, multiple: below.len() > 1 });
    let singly = above.iter().map(|tag| Settlement { tag: *tag, multiple: false });
    together.into_iter().chain(singly).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(outstanding: &mut BTreeSet<u64>, tags: &[u64]) -> Vec<(u64, bool)> {
        settlements(outstanding, tags.iter().copied()).iter().map(|one| (one.tag, one.multiple)).collect()
    }

    #[test]
    fn everything_up_to_the_highest_is_one_answer() {
        let mut outstanding = BTreeSet::from([1, 2, 3, 4]);
        assert_eq!(settle(&mut outstanding, &[3, 1, 2]), [(3, true)]);
        assert_eq!(settle(&mut outstanding, &[4]), [(4, false)]);
    }

    #[test]
    fn what_stays_outstanding_is_not_settled_with_the_rest() {
        let mut outstanding = BTreeSet::from([1, 2, 3, 4, 5, 6]);
        assert_eq!(settle(&mut outstanding, &[1, 2, 4, 5]), [(2, true), (4, false), (5, false)]);
        assert_eq!(outstanding, BTreeSet::from([3, 6]));
        assert_eq!(settle(&mut outstanding, &[3]), [(3, false)]);
    }

    #[test]
    fn a_tag_is_settled_once() {
        let mut outstanding = BTreeSet::from([1, 2]);
        assert_eq!(settle(&mut outstanding, &[1, 1]), [(1, false)]);
        assert_eq!(settle(&mut outstanding, &[1]), []);
    }
}
