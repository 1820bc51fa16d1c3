//! One worker process: starts the roles it was given, serves its health, and drains on SIGTERM.
//!
//! Draining keeps an order: first nothing new is taken; then what runs ends and is committed; then the log is relayed;
//! only then the connections close. What does not end in time loses its lease, and another worker probes it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use dat_bus::{Bus, BusConfig};
use dat_connectors::{Connectors, Echo, Http, Mux};
use dat_guards::{Looks, RuntimeStore};
use dat_plan::clock::{SeededEntropy, SystemClock};
use dat_plan::{Clock, Entropy};
use dat_store::{RelayPort, Store, Written};
use dat_topology::{Exchange, Stage as StageName, Topology};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backlog::Backlog;
use crate::breakers::Breakers;
use crate::control;
use crate::dispatcher::Dispatcher;
use crate::documents::Documents;
use crate::fleet::{Bells, Fleet};
use crate::health;
use crate::late::{Late, LateWriter};
use crate::limits::Limits;
use crate::live::{Live, LiveWriter};
use crate::metrics::Metrics;
use crate::operators::Operators;
use crate::outcomes;
use crate::plan_approved::Verdicts;
use crate::plan_submitted::PlanSubmitted;
use crate::reconciler;
use crate::relay;
use crate::running::Running;
use crate::sealer::Sealer;
use crate::settings::Settings;
use crate::stage;
use crate::step_dispatch::StepDispatch;
use crate::step_failed::{Coordinator, StepFailed};
use crate::sweeper;
use crate::windows::Windows;

/// How long Redis may take to answer: the copies and limits in it only postpone.
const REDIS_TIMEOUT: Duration = Duration::from_millis(500);

/// What a worker can do; without a choice it does everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Role {
    /// Registers submissions.
    PlanSubmitted,
    /// Binds approvals, and admits plans.
    PlanApproved,
    /// Binds rejections and revocations.
    PlanRejected,
    /// Claims and runs steps.
    StepDispatch,
    /// Rules on failures, probes, unwinds.
    StepFailed,
    /// Publishes the log.
    Relay,
    /// Finds what nobody was told of, reconciles ledger, reservations and Redis, and seals the log.
    Sweeper,
}

impl Role {
    /// Every role.
    pub(crate) const ALL: [Self; 7] = [
        Self::PlanSubmitted,
        Self::PlanApproved,
        Self::PlanRejected,
        Self::StepDispatch,
        Self::StepFailed,
        Self::Relay,
        Self::Sweeper,
    ];
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CannotStart(String);

fn cannot(error: impl std::fmt::Display) -> CannotStart {
    CannotStart(error.to_string())
}

/// A worker that has started.
pub(crate) struct Worker {
    fleet: Arc<Fleet>,
    address: SocketAddr,
    stages: JoinSet<()>,
    committer: tokio::task::JoinHandle<()>,
    relay: Option<tokio::task::JoinHandle<()>>,
    helpers: JoinSet<()>,
}

impl Worker {
    /// Starts every task of the roles. Servers that are away are waited for, and named by `/readyz`.
    pub(crate) async fn start(
        settings: &Settings,
        roles: &BTreeSet<Role>,
        name: Option<String>,
    ) -> Result<Self, CannotStart> {
        let entropy = Arc::new(SeededEntropy::from_os());
        let name = name.unwrap_or_else(|| format!("worker-{}", &entropy.id().simple().to_string()[..8]));
        let sealer = Sealer::new(settings).map_err(cannot)?;
        let relays = roles.contains(&Role::Relay);
        let Assembled { fleet, live, late, written } = assemble(settings, name, entropy, relays)?;
        let listener = TcpListener::bind(settings.worker.listen)
            .await
            .map_err(|error| CannotStart(format!("cannot listen on {}: {error}", settings.worker.listen)))?;
        let address = listener.local_addr().map_err(cannot)?;
        let mut worker = Self::spawn(Arc::new(fleet), address, roles, written);
        if roles.contains(&Role::Sweeper) {
            let fleet = Arc::clone(&worker.fleet);
            worker.stages.spawn(async move { sealer.run(&fleet).await });
        }
        worker.serve(listener);
        let fleet = Arc::clone(&worker.fleet);
        let noting = Arc::clone(&fleet);
        worker.helpers.spawn(async move { live.run(&fleet).await });
        worker.helpers.spawn(async move { late.run(&noting).await });
        Ok(worker)
    }

    fn spawn(
        fleet: Arc<Fleet>,
        address: SocketAddr,
        roles: &BTreeSet<Role>,
        written: Option<mpsc::Receiver<Written>>,
    ) -> Self {
        let mut stages = JoinSet::new();
        let mut helpers = JoinSet::new();
        let connectors = fleet.connectors.names();
        let (ended_in, ended_out) = mpsc::unbounded_channel();
        let running = Arc::new(Running::default());
        let mut dispatcher = None;
        for role in roles {
            let fleet = Arc::clone(&fleet);
            let connectors = connectors.clone();
            match role {
                Role::PlanSubmitted => {
                    stages.spawn(async move {
                        stage::run(&fleet, &PlanSubmitted { fleet: &fleet, connectors }).await;
                    });
                }
                Role::PlanApproved | Role::PlanRejected => {
                    let queue = if *role == Role::PlanApproved {
                        StageName::PlanApproved
                    } else {
                        StageName::PlanRejected
                    };
                    stages.spawn(async move {
                        stage::run(&fleet, &Verdicts { fleet: &fleet, queue, connectors }).await;
                    });
                }
                Role::StepDispatch => {
                    let made =
                        Arc::new(Dispatcher::new(Arc::clone(&fleet), Arc::clone(&running), ended_in.clone()));
                    let (first, second) = (Arc::clone(&made), Arc::clone(&made));
                    stages.spawn(async move { stage::run(&fleet, &StepDispatch(&first)).await });
                    stages.spawn(async move { second.follow_bells().await });
                    dispatcher = Some(made);
                }
                Role::StepFailed => {
                    let coordinator = Arc::new(Coordinator::new(Arc::clone(&fleet), ended_in.clone()));
                    let second = Arc::clone(&coordinator);
                    stages.spawn(async move { stage::run(&fleet, &StepFailed(&coordinator)).await });
                    stages.spawn(async move { second.follow_bells().await });
                }
                Role::Sweeper => {
                    let reconciling = Arc::clone(&fleet);
                    stages.spawn(async move { sweeper::run(&fleet).await });
                    stages.spawn(async move { reconciler::run(&reconciling).await });
                }
                Role::Relay => {}
            }
        }
        // The committer ends when the last of these is gone: the stages and the attempts they started.
        drop(ended_in);
        let committer = tokio::spawn(outcomes::commit(
            Arc::clone(&fleet),
            dispatcher.as_ref().map(Arc::downgrade),
            ended_out,
        ));
        drop(dispatcher);
        let controlled = Arc::clone(&fleet);
        helpers.spawn(async move { control::follow(&controlled).await });
        let renewing = Arc::clone(&fleet);
        helpers.spawn(async move { running.renew(&renewing).await });
        let relay = written.map(|written| {
            let fleet = Arc::clone(&fleet);
            tokio::spawn(async move { relay::run(&fleet, written).await })
        });
        Self { fleet, address, stages, committer, relay, helpers }
    }

    fn serve(&mut self, listener: TcpListener) {
        let routes = health::routes(Arc::clone(&self.fleet));
        self.helpers.spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!(%error, "health is not served any more");
            }
        });
    }

    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.fleet.name
    }

    /// Takes nothing new, lets what runs end, commits and publishes it, then closes. Gives whether all of it ended in
    /// time.
    pub(crate) async fn drain(mut self) -> bool {
        tracing::info!("draining");
        self.fleet.draining.cancel();
        let within = Duration::from_millis(self.fleet.settings.drain_ms);
        let whole = tokio::time::timeout(within, async {
            while self.stages.join_next().await.is_some() {}
            let _ = (&mut self.committer).await;
            self.fleet.closing.cancel();
            if let Some(relay) = &mut self.relay {
                let _ = relay.await;
            }
        })
        .await
        .is_ok();
        if !whole {
            tracing::warn!("not everything ended in time; other workers take it up when the leases run out");
        }
        self.committer.abort();
        if let Some(relay) = &self.relay {
            relay.abort();
        }
        self.stages.abort_all();
        self.helpers.abort_all();
        // Whatever they held is let go before the connections close.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.fleet.bus.close()).await;
        let _ = tokio::time::timeout(Duration::from_secs(5), self.fleet.store.close()).await;
        tracing::info!(whole, "drained");
        whole
    }
}

/// What a worker is made of before its tasks start.
struct Assembled {
    fleet: Fleet,
    live: LiveWriter,
    late: LateWriter,
    /// What this process writes to the log, if it relays.
    written: Option<mpsc::Receiver<Written>>,
}

fn assemble(
    settings: &Settings,
    name: String,
    entropy: Arc<SeededEntropy>,
    relays: bool,
) -> Result<Assembled, CannotStart> {
    let trust = settings.trust().map_err(cannot)?;
    let statement = Duration::from_millis(settings.worker.statement_ms);
    let mut store = Store::bounded(&settings.database_url, settings.worker.connections, &name, statement)
        .map_err(cannot)?;
    let mut written = None;
    if relays {
        let lease = TimeDelta::milliseconds(i64::try_from(settings.worker.lease_ms).unwrap_or(i64::MAX));
        let (port, receiver) = RelayPort::new(entropy.id(), lease.max(relay::LEASE));
        store = store.relayed_by(port);
        written = Some(receiver);
    }
    let config = BusConfig::new(&settings.amqp_url, name.clone()).map_err(cannot)?;
    let bus = Bus::start(config, CancellationToken::new());
    let topology = Topology::new(settings.namespace.as_deref());
    let runtime = RuntimeStore::connect(&settings.redis_url, settings.redis_namespace(), REDIS_TIMEOUT)
        .map_err(cannot)?;
    let limits = Limits::new(settings, &runtime).map_err(cannot)?;
    let windows = Windows::new(&settings.token_window, &runtime, &name);
    let (live, writer) = Live::new(&runtime);
    let (late, late_writer) = Late::new();
    let breakers = Breakers::new(&settings.breaker, &runtime, &name).map_err(cannot)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mux = Mux::new(bus.rpc_client(), topology.exchange(Exchange::Mux).name());
    let mut connectors = Connectors::default().with(Echo).with(mux);
    if !settings.http.action.is_empty() {
        let variable = |name: &str| std::env::var(name).ok();
        let http = Http::new(&settings.http, Arc::clone(&clock), &variable).map_err(cannot)?;
        connectors = connectors.with(http);
    }
    let fleet = Fleet {
        name,
        settings: settings.worker.clone(),
        submitters: settings.submitters().map_err(cannot)?,
        documents: Documents::new(trust.verdicts.clone()),
        trust,
        store,
        publisher: bus.publisher(),
        bus,
        topology,
        batched: settings.events.batched(),
        connectors,
        operators: Operators::default(),
        limits,
        breakers,
        windows,
        live,
        lanes: Arc::default(),
        backlog: Backlog::default(),
        looks: Looks::new(runtime.clone()),
        runtime,
        late,
        metrics: Metrics::new().map_err(cannot)?,
        clock,
        entropy,
        bells: Bells::default(),
        draining: CancellationToken::new(),
        closing: CancellationToken::new(),
    };
    Ok(Assembled { fleet, live: writer, late: late_writer, written })
}
