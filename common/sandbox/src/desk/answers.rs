//! MUX's answers on their way out: those that are there go in one window, then their requests are acknowledged.

use dat_bus::{Acker, DeliveryToken, Message};
use tokio::sync::mpsc;

use super::BATCH;
use crate::herald::Herald;

/// A request that is decided.
#[derive(Debug)]
pub(super) struct Answer {
    /// What is answered; `None`: nothing.
    pub(super) message: Option<Message>,
    /// What is acknowledged once the broker has the answer.
    pub(super) token: DeliveryToken,
}

/// Sends answers until nobody can give one any more.
pub(super) async fn run(mut answers: mpsc::Receiver<Answer>, herald: Herald, acker: Acker) {
    let mut batch = Vec::with_capacity(BATCH);
    while answers.recv_many(&mut batch, BATCH).await > 0 {
        let (messages, tokens): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|answer| (answer.message, answer.token)).unzip();
        herald.deliver(messages.into_iter().flatten().collect()).await;
        acker.ack(&tokens);
    }
}
