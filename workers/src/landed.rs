//! What follows from outcomes once they are in the database: figures, bells, and what Redis and the broker are told. None of
//! it holds back the next group; all of it may be lost with this process, and is made good by the sweeper or the reconciler.

use std::sync::Weak;

use dat_store::{Finding, SettleReport, Settled};

use crate::dispatcher::Dispatcher;
use crate::doorbell::{self, Doorbell};
use crate::ended::Ended;
use crate::fleet::Fleet;
use crate::going_on::GoneOn;

/// A group that is in the database, in the parts in which it was committed.
#[derive(Default)]
pub(crate) struct Landed(Vec<Part>);

/// Outcomes that one transaction wrote.
pub(crate) struct Part {
    outcomes: Vec<Ended>,
    report: SettleReport,
    gone_on: Option<GoneOn>,
}

impl Part {
    /// Frees the slots that nothing went on in.
    pub(crate) fn new(mut outcomes: Vec<Ended>, report: SettleReport, gone_on: Option<GoneOn>) -> Self {
        for ended in &mut outcomes {
            ended.slot = None;
        }
        Self { outcomes, report, gone_on }
    }
}

impl Landed {
    pub(crate) fn push(&mut self, part: Part) {
        self.0.push(part);
    }

    /// Tells everyone.
    pub(crate) async fn follow(self, fleet: &Fleet, dispatcher: Option<&Weak<Dispatcher>>) {
        let dispatcher = dispatcher.and_then(Weak::upgrade);
        for part in self.0 {
            part.follow(fleet, dispatcher.as_deref()).await;
        }
    }
}

impl Part {
    async fn follow(self, fleet: &Fleet, dispatcher: Option<&Dispatcher>) {
        let Self { outcomes, report, gone_on } = self;
        let mut used = Vec::new();
        for (ended, settled) in outcomes.iter().zip(&report.settled) {
            note(fleet, ended, *settled, &mut used);
        }
        fleet.metrics.late_answers(report.late);
        for (plan, state) in &report.ended {
            tracing::info!(%plan, %state, "ended");
            fleet.metrics.plan_ended(state.as_str());
        }
        ring(fleet, dispatcher, &report).await;
        if let (Some(dispatcher), Some(gone_on)) = (dispatcher, gone_on) {
            dispatcher.follow_gone_on(gone_on).await;
        }
        dat_fault::around("windows.settle", fleet.windows.settle(&used)).await;
        dat_fault::around("settle.copies", fleet.limits.copy(&report.accounts)).await;
    }
}

/// Counts one outcome, and notes what it used of token windows.
fn note(fleet: &Fleet, ended: &Ended, settled: Settled, used: &mut Vec<(String, i64)>) {
    let unit = ended.settlement.lease.unit;
    fleet.live.touch(unit.plan);
    let state = match settled {
        Settled::Fenced => {
            tracing::warn!(plan = %unit.plan, step = unit.index, "the lease was lost: its outcome changes nothing");
            fleet.metrics.fenced();
            return;
        }
        Settled::Written(state) => state,
    };
    match ended.attempt {
        Some(attempt) => {
            fleet.metrics.attempt(unit.kind, &ended.connector, state.as_str(), ended.took.as_secs_f64());
            if ended.currency == "token" && !state.is_in_flight() {
                used.push((format!("{}/{}/{attempt}", unit.plan, unit.index), ended.cost()));
            }
        }
        // Nobody was asked.
        None if matches!(ended.settlement.finding, Finding::HeldBack { .. }) => {}
        None => fleet.metrics.probe(state.as_str()),
    }
}

/// What became ready is first for this worker, which has the plan at hand; what it has no slots for is rung on the
/// broker.
async fn ring(fleet: &Fleet, dispatcher: Option<&Dispatcher>, report: &SettleReport) {
    let here = dispatcher.map_or(0, Dispatcher::free).min(report.ready.len());
    if here > 0 {
        fleet.bells.dispatch.ring();
    }
    doorbell::ring(fleet, Doorbell::Dispatch, &report.ready[here..]).await;
    if report.undecided > 0 {
        doorbell::ring_any(fleet, Doorbell::Failed).await;
    }
}
