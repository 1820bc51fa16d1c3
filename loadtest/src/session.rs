//! A run: publishes what is due, listens to what comes of it, and stops when all plans have ended or time is up.

use std::pin::pin;
use std::time::Duration;

use dat_bus::{Bus, BusConfig, Consumer, Delivery, LinkState};
use dat_plan::Clock;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::command::RunArgs;
use crate::contract::Exchanges;
use crate::event;
use crate::failure::Failure;
use crate::latency::Latency;
use crate::pace::{Due, Pace};
use crate::progress::Progress;
use crate::submission;
use crate::tally::Tally;
use crate::workload::{Submission, Workload};

/// How long the broker may take to be there.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to listen after the last end, for what should not come.
const SETTLING: Duration = Duration::from_millis(500);
/// How many windows of plans may be unconfirmed at a time.
const WINDOWS: usize = 8;
/// How many plans a window has at most.
const WINDOW: u32 = 128;
/// How many events are counted before anything else is looked at.
const BATCH: usize = 512;
/// How often the progress is shown.
const GLANCE: Duration = Duration::from_millis(500);

/// A connection to the fleet's broker that hears every event from now on.
pub(crate) struct Session {
    bus: Bus,
    events: Consumer,
    exchanges: Exchanges,
    pace: Pace,
    timeout: Duration,
    tally: Tally,
}

/// What a run found.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The account of the plans.
    pub(crate) tally: Tally,
    /// How long the run took.
    pub(crate) elapsed: Duration,
    /// In an open loop, how late plans were handed to the broker, after they were due.
    pub(crate) lag: Latency,
    /// How many documents were published again.
    pub(crate) republished: usize,
    /// Whether a connection was lost, and with it perhaps events: the account proves nothing.
    pub(crate) interrupted: bool,
}

impl Session {
    /// Connects, and binds the queue of events before anything is published.
    pub(crate) async fn open(args: &RunArgs, pace: Pace, steps: usize) -> Result<Self, Failure> {
        let tally = Tally::new(steps)?;
        let config = BusConfig::new(&args.amqp_url, "dat-loadtest")?;
        let bus = Bus::start(config, CancellationToken::new());
        timeout(PATIENCE, bus.ready()).await.map_err(|_| Failure::Unreachable)?;
        let exchanges = Exchanges::new(args.namespace.as_deref());
        let events = bus.exclusive(exchanges.followed())?;
        timeout(PATIENCE, events.bound()).await.map_err(|_| Failure::Unbound)?;
        Ok(Self { bus, events, exchanges, pace, timeout: args.timeout(), tally })
    }

    /// Submits the plans and follows them.
    pub(crate) async fn run(self, workload: Workload<'_>, clock: &dyn Clock) -> Result<Outcome, Failure> {
        let reconnects = self.bus.health().reconnects;
        let Self { bus, mut events, exchanges, pace, timeout, tally } = self;
        let run = Run {
            bus: &bus,
            exchanges,
            pace,
            workload,
            clock,
            started: Instant::now(),
            publishing: JoinSet::new(),
            tally,
            lag: Latency::new()?,
            republished: 0,
        };
        let found = run.follow(&mut events, timeout).await;
        let health = bus.health();
        let interrupted = health.reconnects != reconnects || health.consuming != LinkState::Up;
        bus.close().await;
        found.map(|found| Outcome { interrupted, ..found })
    }
}

/// A run under way.
struct Run<'a> {
    bus: &'a Bus,
    exchanges: Exchanges,
    pace: Pace,
    workload: Workload<'a>,
    clock: &'a dyn Clock,
    started: Instant,
    publishing: JoinSet<Result<usize, Failure>>,
    tally: Tally,
    lag: Latency,
    republished: usize,
}

impl Run<'_> {
    async fn follow(mut self, events: &mut Consumer, timeout: Duration) -> Result<Outcome, Failure> {
        let progress = Progress::new();
        let mut glance = interval(GLANCE);
        let mut stop = pin!(tokio::signal::ctrl_c());
        let plans = self.workload.plans();
        loop {
            let next = self.submit();
            // Everything is due by the deadline; after the last end, only until things have settled.
            let last_call =
                if self.tally.counts.ended == plans { self.tally.last_end() + SETTLING } else { timeout };
            let last_call = self.started + last_call.min(timeout);
            let wake = next.map_or(last_call, |due| (self.started + due).min(last_call));
            tokio::select! {
                batch = events.next_batch(BATCH) => self.count(batch.ok_or(Failure::Closed)?),
                Some(published) = self.publishing.join_next() => self.republished += published??,
                () = sleep_until(wake) => if Instant::now() >= last_call { break },
                _ = glance.tick() => {
                    progress.show(self.tally.counts, plans - self.workload.left(), plans, self.started.elapsed());
                }
                _ = &mut stop => break,
            }
        }
        progress.clear();
        Ok(Outcome {
            elapsed: self.started.elapsed(),
            tally: self.tally,
            lag: self.lag,
            republished: self.republished,
            interrupted: false,
        })
    }

    /// Publishes what is due, as far as the windows go, and says when more will be, if that is known.
    fn submit(&mut self) -> Option<Duration> {
        while self.publishing.len() < WINDOWS && self.workload.left() > 0 {
            let elapsed = self.started.elapsed();
            let submitted = self.workload.plans() - self.workload.left();
            match self.pace.due(elapsed, submitted, self.tally.counts.ended) {
                Due::Now(plans) => self.publish(plans.min(WINDOW), submitted, elapsed),
                Due::At(moment) => return Some(moment),
                Due::AfterAnEnd => return None,
            }
        }
        None
    }

    fn publish(&mut self, plans: u32, submitted: u32, elapsed: Duration) {
        let timestamp_s = u64::try_from(self.clock.now().timestamp()).unwrap_or(0);
        let mut window = Vec::new();
        for (n, plan) in (submitted..submitted.saturating_add(plans)).zip(&mut self.workload) {
            let Submission { plan, body, expected } = plan;
            let due = self.pace.moment(n, elapsed);
            self.tally.expect(plan, expected, due);
            if matches!(self.pace, Pace::Every(_)) {
                self.lag.record(elapsed.saturating_sub(due));
            }
            window.push(submission::message(self.exchanges.plans(), &plan.to_string(), body, timestamp_s));
        }
        self.publishing.spawn(submission::publish(self.bus.publisher(), window));
    }

    fn count(&mut self, batch: Vec<Delivery>) {
        let now = self.started.elapsed();
        for delivery in batch {
            match event::read(&delivery.message.body) {
                Ok(events) => events.into_iter().for_each(|event| self.tally.observe(event, now)),
                Err(_) => self.tally.counts.unreadable += 1,
            }
        }
    }
}
