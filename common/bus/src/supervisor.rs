//! Keeps one connection alive. lapin's recovery stays off: it hides that the channels, and so every delivery tag and
//! unconfirmed message, belong to a connection that is gone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{Connection, ConnectionProperties, Event};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::config::BusConfig;
use crate::link::{Live, View};

/// Not every way in which a connection ends is an event, so its status is looked at as well.
const PULSE: Duration = Duration::from_secs(1);

/// A connection that lived this long was no failed try.
const SETTLED: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Lost,
    Condemned,
    Shutdown,
}

/// Keeps the connection of one role, until the shutdown.
pub(crate) struct Supervisor {
    /// What the connection is for.
    pub(crate) role: &'static str,
    pub(crate) config: Arc<BusConfig>,
    /// Where it shows the connection.
    pub(crate) view: watch::Sender<View>,
    /// The generation that its users have given up.
    pub(crate) condemned: watch::Receiver<u64>,
    pub(crate) shutdown: CancellationToken,
}

impl Supervisor {
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut generation = 0;
        while let Some(connection) = self.establish(&mut backoff).await {
            generation += 1;
            info!(role = self.role, generation, "connected to the broker");
            let connection = Arc::new(connection);
            let since = Instant::now();
            self.view.send_modify(|view| {
                view.live = Some(Live { generation, connection: Arc::clone(&connection) });
                view.blocked = connection.status().blocked();
                view.established += 1;
            });
            let ending = self.watch_over(&connection, generation).await;
            self.view.send_modify(|view| {
                view.live = None;
                view.blocked = false;
            });
            match ending {
                Ending::Lost => warn!(role = self.role, generation, "connection to the broker lost"),
                Ending::Condemned => {
                    warn!(role = self.role, generation, "the broker does not answer: connecting anew");
                    tokio::spawn(retire(connection, self.config.heartbeat_s));
                }
                Ending::Shutdown => {
                    let _ = timeout(self.config.connect_timeout, connection.close(200, "done".into())).await;
                    return;
                }
            }
            if since.elapsed() >= SETTLED {
                backoff.reset();
            }
            if self.pause(&mut backoff).await.is_none() {
                return;
            }
        }
    }

    /// Connects, however often it takes. `None`: the bus shuts down.
    async fn establish(&self, backoff: &mut Backoff) -> Option<Connection> {
        loop {
            let name = format!("{} {}", self.config.connection_name, self.role);
            let properties = ConnectionProperties::default().with_connection_name(name.into());
            let connecting =
                timeout(self.config.connect_timeout, Connection::connect_uri(self.config.uri(), properties));
            let outcome = tokio::select! {
                () = self.shutdown.cancelled() => return None,
                outcome = connecting => outcome,
            };
            match outcome {
                Ok(Ok(connection)) => return Some(connection),
                Ok(Err(error)) => {
                    warn!(role = self.role, %error, "the broker cannot be reached: trying again");
                }
                Err(_) => warn!(role = self.role, "the broker does not answer: trying again"),
            }
            self.pause(backoff).await?;
        }
    }

    async fn pause(&self, backoff: &mut Backoff) -> Option<()> {
        tokio::select! {
            () = self.shutdown.cancelled() => None,
            () = sleep(backoff.wait()) => Some(()),
        }
    }

    async fn watch_over(&mut self, connection: &Connection, generation: u64) -> Ending {
        let mut events = std::pin::pin!(connection.events_listener());
        let mut pulse = interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return Ending::Shutdown,
                Ok(_) = self.condemned.wait_for(|condemned| *condemned == generation) => return Ending::Condemned,
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        warn!(role = self.role, reason, "the broker has blocked publishing");
                    }
                    Some(Event::ConnectionUnblocked) => info!(role = self.role, "the broker has unblocked publishing"),
                    Some(_) => {}
                    None => return Ending::Lost,
                },
                _ = pulse.tick() => {}
            }
            let status = connection.status();
            if !status.connected() {
                return Ending::Lost;
            }
            self.view.send_if_modified(|view| {
                std::mem::replace(&mut view.blocked, status.blocked()) != status.blocked()
            });
        }
    }
}

/// Keeps a connection that was given up until its heartbeat has found the silence too: closing it would stop the
/// heartbeat and wait for the answer of a peer that gives none, and its thread would stay.
async fn retire(connection: Arc<Connection>, heartbeat_s: u16) {
    let mut pulse = interval(PULSE);
    let until = Instant::now() + Duration::from_secs(u64::from(heartbeat_s) * 3);
    while connection.status().connected() && Instant::now() < until {
        pulse.tick().await;
    }
}
