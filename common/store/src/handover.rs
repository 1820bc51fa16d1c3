//! From a transaction to this process's own relay, without a way through the database.
//!
//! Whoever writes to the log has its events in memory; a relay that claims streams afterwards reads them back, one
//! statement to claim and read, one to record. So a transaction that finds a stream published to its end claims it for
//! the relay of its own process in the same statement that writes, and hands the events over once it is committed. A
//! stream that this relay holds already is handed over as well, and stays held.
//!
//! **Owns** what was written and is not committed yet, and the port to the relay. **May be called** by the log's writer
//! and by transactions. **Must never** be needed: what is lost here (a full port, a process that dies, a commit whose
//! answer is lost) is found by its row in `relay_due` when the claim has run out.

use chrono::TimeDelta;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::relay::ClaimedStream;

/// Transactions that a relay may be behind with; what comes when there is no room waits for its claim to run out.
const ROOM: usize = 512;

/// What a transaction wrote, of those streams that its process's relay holds.
#[derive(Debug)]
pub struct Written {
    /// What it left in `relay_due`: to be deleted once all is published, where the relay holds every stream it wrote to.
    pub due: Option<i64>,
    /// The streams, each with what was written just now.
    pub streams: Vec<ClaimedStream>,
}

/// The way to this process's own relay.
#[derive(Debug, Clone)]
pub struct RelayPort {
    pub(crate) owner: Uuid,
    pub(crate) lease: TimeDelta,
    sender: mpsc::Sender<Written>,
}

impl RelayPort {
    /// A way to a relay of this id, which holds for `lease` what is handed to it, and where it comes out.
    #[must_use]
    pub fn new(owner: Uuid, lease: TimeDelta) -> (Self, mpsc::Receiver<Written>) {
        let (sender, receiver) = mpsc::channel(ROOM);
        (Self { owner, lease, sender }, receiver)
    }

    pub(crate) fn open(&self) -> Handover {
        Handover { port: self.clone(), written: Vec::new() }
    }
}

/// What a transaction has written so far.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) port: RelayPort,
    written: Vec<Written>,
}

impl Handover {
    pub(crate) fn push(&mut self, written: Written) {
        self.written.push(written);
    }

    /// It is committed: the relay may publish it.
    pub(crate) fn committed(self) {
        for written in self.written {
            if self.port.sender.try_send(written).is_err() {
                tracing::debug!("the relay is behind: events wait until its claim has run out");
            }
        }
    }
}
