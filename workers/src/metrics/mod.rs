//! What a worker counts: Prometheus conventions, units in the names, labels with few values (never a plan id).
//!
//! `docs/metrics.md` lists every figure; a test holds that page against `/metrics`. What the log tells is counted by the
//! relay ([`log`]), what waits is read when it is asked for ([`waiting`]), and all else where it happens, here.

mod few;
mod log;
mod maker;
mod waiting;

use chrono::TimeDelta;
use dat_plan::UnitKind;
use dat_plan::approval::Outcome;
use dat_store::ClaimReport;
use dat_topology::Stage;
pub(crate) use maker::Described;
use prometheus::{
    Encoder, Error, HistogramTimer, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

use log::LogFigures;
use maker::Maker;
use waiting::WaitingFigures;

use crate::limits::Limiter;

/// The figures of one worker.
pub(crate) struct Metrics {
    registry: Registry,
    server_up: IntGaugeVec,
    deliveries: IntCounterVec,
    parked: IntCounterVec,
    commit: HistogramVec,
    verdicts: IntCounterVec,
    claim_batch: HistogramVec,
    claims: IntCounterVec,
    attempts: IntCounterVec,
    attempt_duration: HistogramVec,
    fenced: IntCounter,
    late_answers: IntCounter,
    leases_expired: IntCounter,
    probes: IntCounterVec,
    retries: IntCounter,
    undos_stuck: IntCounter,
    plans_ended: IntCounterVec,
    refused: IntCounter,
    unaffordable: IntCounter,
    seals_broken: IntCounter,
    sweeper_finds: IntCounterVec,
    drift: IntCounterVec,
    rebuilds: IntCounterVec,
    rebuild_duration: HistogramVec,
    breaker_open: IntGaugeVec,
    breaker_opened: IntCounterVec,
    breaker_put_off: IntCounterVec,
    slots_busy: IntGauge,
    behind: IntGauge,
    reconnects: IntCounter,
    submissions: IntCounterVec,
    queue_age: HistogramVec,
    publish: HistogramVec,
    limiter_wait: HistogramVec,
    /// What the log tells.
    pub(crate) log: LogFigures,
    /// What waits.
    pub(crate) waiting: WaitingFigures,
}

const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const AGES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 86_400.0];
const WAITS: &[f64] = &[0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0, 3_600.0];
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Every figure that a worker serves, by name.
pub(crate) fn described() -> Result<Vec<Described>, Error> {
    Ok(Metrics::make()?.1)
}

impl Metrics {
    /// The figures of a worker that starts.
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self::make()?.0)
    }

    /// Registers every figure, and says what each is.
    #[expect(clippy::too_many_lines, reason = "a list of the figures, one after the other")]
    fn make() -> Result<(Self, Vec<Described>), Error> {
        let make = Maker::default();
        let version = make.gauges("dat_build_info", "Always 1; which version this worker is", "version")?;
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let mut metrics = Self {
            deliveries: make.counters(
                "dat_queue_deliveries_total",
                "Messages taken from a queue",
                &["queue"],
            )?,
            parked: make.counters("dat_queue_parked_total", "Messages parked as dead letters", &["queue"])?,
            commit: make.histograms(
                "dat_stage_commit_seconds",
                "One transaction of a stage, or a group of outcomes",
                "stage",
                SECONDS,
            )?,
            verdicts: make.counters("dat_verdicts_total", "Verdicts bound to plans", &["outcome"])?,
            claim_batch: make.histograms(
                "dat_claim_batch_steps",
                "Steps in one claim, by what became of them",
                "result",
                SIZES,
            )?,
            claims: make.counters(
                "dat_claim_steps_total",
                "Steps asked for in claims, by result",
                &["result"],
            )?,
            attempts: make.counters(
                "dat_step_attempts_total",
                "Attempts that ended, of a step or of its undo, by outcome",
                &["unit", "connector", "outcome"],
            )?,
            attempt_duration: make.histograms(
                "dat_step_attempt_seconds",
                "From the claim of an attempt to its answer",
                "connector",
                SECONDS,
            )?,
            fenced: make.counter(
                "dat_step_outcomes_fenced_total",
                "Outcomes that changed nothing, because the lease was lost",
            )?,
            late_answers: make.counter(
                "dat_late_answers_total",
                "Answers that came too late and are not what is on record",
            )?,
            leases_expired: make.counter("dat_leases_expired_total", "Leases that ran out")?,
            probes: make.counters("dat_probes_total", "Probes of unknown outcomes, by answer", &["answer"])?,
            retries: make.counter("dat_step_retries_total", "Failed attempts that are to be tried again")?,
            undos_stuck: make.counter("dat_undos_stuck_total", "Undos that an operator must settle")?,
            plans_ended: make.counters("dat_plans_ended_total", "Plans that ended, by state", &["state"])?,
            refused: make.counter(
                "dat_steps_refused_total",
                "Steps refused for good by a constraint, a limit or the budget",
            )?,
            unaffordable: make.counter(
                "dat_budget_refusals_total",
                "Claims that did not fit a budget, for now or for good",
            )?,
            seals_broken: make.counter(
                "dat_seals_broken_total",
                "Claims and admissions refused because rows are not what was approved",
            )?,
            sweeper_finds: make.counters(
                "dat_sweeper_finds_total",
                "What the sweeper found that no message told of",
                &["what"],
            )?,
            drift: make.counters(
                "dat_reconciler_drift_total",
                "What drifted from PostgreSQL and was repaired, by kind",
                &["kind"],
            )?,
            rebuilds: make.counters(
                "dat_runtime_rebuilds_total",
                "Fillings of Redis from the ledger by this worker, by cause",
                &["cause"],
            )?,
            rebuild_duration: make.histograms(
                "dat_runtime_rebuild_seconds",
                "From when a loss of Redis was noticed until its filling counted",
                "cause",
                SECONDS,
            )?,
            breaker_open: make.gauges(
                "dat_breaker_open",
                "Whether a connector's breaker was open or half-open when this worker asked last",
                "connector",
            )?,
            breaker_opened: make.counters(
                "dat_breaker_opened_total",
                "Times that an answer to this worker opened a connector's breaker",
                &["connector"],
            )?,
            breaker_put_off: make.counters(
                "dat_breaker_put_off_total",
                "Claims that an open breaker put off",
                &["connector"],
            )?,
            slots_busy: make.gauge("dat_worker_slots_busy", "Attempts that run now")?,
            behind: make.gauge(
                "dat_worker_slots_short",
                "1 while more is due than this worker has slots for; it takes submissions in slowly then",
            )?,
            reconnects: make.counter("dat_bus_reconnects_total", "Connections to the broker that were replaced")?,
            submissions: make.counters(
                "dat_submissions_total",
                "Submitted plans: registered, repeated with the same content, or refused",
                &["outcome"],
            )?,
            queue_age: make.histograms(
                "dat_queue_age_seconds",
                "Age of a message when a worker took it, by its publisher's clock, where it says when it was made",
                "queue",
                AGES,
            )?,
            publish: make.histograms(
                "dat_publish_seconds",
                "From handing messages to the broker until all were confirmed",
                "what",
                SECONDS,
            )?,
            limiter_wait: make.histograms(
                "dat_limiter_wait_seconds",
                "For how long a step was put off before its claim, by what put it off",
                "limiter",
                WAITS,
            )?,
            log: LogFigures::new(&make)?,
            waiting: WaitingFigures::new(&make)?,
            server_up: make.gauges(
                "dat_server_up",
                "1 while this worker reaches a server and is served by it, else 0",
                "server",
            )?,
            registry: Registry::new(),
        };
        let described;
        (metrics.registry, described) = make.made();
        Ok((metrics, described))
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> Result<String, Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| Error::Msg(error.to_string()))
    }

    pub(crate) fn deliveries(&self, stage: Stage, count: usize) {
        self.deliveries.with_label_values(&[stage.as_str()]).inc_by(count as u64);
    }

    pub(crate) fn parked(&self, stage: Stage) {
        self.parked.with_label_values(&[stage.as_str()]).inc();
    }

    pub(crate) fn commit_timer(&self, stage: Stage) -> HistogramTimer {
        self.commit.with_label_values(&[stage.as_str()]).start_timer()
    }

    pub(crate) fn outcome_timer(&self) -> HistogramTimer {
        self.commit.with_label_values(&["outcomes"]).start_timer()
    }

    pub(crate) fn verdict(&self, outcome: Outcome) {
        self.verdicts.with_label_values(&[outcome.as_str()]).inc();
    }

    /// A claim's report, whose claims were so many.
    pub(crate) fn claim(&self, report: &ClaimReport, claimed: usize) {
        let refused = report.refused.len();
        let results = [("claimed", claimed), ("deferred", report.deferred), ("refused", refused)];
        for (result, count) in results {
            if count > 0 {
                self.claims.with_label_values(&[result]).inc_by(count as u64);
                #[expect(clippy::cast_precision_loss, reason = "a batch is far below 2^52")]
                self.claim_batch.with_label_values(&[result]).observe(count as f64);
            }
        }
        self.refused.inc_by(refused as u64);
        self.unaffordable.inc_by(report.unaffordable as u64);
        self.seals_broken(report.broken);
    }

    /// What was found altered, or approved by nobody who is believed.
    pub(crate) fn seals_broken(&self, broken: usize) {
        self.seals_broken.inc_by(broken as u64);
    }

    pub(crate) fn attempt(&self, unit: UnitKind, connector: &str, outcome: &str, seconds: f64) {
        self.attempts.with_label_values(&[unit.as_str(), connector, outcome]).inc();
        self.attempt_duration.with_label_values(&[connector]).observe(seconds);
    }

    pub(crate) fn fenced(&self) {
        self.fenced.inc();
    }

    pub(crate) fn late_answers(&self, count: usize) {
        self.late_answers.inc_by(count as u64);
    }

    pub(crate) fn leases_expired(&self, count: usize) {
        self.leases_expired.inc_by(count as u64);
    }

    pub(crate) fn probe(&self, answer: &str) {
        self.probes.with_label_values(&[answer]).inc();
    }

    pub(crate) fn retries(&self, count: usize) {
        self.retries.inc_by(count as u64);
    }

    pub(crate) fn stuck(&self, count: usize) {
        self.undos_stuck.inc_by(count as u64);
    }

    pub(crate) fn plan_ended(&self, state: &str) {
        self.plans_ended.with_label_values(&[state]).inc();
    }

    pub(crate) fn sweeper_found(&self, what: &str, count: usize) {
        if count > 0 {
            self.sweeper_finds.with_label_values(&[what]).inc_by(count as u64);
        }
    }

    pub(crate) fn drift(&self, kind: &str, count: usize) {
        if count > 0 {
            self.drift.with_label_values(&[kind]).inc_by(count as u64);
        }
    }

    /// Redis was filled; where it had been lost, so many seconds after that was noticed.
    pub(crate) fn rebuilt(&self, cause: &str, seconds: Option<f64>) {
        self.rebuilds.with_label_values(&[cause]).inc();
        if let Some(seconds) = seconds {
            self.rebuild_duration.with_label_values(&[cause]).observe(seconds);
        }
    }

    pub(crate) fn breaker_open(&self, connector: &str, open: bool) {
        self.breaker_open.with_label_values(&[connector]).set(i64::from(open));
    }

    pub(crate) fn breaker_opened(&self, connector: &str) {
        self.breaker_open(connector, true);
        self.breaker_opened.with_label_values(&[connector]).inc();
    }

    pub(crate) fn breaker_put_off(&self, connector: &str) {
        self.breaker_put_off.with_label_values(&[connector]).inc();
    }

    pub(crate) fn slots_busy(&self, count: usize) {
        self.slots_busy.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn behind(&self, is: bool) {
        self.behind.set(i64::from(is));
    }

    /// Whether a server serves this worker.
    pub(crate) fn server_up(&self, server: &str, up: bool) {
        self.server_up.with_label_values(&[server]).set(i64::from(up));
    }

    /// How often connections to the broker were replaced since the start.
    pub(crate) fn reconnects(&self, so_many: u64) {
        self.reconnects.inc_by(so_many.saturating_sub(self.reconnects.get()));
    }

    pub(crate) fn submission(&self, outcome: &str) {
        self.submissions.with_label_values(&[outcome]).inc();
    }

    /// A message was taken so long after it was made; publishers say that to the second.
    pub(crate) fn queue_age(&self, stage: Stage, age: TimeDelta) {
        self.queue_age.with_label_values(&[stage.as_str()]).observe(seconds(age));
    }

    pub(crate) fn publish_timer(&self, what: &str) -> HistogramTimer {
        self.publish.with_label_values(&[what]).start_timer()
    }

    /// A step was put off for so long.
    pub(crate) fn limited(&self, limiter: Limiter, wait: TimeDelta) {
        self.limiter_wait.with_label_values(&[limiter.as_str()]).observe(seconds(wait));
    }
}

/// What a histogram of seconds is told of a time span; clocks of two machines may differ, and nothing takes less than none.
fn seconds(span: TimeDelta) -> f64 {
    span.to_std().map_or(0.0, |span| span.as_secs_f64())
}
