//! MUX's desk: the queue `mux.actions`. Each request is a task of its own; it waits at the gate, takes the time that it
//! is told to take, and is then decided in one change of the store.

use std::sync::Arc;
use std::time::Duration;

use dat_bus::{Consumer, Delivery, Message, Received};
use dat_plan::Progress;
use dat_plan::mux::{ActionRequest, PROBE, PROGRESS, ProbeRequest, ProgressReport};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::answers::{self, Answer};
use crate::behaviour::Behaviour;
use crate::mux::{Moment, Settlement, no_word};
use crate::report::RequestStatus;
use crate::store::{StoreError, mux};
use crate::world::World;

/// Answers that may wait for the broker.
const WAITING: usize = 1024;

/// Serves until `stop`, then finishes what does not wait; the broker delivers the rest again.
pub(super) async fn run(
    world: Arc<World>,
    consumer: Consumer,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let (answer, answers) = mpsc::channel(WAITING);
    let sending = answers::run(answers, world.herald.clone(), consumer.acker());
    let (served, ()) = tokio::join!(take_in(world, consumer, answer, stop), sending);
    served
}

/// Starts a task for each delivery. The answers end with the last of them.
async fn take_in(
    world: Arc<World>,
    mut consumer: Consumer,
    answer: mpsc::Sender<Answer>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let mut tasks: JoinSet<Result<(), StoreError>> = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => ended.map_err(|_| StoreError::Closed)??,
            delivery = consumer.next() => match delivery {
                Some(delivery) => {
                    tasks.spawn(serve(Arc::clone(&world), delivery, answer.clone(), stop.clone()));
                }
                None => break,
            },
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|_| StoreError::Closed)??;
    }
    Ok(())
}

/// Serves one delivery, unless the sandbox stops while it waits.
async fn serve(
    world: Arc<World>,
    delivery: Delivery,
    answers: mpsc::Sender<Answer>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let Delivery { message, token } = delivery;
    let said = match Asked::read(&message) {
        Ok(Asked::Action(request)) => action(&world, &message, *request, &stop).await?,
        Ok(Asked::Probe(request)) => probe(&world, request, &stop).await?,
        Err(fault) => Some(unreadable(&world, &message, &fault).await?),
    };
    let Some(said) = said else { return Ok(()) };
    let message = said.and_then(|body| reply(&message, body));
    // The desk is gone: nothing is acknowledged, and the broker delivers the request again.
    let _ = answers.send(Answer { message, token }).await;
    Ok(())
}

/// The body of an answer; `None`: it is lost.
type Said = Option<Vec<u8>>;

/// What a message asks.
enum Asked {
    Action(Box<ActionRequest>),
    Probe(ProbeRequest),
}

impl Asked {
    fn read(message: &Received) -> Result<Self, serde_json::Error> {
        if message.routing_key == PROBE {
            serde_json::from_slice(&message.body).map(Self::Probe)
        } else {
            serde_json::from_slice(&message.body).map(Self::Action)
        }
    }
}

/// `None`: the sandbox stopped before the request was decided. One that need not wait is logged when it is decided.
async fn action(
    world: &Arc<World>,
    message: &Received,
    request: ActionRequest,
    stop: &CancellationToken,
) -> Result<Option<Said>, StoreError> {
    let received = Moment { tick: world.store.tick(), at: world.clock.now() };
    let request = Arc::new(request);
    // What cannot be read waits for nothing and is refused when it is decided.
    let (reports, beat) = Behaviour::of(&request).map_or((0, Duration::ZERO), |told| told.beats());
    if world.gate.holds(&request.action) || !beat.is_zero() {
        let noted = Arc::clone(&request);
        world.store.note(move |books| mux::receive(books, &noted, received)).await?;
        let waits = async {
            world.gate.pass(&request.action).await;
            for done in 1..=reports {
                tokio::time::sleep(beat).await;
                let report = report(message, done, reports);
                world.herald.deliver(report.into_iter().collect()).await;
            }
            tokio::time::sleep(beat).await;
        };
        if stop.run_until_cancelled(waits).await.is_none() {
            return Ok(None);
        }
    }
    let clock = Arc::clone(&world.clock);
    let reply = world.store.write(move |books| mux::settle(books, &request, received, clock.now())).await?;
    reply.map(|reply| json(&reply)).transpose().map(Some)
}

async fn probe(
    world: &World,
    request: ProbeRequest,
    stop: &CancellationToken,
) -> Result<Option<Said>, StoreError> {
    if stop.run_until_cancelled(world.gate.pass(PROBE)).await.is_none() {
        return Ok(None);
    }
    let reply = if world.cannot_tell {
        no_word()
    } else {
        world.store.write(move |books| mux::probe(books, &request.idempotency_key)).await?
    };
    json(&reply).map(Some).map(Some)
}

/// Refuses what cannot be read, or drops it where nobody waits for an answer.
async fn unreadable(
    world: &World,
    message: &Received,
    fault: &serde_json::Error,
) -> Result<Said, StoreError> {
    warn!(routing_key = message.routing_key, %fault, "MUX cannot read a request");
    let answered = message.reply_to.is_some();
    world
        .store
        .write(move |books| {
            mux::unreadable(books, answered);
            Ok(())
        })
        .await?;
    let refusal =
        Settlement::refused(RequestStatus::Malformed, format!("the request cannot be read: {fault}"));
    refusal.reply.map(|reply| json(&reply)).transpose()
}

fn json<T: Serialize>(reply: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(reply).map_err(StoreError::Codec)
}

/// How far a request is, to whoever asked.
fn report(message: &Received, done: u32, total: u32) -> Option<Message> {
    let progress =
        Progress { done: Some(done.into()), total: Some(total.into()), message: Some("at it".to_owned()) };
    let report = ProgressReport { status: PROGRESS.to_owned(), progress };
    Some(reply(message, json(&report).ok()?)?.kind(PROGRESS))
}

/// The answer, to whoever asked; `None` where the request does not say who. An asker that is gone is no fault.
fn reply(request: &Received, body: Vec<u8>) -> Option<Message> {
    let mut message =
        Message::json("", request.reply_to.as_deref()?, body).mandatory(false).persistent(false);
    message.correlation_id.clone_from(&request.correlation_id);
    Some(match request.traceparent() {
        Some(context) => message.traceparent(context),
        None => message,
    })
}
