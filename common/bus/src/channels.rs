//! Channels for publishing, each lent to one window at a time. So a channel's confirms and returns belong to one
//! window, and a window that fails takes no other with it. (On a channel that several tasks share, lapin numbers a
//! message and queues it in two steps: two tasks at once can get each other's confirms.)

use std::sync::{Arc, Mutex, PoisonError};

use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config::BusConfig;
use crate::link::{self, Link, Live};

struct Idle {
    generation: u64,
    channel: Channel,
}

/// The channels of the publishing connection.
pub(crate) struct Channels {
    link: Link,
    config: Arc<BusConfig>,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
}

/// Why there is no channel now. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoChannel {
    Down,
    Blocked,
}

/// A channel lent to one window. Dropped, it is not lent again.
pub(crate) struct Lease {
    pub(crate) channel: Channel,
    pub(crate) generation: u64,
    channels: Arc<Channels>,
    _permit: OwnedSemaphorePermit,
}

impl Channels {
    pub(crate) fn new(link: Link, config: Arc<BusConfig>) -> Self {
        let permits = Arc::new(Semaphore::new(config.channels.max(1)));
        Self { link, config, permits, idle: Mutex::default() }
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) fn config(&self) -> &BusConfig {
        &self.config
    }

    /// A channel of the connection that is up now, with confirms on.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, NoChannel> {
        self.usable()?;
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| NoChannel::Down)?;
        self.usable()?;
        let live = self.link.live().ok_or(NoChannel::Down)?;
        let generation = live.generation;
        let channel = match self.take_idle(generation) {
            Some(channel) => channel,
            None => self.open(&live).await.ok_or(NoChannel::Down)?,
        };
        Ok(Lease { channel, generation, channels: Arc::clone(self), _permit: permit })
    }

    /// Nothing is handed to a blocked connection: it would wait in lapin's queue, which has no bound.
    fn usable(&self) -> Result<(), NoChannel> {
        if self.link.live().is_none() {
            Err(NoChannel::Down)
        } else if self.link.blocked() {
            Err(NoChannel::Blocked)
        } else {
            Ok(())
        }
    }

    async fn open(&self, live: &Live) -> Option<Channel> {
        let channel = self.link.open_channel(live).await?;
        let selecting = channel.confirm_select(ConfirmSelectOptions::default());
        if let Ok(Ok(())) = timeout(self.config.connect_timeout, selecting).await {
            return Some(channel);
        }
        link::close(channel, self.config.connect_timeout).await;
        None
    }

    fn take_idle(&self, generation: u64) -> Option<Channel> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.generation == generation && idle.channel.status().connected());
        idle.pop().map(|idle| idle.channel)
    }
}

impl Lease {
    /// Gives back a channel on which nothing is outstanding.
    pub(crate) fn give_back(self) {
        let idle = Idle { generation: self.generation, channel: self.channel };
        self.channels.idle.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
    }

    /// Closes a channel that is not fit to be lent again.
    pub(crate) async fn discard(self) {
        link::close(self.channel, self.channels.config.connect_timeout).await;
    }
}
