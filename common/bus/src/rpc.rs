//! Request and reply. What matters to a caller is whether a request without an answer may have had an effect, so the
//! error says that first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use crate::calls::{Aside, Calls, Waiting};
use crate::consumer::Consumer;
use crate::delivery::Received;
use crate::message::Message;
use crate::outgoing::Outgoing;
use crate::publisher::{PublishError, Publisher};
use crate::receipt::Receipt;
use crate::subscription::Bound;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The request has not left, or the broker handed it back: it had no effect, and may be sent again.
    #[error("the request was not sent: {0}")]
    NotSent(NotSent),
    /// The request may have left, and may have had its effect: ask the other side before it is sent again.
    #[error("the request may have been sent: {0}")]
    MaybeSent(MaybeSent),
}

/// Why a request was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// There is no queue for the answer at the moment.
    #[error("there is no connection to receive the answer on")]
    NoReplyQueue,
    /// There was no channel to publish on.
    #[error(transparent)]
    NoChannel(PublishError),
    /// No queue takes the request.
    #[error("no queue takes it: {reply_text}; is the other side set up?")]
    Unroutable {
        /// The broker's reason.
        reply_text: String,
    },
}

/// Why the fate of a request is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaybeSent {
    /// No answer came until the deadline.
    #[error("no answer came in time")]
    NoAnswer,
    /// The queue for the answer went with its connection.
    #[error("the connection to receive the answer on was lost")]
    ReplyQueueLost,
    /// The broker neither confirmed the request nor handed it back.
    #[error("the broker did not confirm it: {0}")]
    Unconfirmed(PublishError),
    /// The broker refused it, which one queue of several may do.
    #[error("the broker did not accept it everywhere")]
    Nacked,
}

/// Sends requests and awaits their answers, on one exclusive reply queue. Cheap to clone; calls run at once, as many as
/// the caller starts.
#[derive(Clone)]
pub struct RpcClient {
    publisher: Publisher,
    bound: watch::Receiver<Option<Bound>>,
    pending: Arc<Pending>,
    _stop: Arc<DropGuard>,
}

#[derive(Default)]
struct Pending {
    /// Distinguishes clients in the correlation ids, for whoever reads a log of several.
    nonce: u64,
    begun: AtomicU64,
    late: AtomicU64,
    calls: Mutex<Calls>,
}

/// A call that is waited for, until this is dropped.
struct Entry<'a> {
    pending: &'a Pending,
    correlation_id: &'a str,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.pending.calls().end(self.correlation_id);
    }
}

impl RpcClient {
    pub(crate) fn start(publisher: Publisher, replies: Consumer) -> Self {
        let stop = CancellationToken::new();
        let pending = Arc::new(Pending { nonce: fastrand::u64(..), ..Pending::default() });
        let bound = replies.bound.clone();
        let router = Arc::clone(&pending).route(replies);
        tokio::spawn(stop.clone().run_until_cancelled_owned(router));
        Self { publisher, bound, pending, _stop: Arc::new(stop.drop_guard()) }
    }

    /// Waits until requests can be sent and answered. Returns as well when the bus has shut down.
    pub async fn ready(&self) {
        let _ = self.bound.clone().wait_for(Option::is_some).await;
        self.publisher.ready().await;
    }

    /// How many answers came after their call had ended.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.pending.late.load(Ordering::Relaxed)
    }

    /// Sends a request and waits for its answer until `deadline`. `reply_to`, `correlation_id` and `mandatory` are set
    /// here. Does not wait for a connection: what the caller has checked before sending should still hold when the
    /// request leaves.
    pub async fn call(&self, request: Message, deadline: Instant) -> Result<Received, RpcError> {
        self.ask(request, deadline, None).await
    }

    /// The same, and `aside` hears what comes besides: what is not the answer, and the answer where it comes after the
    /// call has ended without one. Of these calls the last 4,096 are remembered, each for ten minutes, as long as the
    /// queue for the answers is there.
    pub async fn call_with(
        &self,
        request: Message,
        deadline: Instant,
        aside: Arc<dyn Aside>,
    ) -> Result<Received, RpcError> {
        self.ask(request, deadline, Some(aside)).await
    }

    async fn ask(
        &self,
        request: Message,
        deadline: Instant,
        aside: Option<Arc<dyn Aside>>,
    ) -> Result<Received, RpcError> {
        let not_sent = |reason| RpcError::NotSent(reason);
        let bound = self.bound.borrow().clone().ok_or(not_sent(NotSent::NoReplyQueue))?;
        let number = self.pending.begun.fetch_add(1, Ordering::Relaxed);
        let correlation_id = format!("{:016x}-{number}", self.pending.nonce);
        let request = request.reply_to(bound.queue).correlation_id(&correlation_id).mandatory(true);
        let request =
            Outgoing::try_from(request).map_err(|error| not_sent(NotSent::NoChannel(error.into())))?;
        let (answer, mut answered) = oneshot::channel();
        let waiting = Waiting { generation: bound.generation, answer, aside };
        self.pending.calls().begin(correlation_id.clone(), waiting);
        let _entry = Entry { pending: &self.pending, correlation_id: &correlation_id };

        let lease =
            self.publisher.lease(deadline).await.map_err(|error| not_sent(NotSent::NoChannel(error)))?;
        if Instant::now() >= deadline {
            return Err(not_sent(NotSent::NoChannel(PublishError::TimedOut)));
        }
        let send = self.publisher.send(lease, vec![request], deadline);
        // The answer may overtake the confirm, and is worth more.
        let unanswered = async {
            if let Err(error) = sent(send.await) {
                return error;
            }
            sleep_until(deadline).await;
            RpcError::MaybeSent(MaybeSent::NoAnswer)
        };
        tokio::select! {
            biased;
            answer = &mut answered => answer.map_err(|_| RpcError::MaybeSent(MaybeSent::ReplyQueueLost)),
            error = unanswered => {
                if matches!(error, RpcError::MaybeSent(_)) {
                    // From here on an answer is late; one that is not has been handed over before.
                    self.pending.calls().lapse(&correlation_id, Instant::now());
                }
                answered.try_recv().map_err(|_| error)
            }
        }
    }
}

/// What the outcome of publishing a request says of it.
fn sent(outcome: Result<Vec<Receipt>, PublishError>) -> Result<(), RpcError> {
    match outcome.map(|receipts| receipts.into_iter().next()) {
        Ok(Some(Receipt::Confirmed)) => Ok(()),
        Ok(Some(Receipt::Returned { reply_text })) => {
            Err(RpcError::NotSent(NotSent::Unroutable { reply_text }))
        }
        Ok(Some(Receipt::Nacked) | None) => Err(RpcError::MaybeSent(MaybeSent::Nacked)),
        Err(PublishError::TimedOut) => Err(RpcError::MaybeSent(MaybeSent::NoAnswer)),
        Err(error) => Err(RpcError::MaybeSent(MaybeSent::Unconfirmed(error))),
    }
}

impl Pending {
    async fn route(self: Arc<Self>, mut replies: Consumer) {
        let mut bound = replies.bound.clone();
        loop {
            let reply = tokio::select! {
                // Answers that are here go to their calls before the calls hear that their queue is gone.
                biased;
                reply = replies.next() => reply,
                changed = bound.changed() => match changed {
                    Ok(()) => {
                        let generation = bound.borrow_and_update().as_ref().map(|bound| bound.generation);
                        self.calls().moved_to(generation);
                        continue;
                    }
                    Err(_) => None,
                },
            };
            let Some(reply) = reply else { break };
            self.hand_over(reply.message);
        }
        self.calls().clear();
    }

    fn hand_over(&self, message: Received) {
        let id = message.correlation_id.clone().unwrap_or_default();
        let aside = self.calls().aside(&id);
        if aside.is_some_and(|aside| aside.interim(&message)) {
            return;
        }
        let late = self.calls().hand_over(&id, message, Instant::now());
        let Some((answer, aside)) = late else { return };
        self.late.fetch_add(1, Ordering::Relaxed);
        debug!(correlation_id = id, "an answer came after its call had ended");
        if let Some(aside) = aside {
            aside.late(answer);
        }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
