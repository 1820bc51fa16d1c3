//! The sandbox's queues, which it brings along as the systems would that it stands in for.

use std::time::Duration;

use dat_topology::{ApplyError, Topology};
use tracing::warn;

/// How long to wait before a broker that was not there is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// Where the queues are declared.
pub(crate) struct Broker {
    pub(crate) amqp_url: String,
    pub(crate) topology: Topology,
}

impl Broker {
    /// Declares the queues, however long it takes until the broker is there. A broker that refuses them is an error.
    pub(crate) async fn declare(&self) -> Result<(), ApplyError> {
        loop {
            match self.topology.apply(&self.amqp_url).await {
                Err(error @ (ApplyError::Connect(_) | ApplyError::Silent)) => {
                    warn!(%error, "the sandbox's queues are not declared: trying again");
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }
}
