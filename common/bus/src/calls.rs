//! The calls of one client: those that wait for their answer, and for a while those that ended without one, so that an
//! answer that comes late finds whom it is for.
//!
//! **Owns** both tables and their bounds. **Used** by [`crate::RpcClient`] alone. **Must never** wait, nor call anybody:
//! it is held under a lock.
//!
//! What is remembered is bounded: the last [`REMEMBERED`] calls that ended without an answer, each for
//! [`REMEMBERED_FOR`], a correlation id and a pointer each, so less than a megabyte. An answer to one that is forgotten is
//! counted, and nothing else.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::delivery::Received;

/// So many calls without an answer are remembered; the oldest makes room.
pub(crate) const REMEMBERED: usize = 4_096;

/// So long each of them is. The queue for answers does not outlive its connection, nor does what is remembered.
pub(crate) const REMEMBERED_FOR: Duration = Duration::from_mins(10);

/// What a caller hears of a call beside its one answer. It is told by the task that hands out everybody's answers: it
/// must not wait, and must not panic.
pub trait Aside: Send + Sync {
    /// A message came to the call. True: it was taken, and is not the answer. False: it is the answer.
    fn interim(&self, message: &Received) -> bool;

    /// The answer came, after the call had ended without one.
    fn late(&self, answer: Received);
}

/// A call that is waited for.
pub(crate) struct Waiting {
    /// The channel of the reply queue that the request named.
    pub(crate) generation: u64,
    /// Where its answer goes.
    pub(crate) answer: oneshot::Sender<Received>,
    /// Who hears the rest.
    pub(crate) aside: Option<Arc<dyn Aside>>,
}

/// An answer whose call had ended, and who is to be told, where that is remembered.
pub(crate) type Late = (Received, Option<Arc<dyn Aside>>);

#[derive(Default)]
pub(crate) struct Calls {
    waiting: HashMap<String, Waiting>,
    lapsed: HashMap<String, (Instant, Arc<dyn Aside>)>,
    /// The lapsed by age; some were answered meanwhile.
    ages: VecDeque<(Instant, String)>,
}

impl Calls {
    /// A call begins.
    pub(crate) fn begin(&mut self, id: String, waiting: Waiting) {
        self.waiting.insert(id, waiting);
    }

    /// A call ended, and nobody wants to know of a late answer.
    pub(crate) fn end(&mut self, id: &str) {
        self.waiting.remove(id);
    }

    /// A call ended though its request may have been sent.
    pub(crate) fn lapse(&mut self, id: &str, now: Instant) {
        let Some(aside) = self.waiting.remove(id).and_then(|waiting| waiting.aside) else { return };
        while self.ages.front().is_some_and(|(until, _)| *until <= now) || self.ages.len() >= REMEMBERED {
            let Some((_, oldest)) = self.ages.pop_front() else { break };
            self.lapsed.remove(&oldest);
        }
        let until = now + REMEMBERED_FOR;
        self.ages.push_back((until, id.to_owned()));
        self.lapsed.insert(id.to_owned(), (until, aside));
    }

    /// Who hears what comes to a call beside its answer.
    pub(crate) fn aside(&self, id: &str) -> Option<Arc<dyn Aside>> {
        match self.waiting.get(id) {
            Some(waiting) => waiting.aside.clone(),
            None => self.lapsed.get(id).map(|(_, aside)| Arc::clone(aside)),
        }
    }

    /// Gives an answer to its call; gives it back where that has ended.
    pub(crate) fn hand_over(&mut self, id: &str, answer: Received, now: Instant) -> Option<Late> {
        if let Some(waiting) = self.waiting.remove(id) {
            return waiting.answer.send(answer).err().map(|answer| (answer, waiting.aside));
        }
        let aside = self.lapsed.remove(id).filter(|(until, _)| now < *until).map(|(_, aside)| aside);
        Some((answer, aside))
    }

    /// The queue for answers is another: what was asked for the one before is answered no more.
    pub(crate) fn moved_to(&mut self, generation: Option<u64>) {
        self.waiting.retain(|_, waiting| Some(waiting.generation) == generation);
        self.lapsed.clear();
        self.ages.clear();
    }

    /// No answer comes any more.
    pub(crate) fn clear(&mut self) {
        self.moved_to(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Deaf;

    impl Aside for Deaf {
        fn interim(&self, _: &Received) -> bool {
            false
        }

        fn late(&self, _: Received) {}
    }

    fn lapsed(calls: &mut Calls, id: &str, now: Instant) {
        let (answer, _) = oneshot::channel();
        calls.begin(id.to_owned(), Waiting { generation: 1, answer, aside: Some(Arc::new(Deaf)) });
        calls.lapse(id, now);
    }

    fn is_told(calls: &mut Calls, id: &str, now: Instant) -> bool {
        matches!(calls.hand_over(id, Received::default(), now), Some((_, Some(_))))
    }

    #[test]
    fn what_ended_without_an_answer_is_remembered_once_and_for_a_while() {
        let (mut calls, now) = (Calls::default(), Instant::now());
        lapsed(&mut calls, "a", now);
        lapsed(&mut calls, "b", now);
        assert!(is_told(&mut calls, "a", now));
        assert!(!is_told(&mut calls, "a", now), "an answer that comes twice is late once");
        assert!(!is_told(&mut calls, "b", now + REMEMBERED_FOR), "and not for ever");
        lapsed(&mut calls, "c", now);
        calls.moved_to(Some(2));
        assert!(!is_told(&mut calls, "c", now), "the queue that it would come on is gone");
    }

    #[test]
    fn what_is_remembered_is_bounded_however_many_end_without_an_answer() {
        let (mut calls, now) = (Calls::default(), Instant::now());
        for number in 0..REMEMBERED + 3 {
            lapsed(&mut calls, &number.to_string(), now);
        }
        assert_eq!((calls.lapsed.len(), calls.ages.len(), calls.waiting.len()), (REMEMBERED, REMEMBERED, 0));
        assert!(!is_told(&mut calls, "2", now) && is_told(&mut calls, "3", now), "the oldest make room");
        // What is too old makes room by itself.
        lapsed(&mut calls, "later", now + REMEMBERED_FOR);
        assert_eq!((calls.lapsed.len(), calls.ages.len()), (1, 1));
    }
}
