//! Answers that come to this worker when their time was up. Each that is not what is on record becomes an anomaly in the
//! log, and changes nothing else.
//!
//! **Owns** the way from a connector's listener to the log. **Called** by the Step Runner's listeners, which do not wait.
//! **Must never** settle anything: what the attempt came to is the probe's to find out. What does not fit the queue is
//! counted and dropped: nothing depends on these events.

use std::time::Duration;

use dat_store::LateAnswer;
use tokio::sync::mpsc;

use crate::fleet::Fleet;

/// So many wait to be noted at most; a fleet whose MUX answers everything late is told enough by these.
const WAITING: usize = 1_024;
/// So many in a transaction, at most.
const BATCH: usize = 64;
/// How long a database that is away is left alone, and how often it is tried again.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 60;

/// Takes note of answers that came late.
#[derive(Debug, Clone)]
pub(crate) struct Late(mpsc::Sender<LateAnswer>);

/// Writes them to the log.
pub(crate) struct LateWriter(mpsc::Receiver<LateAnswer>);

impl Late {
    pub(crate) fn new() -> (Self, LateWriter) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), LateWriter(receiver))
    }

    /// An answer came late.
    pub(crate) fn came(&self, answer: LateAnswer) {
        tracing::warn!(
            plan = %answer.lease.unit.plan, step = answer.lease.unit.index, finding = ?answer.finding,
            "an answer came when its time was up; it changes nothing"
        );
        if self.0.try_send(answer).is_err() {
            tracing::warn!("too many answers come late: this one is not in the log");
        }
    }
}

impl LateWriter {
    /// Runs until the worker has drained.
    pub(crate) async fn run(mut self, fleet: &Fleet) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.0.recv_many(&mut batch, BATCH).await > 0 {
            note(fleet, &batch).await;
            batch.clear();
        }
    }
}

async fn note(fleet: &Fleet, batch: &[LateAnswer]) {
    for _ in 0..TRIES {
        match fleet.store.note_late(batch, fleet.now()).await {
            Ok(0) => return,
            Ok(events) => {
                fleet.metrics.late_answers(events);
                return;
            }
            Err(error) if error.is_unavailable() => {
                tracing::warn!(%error, "late answers wait for the database");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                tracing::error!(%error, "late answers are not in the log");
                return;
            }
        }
    }
    tracing::error!(
        answers = batch.len(),
        "late answers are not in the log: the database was away for too long"
    );
}
