//! Makes figures: each is registered, and described as `docs/metrics.md` has it.

use std::cell::RefCell;

use prometheus::core::Collector;
use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};
use serde::Serialize;

/// A figure, as `docs/metrics.md` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Described {
    /// Its name; a histogram's series end in `_bucket`, `_sum` and `_count`.
    pub(crate) name: String,
    /// `counter`, `gauge` or `histogram`.
    pub(crate) kind: &'static str,
    /// Its labels.
    pub(crate) labels: Vec<String>,
    /// What it says.
    pub(crate) help: String,
}

/// Registers figures, and notes what they are.
#[derive(Default)]
pub(super) struct Maker {
    registry: Registry,
    described: RefCell<Vec<Described>>,
}

impl Maker {
    /// The registry, and what is in it by name.
    pub(super) fn made(self) -> (Registry, Vec<Described>) {
        let mut described = self.described.into_inner();
        described.sort_by(|one, other| one.name.cmp(&other.name));
        (self.registry, described)
    }

    fn add<C: Collector + Clone + 'static>(&self, kind: &'static str, made: C) -> Result<C, Error> {
        let described = made.desc().into_iter().map(|desc| Described {
            name: desc.fq_name.clone(),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        });
        self.described.borrow_mut().extend(described);
        self.registry.register(Box::new(made.clone()))?;
        Ok(made)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.add("counter", IntCounter::new(name, help)?)
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.add("counter", IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.add("gauge", IntGauge::new(name, help)?)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, label: &str) -> Result<IntGaugeVec, Error> {
        self.add("gauge", IntGaugeVec::new(Opts::new(name, help), &[label])?)
    }

    pub(super) fn real(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.add("gauge", Gauge::new(name, help)?)
    }

    pub(super) fn reals(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, Error> {
        self.add("gauge", GaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add("histogram", Histogram::with_opts(options)?)
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        label: &str,
        buckets: &[f64],
    ) -> Result<HistogramVec, Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add("histogram", HistogramVec::new(options, &[label])?)
    }
}
