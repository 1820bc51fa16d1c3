//! What a worker counts: Prometheus conventions, units in the names, labels with few values (never a plan id).

use dat_plan::approval::Outcome;
use dat_store::{ClaimReport, Gauges};
use dat_topology::Stage;
use prometheus::{
    Encoder, Error, HistogramOpts, HistogramTimer, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The figures of one worker.
pub(crate) struct Metrics {
    registry: Registry,
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
    violations: IntCounter,
    unaffordable: IntCounter,
    seals_broken: IntCounter,
    budget_spent: IntCounterVec,
    relayed: IntCounter,
    relay_lag: IntGauge,
    relay_lag_seconds: IntGauge,
    units: IntGaugeVec,
    oldest: IntGaugeVec,
    due_plans: IntGauge,
    sweeper_finds: IntCounterVec,
    drift: IntCounterVec,
    rebuilds: IntCounterVec,
    rebuild_duration: HistogramVec,
    breaker_open: IntGaugeVec,
    breaker_opened: IntCounterVec,
    breaker_put_off: IntCounterVec,
    slots_busy: IntGauge,
    behind: IntGauge,
    reconnects: IntGauge,
}

const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

struct Maker(Registry);

impl Maker {
    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        let counter = IntCounter::new(name, help)?;
        self.0.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> Result<IntCounterVec, Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
        self.0.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        let gauge = IntGauge::new(name, help)?;
        self.0.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> Result<IntGaugeVec, Error> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), &[label])?;
        self.0.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        label: &str,
        buckets: &[f64],
    ) -> Result<HistogramVec, Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histograms = HistogramVec::new(options, &[label])?;
        self.0.register(Box::new(histograms.clone()))?;
        Ok(histograms)
    }
}

impl Metrics {
    /// Registers every figure.
    #[expect(clippy::too_many_lines, reason = "a list of the figures, one after the other")]
    pub(crate) fn new() -> Result<Self, Error> {
        let make = Maker(Registry::new());
        Ok(Self {
            deliveries: make.counters(
                "dat_queue_deliveries_total",
                "Messages taken from a queue",
                "queue",
            )?,
            parked: make.counters("dat_queue_parked_total", "Messages parked as dead letters", "queue")?,
            commit: make.histograms(
                "dat_stage_commit_seconds",
                "One transaction of a stage, or a group of outcomes",
                "stage",
                SECONDS,
            )?,
            verdicts: make.counters("dat_verdicts_total", "Verdicts bound to plans", "outcome")?,
            claim_batch: make.histograms(
                "dat_claim_batch_steps",
                "Steps in one claim, by what became of them",
                "result",
                SIZES,
            )?,
            claims: make.counters(
                "dat_claim_steps_total",
                "Steps asked for in claims, by result",
                "result",
            )?,
            attempts: make.counters(
                "dat_step_attempts_total",
                "Attempts that ended, by outcome",
                "outcome",
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
            probes: make.counters("dat_probes_total", "Probes of unknown outcomes, by answer", "answer")?,
            retries: make.counter("dat_step_retries_total", "Failed attempts that are to be tried again")?,
            undos_stuck: make.counter("dat_undos_stuck_total", "Undos that an operator must settle")?,
            plans_ended: make.counters("dat_plans_ended_total", "Plans that ended, by state", "state")?,
            refused: make.counter(
                "dat_steps_refused_total",
                "Steps refused for good by a constraint, a limit or the budget",
            )?,
            violations: make.counter(
                "dat_constraint_violations_total",
                "Rules, hard and soft, that did not hold when a step was claimed",
            )?,
            unaffordable: make.counter(
                "dat_budget_refusals_total",
                "Claims that did not fit a budget, for now or for good",
            )?,
            seals_broken: make.counter(
                "dat_seals_broken_total",
                "Claims and admissions refused because rows are not what was approved",
            )?,
            budget_spent: make.counters(
                "dat_budget_spent_units_total",
                "Spent by attempts, in the smallest unit of the currency",
                "currency",
            )?,
            relayed: make.counter("dat_relay_events_total", "Events published and confirmed")?,
            relay_lag: make.gauge("dat_relay_lag_events", "Events that wait to be published")?,
            relay_lag_seconds: make
                .gauge("dat_relay_lag_seconds", "Age of the oldest event that waits to be published")?,
            units: make.gauges(
                "dat_steps_waiting",
                "Steps and undos that are not over, by state",
                "state",
            )?,
            oldest: make.gauges(
                "dat_steps_oldest_due_seconds",
                "How long the oldest due step waits, by state",
                "state",
            )?,
            due_plans: make.gauge("dat_plans_due", "Plans that the sweeper must look at")?,
            sweeper_finds: make.counters(
                "dat_sweeper_finds_total",
                "What the sweeper found that no message told of",
                "what",
            )?,
            drift: make.counters(
                "dat_reconciler_drift_total",
                "What drifted from PostgreSQL and was repaired, by kind",
                "kind",
            )?,
            rebuilds: make.counters(
                "dat_runtime_rebuilds_total",
                "Fillings of Redis from the ledger by this worker, by cause",
                "cause",
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
                "connector",
            )?,
            breaker_put_off: make.counters(
                "dat_breaker_put_off_total",
                "Claims that an open breaker put off",
                "connector",
            )?,
            slots_busy: make.gauge("dat_worker_slots_busy", "Attempts that run now")?,
            behind: make.gauge(
                "dat_worker_slots_short",
                "1 while more is due than this worker has slots for; it takes submissions in slowly then",
            )?,
            reconnects: make.gauge("dat_bus_reconnects", "Reconnects to the broker since the start")?,
            registry: make.0,
        })
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
        self.violations.inc_by(report.violations as u64);
        self.unaffordable.inc_by(report.unaffordable as u64);
        self.seals_broken(report.broken);
    }

    /// What was found altered, or approved by nobody who is believed.
    pub(crate) fn seals_broken(&self, broken: usize) {
        self.seals_broken.inc_by(broken as u64);
    }

    pub(crate) fn attempt(&self, connector: &str, outcome: &str, seconds: f64) {
        self.attempts.with_label_values(&[outcome]).inc();
        self.attempt_duration.with_label_values(&[connector]).observe(seconds);
    }

    pub(crate) fn spent(&self, currency: &str, amount: i64) {
        self.budget_spent.with_label_values(&[currency]).inc_by(u64::try_from(amount).unwrap_or(0));
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

    pub(crate) fn relayed(&self, count: u64) {
        self.relayed.inc_by(count);
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

    /// Figures that are read when they are asked for.
    pub(crate) fn waiting(
        &self,
        gauges: &Gauges,
        lag: (i64, Option<chrono::DateTime<chrono::Utc>>),
        reconnects: u64,
        now: chrono::DateTime<chrono::Utc>,
    ) {
        self.units.reset();
        self.oldest.reset();
        for (state, count, oldest) in &gauges.units {
            self.units.with_label_values(&[state]).set(*count);
            let age = oldest.map_or(0, |since| (now - since).num_seconds().max(0));
            self.oldest.with_label_values(&[state]).set(age);
        }
        self.due_plans.set(gauges.due_plans);
        self.relay_lag.set(lag.0);
        self.relay_lag_seconds.set(lag.1.map_or(0, |since| (now - since).num_seconds().max(0)));
        self.reconnects.set(i64::try_from(reconnects).unwrap_or(i64::MAX));
    }
}
