//! `step.failed`: the Rollback Coordinator. Rules on failed attempts, probes unknown outcomes, and unwinds plans.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dat_bus::Received;
use dat_connectors::{ProbeAnswer, Reached};
use dat_plan::document::{OnUnknown, RollbackKind, RollbackScope};
use dat_plan::rollback::{self, FailedUnit};
use dat_store::{
    CoordinateReport, FailedRow, Finding, NewUndo, Probe, RanStep, RollbackStart, Ruling, Settlement,
    StoreError,
};
use dat_topology::Stage as StageName;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use crate::breakers;
use crate::documents::Prepared;
use crate::doorbell::{self, Doorbell};
use crate::ended::Ended;
use crate::fleet::Fleet;
use crate::runner::holds_nul;
use crate::stage::{Disposition, Parked, Stage, storable};

/// How long a probe waits for its answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// So many answers that could not tell, and `on_unknown: rollback` gives up asking.
const PROBES_BEFORE_GIVING_UP: i32 = 5;
/// Units in one pass.
const PASS: i64 = 256;
/// How soon something is looked at again whose plan is not what was approved, or not by whom this worker believes.
const BROKEN: TimeDelta = TimeDelta::seconds(10);

/// Rules, probes and unwinds.
pub(crate) struct Coordinator {
    fleet: Arc<Fleet>,
    ended: mpsc::UnboundedSender<Ended>,
    /// One pass at a time in a worker.
    passing: Mutex<()>,
}

impl Coordinator {
    pub(crate) fn new(fleet: Arc<Fleet>, ended: mpsc::UnboundedSender<Ended>) -> Self {
        Self { fleet, ended, passing: Mutex::new(()) }
    }

    /// Passes whenever this process is told to, beside the doorbells of the broker.
    pub(crate) async fn follow_bells(&self) {
        loop {
            tokio::select! {
                () = self.fleet.draining.cancelled() => return,
                () = self.fleet.bells.failed.rung() => {}
            }
            if let Err(error) = self.pass().await {
                tracing::warn!(%error, "the coordinator tries again");
                let now = self.fleet.now();
                self.fleet.bells.failed.set(now + TimeDelta::milliseconds(500), now);
            }
        }
    }

    /// Does what is due, until a pass finds nothing new.
    pub(crate) async fn pass(&self) -> Result<(), StoreError> {
        let _alone = self.passing.lock().await;
        while !self.fleet.draining.is_cancelled() {
            let ruled = self.rule().await?;
            let probed = self.probe().await?;
            let unwound = self.unwind().await?;
            if !(ruled || probed || unwound) {
                break;
            }
        }
        Ok(())
    }

    async fn rule(&self) -> Result<bool, StoreError> {
        let fleet = &*self.fleet;
        let now = fleet.now();
        let failed = fleet.store.undecided(PASS, now).await?;
        if failed.is_empty() {
            return Ok(false);
        }
        let documents = fleet.documents.get(&fleet.store, failed.iter().map(|f| f.unit.plan)).await?;
        let (failed, broken): (Vec<_>, Vec<_>) =
            failed.into_iter().partition(|row| documents.plans.contains_key(&row.unit.plan));
        let broken: Vec<_> =
            broken.into_iter().map(|row| (row.unit, documents.why_not(&row.unit.plan))).collect();
        fleet.metrics.seals_broken(broken.len());
        fleet.store.leave_undecided(&broken, now + BROKEN, now).await?;
        let rulings: Vec<Ruling> = failed
            .into_iter()
            .filter_map(|row| {
                let plan = documents.plans.get(&row.unit.plan)?;
                // A dry run has done nothing that an operator would have to look at first.
                let kind = if plan.is_dry() { RollbackKind::Automatic } else { plan.document.rollback.kind };
                let decision = rollback::decide(&failed_unit(&row, plan)?, kind, now, &*fleet.entropy);
                tracing::info!(
                    plan = %row.unit.plan, step = row.step_key, kind = row.unit.kind.as_str(),
                    outcome = row.last.as_str(), ?decision, "ruled"
                );
                Some(Ruling { failed: row, decision })
            })
            .collect();
        let report = fleet.store.rule(&rulings, now).await?;
        fleet.metrics.retries(report.retries);
        fleet.metrics.stuck(report.stuck);
        let moved = report.retries + report.stuck + report.rolling_back > 0;
        self.act(&report).await;
        Ok(moved)
    }

    async fn probe(&self) -> Result<bool, StoreError> {
        let fleet = &*self.fleet;
        let now = fleet.now();
        let until = fleet.lease_end(now).max(now + TimeDelta::seconds(10));
        let probes = fleet.store.claim_probes(&fleet.name, PASS, until, now).await?;
        if probes.is_empty() {
            return Ok(false);
        }
        let documents = fleet.documents.get(&fleet.store, probes.iter().map(|p| p.lease.unit.plan)).await?;
        for probe in probes {
            let plan = &probe.lease.unit.plan;
            let Some(plan) = documents.plans.get(plan).cloned() else {
                // Not asked: which connector would be asked for which key is for the document to say.
                fleet.metrics.seals_broken(1);
                let reason = documents.why_not(plan);
                let held = held_back(probe, String::new(), now + BROKEN, reason, Duration::ZERO);
                let _ = self.ended.send(held);
                continue;
            };
            let (fleet, ended) = (Arc::clone(&self.fleet), self.ended.clone());
            tokio::spawn(async move {
                let outcome = ask(&fleet, &plan, probe).await;
                // The committer ends after the last probe has.
                let _ = ended.send(outcome);
            });
        }
        Ok(true)
    }

    async fn unwind(&self) -> Result<bool, StoreError> {
        let fleet = &*self.fleet;
        let now = fleet.now();
        let due = fleet.store.rollbacks_due(PASS, now).await?;
        if due.is_empty() {
            return Ok(false);
        }
        let documents = fleet.documents.get(&fleet.store, due.iter().copied()).await?;
        for plan in due.iter().filter(|plan| !documents.plans.contains_key(*plan)) {
            fleet.metrics.seals_broken(1);
            fleet.store.hold(*plan, &documents.why_not(plan), now + BROKEN, now).await?;
        }
        let undos: Vec<_> = documents
            .plans
            .iter()
            .map(|(plan, prepared)| (*plan, move |ran: &[RanStep]| undos_of(prepared, ran)))
            .collect();
        let starts: Vec<RollbackStart<'_>> =
            undos.iter().map(|(plan, undos)| RollbackStart { plan: *plan, undos }).collect();
        let report = fleet.store.begin_undo(&starts, now).await?;
        for plan in &report.ended {
            tracing::info!(%plan, "aborted: nothing to undo");
            fleet.metrics.plan_ended("aborted");
        }
        let moved = !report.ready.is_empty() || !report.ended.is_empty();
        self.act(&report).await;
        Ok(moved)
    }

    async fn act(&self, report: &CoordinateReport) {
        let fleet = &*self.fleet;
        for plan in &report.touched {
            fleet.live.touch(*plan);
        }
        if let Some(due) = report.next_due {
            fleet.bells.dispatch.set(due, fleet.now());
        }
        doorbell::ring(fleet, Doorbell::Dispatch, &report.ready).await;
    }
}

fn failed_unit<'a>(row: &FailedRow, plan: &'a Prepared) -> Option<FailedUnit<'a>> {
    Some(FailedUnit {
        kind: row.unit.kind,
        last: row.last,
        attempts: row.counted,
        lost: row.lost,
        retry: plan.unit(row.unit)?.retry,
        retry_after: row.retry_after,
        since: row.since,
        plan_goes_on: row.plan_goes_on,
    })
}

/// The undos of a rollback, from the document and from what ran.
fn undos_of(plan: &Prepared, ran: &[RanStep]) -> Vec<NewUndo> {
    if plan.is_dry() {
        return Vec::new(); // nothing was done
    }
    let rollback = &plan.document.rollback;
    if rollback.kind == RollbackKind::Compensating {
        if ran.is_empty() {
            return Vec::new();
        }
        // The plan's own list, one after the other. Their indexes follow the steps': none is the undo of a step.
        let steps = plan.document.steps.len();
        let last = rollback.steps.len();
        return rollback
            .steps
            .iter()
            .enumerate()
            .map(|(place, step)| NewUndo {
                index: as_index(steps + place),
                key: step.key.0.clone(),
                connector: step.connector.clone(),
                action: step.action.clone(),
                waits_for: i32::from(place > 0),
                unlocks: if place + 1 < last { vec![as_index(steps + place + 1)] } else { Vec::new() },
            })
            .collect();
    }
    let undone: BTreeSet<usize> = ran
        .iter()
        .filter(|step| rollback.scope == RollbackScope::Plan || !step.completed)
        .filter_map(|step| usize::try_from(step.index).ok())
        .filter(|index| plan.document.steps.get(*index).is_some_and(|s| s.compensation.is_some()))
        .collect();
    plan.graph
        .undo_order(&undone)
        .into_iter()
        .filter_map(|node| {
            let step = plan.document.steps.get(node.step)?;
            let undo = step.compensation.as_ref()?;
            Some(NewUndo {
                index: as_index(node.step),
                key: step.key.0.clone(),
                connector: undo.connector.clone().unwrap_or_else(|| step.connector.clone()),
                action: undo.action.clone(),
                waits_for: as_index(node.waits_for),
                unlocks: node.unlocks.into_iter().map(as_index).collect(),
            })
        })
        .collect()
}

fn as_index(place: usize) -> i32 {
    i32::try_from(place).unwrap_or(i32::MAX) // a plan has at most 10,000 steps
}

/// Asks the connector what came of a key, and seals it if nothing did.
async fn ask(fleet: &Fleet, plan: &Prepared, probe: Probe) -> Ended {
    let started = Instant::now();
    let unit = probe.lease.unit;
    let spec = plan.unit(unit);
    let connector_name = spec.map_or("", |s| s.connector).to_owned();
    let timeout = spec.map_or(0, |s| s.timeout_ms);
    let not_after = probe.send_before + TimeDelta::milliseconds(i64::try_from(timeout).unwrap_or(i64::MAX));
    let answer = match fleet.connectors.get(&connector_name) {
        _ if plan.is_dry() => ProbeAnswer::Sealed, // nothing left this process, and nothing will
        Some(connector) => {
            let action = spec.map_or("", |s| s.action);
            // Where nobody can be asked there is nothing to hold back.
            if connector.action(action).is_some_and(|declared| declared.can_probe) {
                let (name, most) = (connector_name.as_str(), PROBE_TIMEOUT);
                let held =
                    dat_fault::around("breaker.ask_probe", breakers::hold_probe(fleet, name, &probe, most));
                if let Some((until, reason)) = held.await {
                    return held_back(probe, connector_name, until, reason, started.elapsed());
                }
            }
            let key = probe.idempotency_key.as_str();
            let asked =
                dat_fault::around("probe.send", connector.probe(action, key, not_after, PROBE_TIMEOUT));
            let answer = asked.await;
            dat_fault::around(
                "breaker.report_probe",
                breakers::report_probe(fleet, &connector_name, &probe, &answer),
            )
            .await;
            answer
        }
        None => ProbeAnswer::Unknown {
            detail: "this worker has no such connector".to_owned(),
            answered: false,
            reached: Reached::Unasked,
        },
    };
    tracing::info!(plan = %unit.plan, step = probe.step_key, key = probe.idempotency_key, ?answer, "probed");
    let finding = match answer {
        ProbeAnswer::Done { result, cost, refund } if holds_nul(&result) => Finding::Unusable {
            cost,
            refund,
            detail: "the answer cannot be stored, it holds U+0000".to_owned(),
        },
        ProbeAnswer::Done { result, cost, refund } => Finding::Done { result, cost, refund },
        ProbeAnswer::Sealed => Finding::Sealed,
        ProbeAnswer::Unknown { answered: true, .. }
            if plan.document.on_unknown == OnUnknown::Rollback
                && probe.probes + 1 >= PROBES_BEFORE_GIVING_UP =>
        {
            Finding::GivenUp { charge: spec.map_or(0, |s| s.max_cost) }
        }
        // There is nobody to ask, however often: what the plan says of that holds at once.
        ProbeAnswer::NoProbe { .. } if plan.document.on_unknown == OnUnknown::Rollback => {
            Finding::GivenUp { charge: spec.map_or(0, |s| s.max_cost) }
        }
        // The same key makes no second effect: an attempt like any that failed or was lost, and to be undone like one.
        ProbeAnswer::Repeatable { detail } => Finding::Repeatable { detail: storable(&detail) },
        ProbeAnswer::Unknown { detail, .. } | ProbeAnswer::NoProbe { detail } => {
            let wait = TimeDelta::milliseconds(500 << probe.probes.clamp(0, 6));
            Finding::CannotTell { detail: storable(&detail), again_at: fleet.now() + wait }
        }
    };
    let successors = plan.successors(unit);
    Ended::probe(
        Settlement { lease: probe.lease, finding, successors, decision: None },
        connector_name,
        probe.tenant,
        started.elapsed(),
    )
}

/// A probe that the breaker holds back: the unit stays as it is, and is looked at again.
fn held_back(probe: Probe, connector: String, until: DateTime<Utc>, reason: String, took: Duration) -> Ended {
    tracing::debug!(plan = %probe.lease.unit.plan, step = probe.step_key, reason, "not probed");
    let finding = Finding::HeldBack { reason, until };
    let settlement = Settlement { lease: probe.lease, finding, successors: Vec::new(), decision: None };
    Ended::probe(settlement, connector, probe.tenant, took)
}

/// The stage of `step.failed`.
pub(crate) struct StepFailed<'a>(pub(crate) &'a Coordinator);

impl Stage for StepFailed<'_> {
    type Work = ();

    fn name(&self) -> StageName {
        StageName::StepFailed
    }

    fn prefetch(&self) -> u16 {
        256
    }

    /// Whatever a doorbell says, it rings.
    fn read(&self, _: &Received) -> Result<(), Parked> {
        Ok(())
    }

    async fn commit(&self, batch: &[()]) -> Result<Vec<Disposition>, StoreError> {
        self.0.pass().await?;
        Ok(vec![Disposition::Done; batch.len()])
    }
}
