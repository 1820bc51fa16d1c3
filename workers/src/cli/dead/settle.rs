//! `dat dead replay` and `dat dead drop`: taking parked messages out of their queue. Each act is an event, written
//! before the message leaves.

use std::process::ExitCode;

use dat_plan::PlanKey;
use dat_plan::event::{ControlAct, EventKind, NewEvent};
use dat_store::Store;
use dat_topology::Stage;
use serde_json::json;

use super::Settle;
use super::letter::Letter;
use super::look::Look;
use crate::cli::broker::Broker;
use crate::cli::failure::{Answer, Failure};
use crate::cli::output;
use crate::cli::session::Session;
use crate::stage::storable;

/// Sends messages to their queue again.
pub(super) async fn replay(broker: &Broker, session: &Session, which: &Settle) -> Answer {
    settle(broker, session, which, ControlAct::ReplayDead).await
}

/// Throws messages away.
pub(super) async fn drop(broker: &Broker, session: &Session, which: &Settle) -> Answer {
    settle(broker, session, which, ControlAct::DropDead).await
}

impl Settle {
    fn names(&self, letter: &Letter) -> bool {
        self.all || self.ids.contains(&letter.id) || self.parked_for.as_ref() == Some(&letter.reason)
    }
}

async fn settle(broker: &Broker, session: &Session, which: &Settle, act: ControlAct) -> Answer {
    let store = session.store().await?;
    let (mut done, mut unseen) = (0_u64, 0);
    let mut outcome = Ok(());
    for stage in which.place.stages() {
        let mut look = Look::open(broker, stage, which.place.limit).await?;
        outcome = one_queue(broker, session, &store, which, act, &mut look, &mut done).await;
        // What was looked at and not taken goes back, whatever stopped it.
        let closed = look.close().await;
        if outcome.is_err() {
            break;
        }
        unseen += closed?;
    }
    let what = if act == ControlAct::DropDead { "dropped" } else { "replayed" };
    if let Err(failure) = outcome {
        return Err(Failure::Failed(format!("{done} messages were {what}, then: {failure}")));
    }
    if which.output.is_json() {
        output::json(&json!({what: done, "not_looked_at": unseen}))?;
    } else {
        output::line(format_args!("{done} messages were {what}"))?;
        if unseen > 0 {
            output::note(format_args!("note: {unseen} further messages were not looked at: raise --limit"));
        }
    }
    if done == 0 && !which.all {
        return Err(Failure::Failed("no parked message is so named: see 'dat dead list'".to_owned()));
    }
    Ok(ExitCode::SUCCESS)
}

async fn one_queue(
    broker: &Broker,
    session: &Session,
    store: &Store,
    which: &Settle,
    act: ControlAct,
    look: &mut Look,
    done: &mut u64,
) -> Result<(), Failure> {
    while let Some(letter) = look.next().await? {
        if !which.names(&letter) {
            continue;
        }
        let stage = look.stage();
        store.record_refused(&[event(session, which, act, stage, &letter)]).await?;
        if act == ControlAct::ReplayDead {
            broker.publish(letter.again(broker.queue(stage).name())).await?;
        }
        // Ended here, it is in both queues: twice, and not lost.
        dat_fault::around("dead.ack", look.take(letter.token)).await?;
        *done += 1;
    }
    Ok(())
}

fn event(session: &Session, which: &Settle, act: ControlAct, stage: Stage, letter: &Letter) -> NewEvent {
    NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::Control(act), session.now())
        .with("actor", which.act.actor.as_str())
        .with("scope", "message")
        .with("subject", storable(&letter.id))
        .with("queue", stage.as_str())
        .with("parked_for", storable(&letter.reason))
        .because(&which.act.reason)
}
