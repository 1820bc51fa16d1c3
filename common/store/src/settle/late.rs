//! Answers that came too late: their lease was lost, or their time was up, and they change nothing. Where such an answer
//! is not what is on record of its attempt, that is an anomaly, and an event says so, once an attempt.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::rollback::OutcomeClass;
use dat_plan::{PlanKey, PlanState, StepState, UnitKey, UnitKind};

use super::{Finding, Group};
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::event_log;
use crate::lease::Lease;
use crate::plan_row::{self, Contended, LockedPlan};
use crate::pool::Store;
use crate::unit_columns::unit_columns;

/// What an outside system answered, too late.
#[derive(Debug, Clone)]
pub(super) struct Late {
    unit: UnitKey,
    epoch: i64,
    answered: OutcomeClass,
    cost: i64,
    refund: i64,
    detail: String,
    /// When it came, for people.
    when: &'static str,
}

/// An answer that came to a worker that had stopped waiting for it.
#[derive(Debug, Clone)]
pub struct LateAnswer {
    /// What its attempt was run under. It is no right to write anything but the event.
    pub lease: Lease,
    /// What the answer said.
    pub finding: Finding,
}

impl Store {
    /// Notes answers that came when their time was up: an event for each that is not what is on record of its attempt,
    /// and nothing else, whatever state its unit is in and whoever holds its lease. Gives how many events those are. One
    /// transaction.
    pub async fn note_late(&self, answers: &[LateAnswer], now: DateTime<Utc>) -> Result<usize, StoreError> {
        let late: Vec<Late> = answers
            .iter()
            .filter_map(|answer| Late::of(&answer.lease, &answer.finding, "when its time was up"))
            .collect();
        if late.is_empty() {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        let plans = plan_row::lock(&mut tx, late.iter().map(|one| one.unit.plan), Contended::Wait).await?;
        let events = note(&mut tx, &plans, &late, now).await?;
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("late.note", tx.commit()).await?;
        Ok(events.len())
    }
}

impl Late {
    /// An answer to what was asked under a lease; none where the outside system gave no answer.
    pub(super) fn of(lease: &Lease, finding: &Finding, when: &'static str) -> Option<Self> {
        let (answered, cost, refund, detail) = match finding {
            Finding::Done { cost, refund, .. } => (OutcomeClass::Ok, *cost, *refund, ""),
            Finding::Error { cost, detail, .. } => (OutcomeClass::Error, *cost, 0, detail.as_str()),
            Finding::Refused { cost, detail } => (OutcomeClass::Refused, *cost, 0, detail.as_str()),
            Finding::Unusable { cost, refund, detail } => {
                (OutcomeClass::Refused, *cost, *refund, detail.as_str())
            }
            Finding::NotSent { .. }
            | Finding::Unanswered { .. }
            | Finding::Sealed
            | Finding::CannotTell { .. }
            | Finding::Rehearsed { .. }
            | Finding::HeldBack { .. }
            | Finding::Repeatable { .. }
            | Finding::GivenUp { .. } => return None,
        };
        Some(Self {
            unit: lease.unit,
            epoch: lease.epoch,
            answered,
            cost,
            refund,
            detail: detail.to_owned(),
            when,
        })
    }
}

impl Group {
    /// Writes an event for each late answer that is not what is on record.
    pub(super) async fn note_late(&mut self, conn: &mut PgConnection) -> Result<(), StoreError> {
        let late = std::mem::take(&mut self.late);
        if !late.is_empty() {
            let events = note(conn, &self.plans, &late, self.now).await?;
            self.report.late += events.len();
            self.events.extend(events);
        }
        Ok(())
    }
}

/// The events of answers that are not what is on record. A commit that is repeated because nobody heard of it finds its
/// own answer on record; and an attempt is marked with its event, so that there is one.
async fn note(
    conn: &mut PgConnection,
    plans: &BTreeMap<PlanKey, LockedPlan>,
    late: &[Late],
    now: DateTime<Utc>,
) -> Result<Vec<NewEvent>, StoreError> {
    let (ids, versions, kinds, indexes) = unit_columns(late.iter().map(|one| &one.unit));
    let rows = sqlx::query!(
            r#"WITH late AS MATERIALIZED (
                 SELECT DISTINCT ON (k.plan_id, k.plan_version, k.kind, k.step_index, a.attempt)
                        k.place, a.plan_id, a.plan_version, a.kind, a.step_index, a.attempt, a.outcome, a.cost,
                        a.worker
                 FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::bigint[], $6::text[],
                             $7::bigint[])
                      WITH ORDINALITY
                      AS k (plan_id, plan_version, kind, step_index, epoch, answered, cost, place)
                 -- The attempt that the lease was about: its own, or the one that a probe asked about.
                 CROSS JOIN LATERAL (
                     SELECT a.* FROM step_attempt a
                     WHERE a.plan_id = k.plan_id AND a.plan_version = k.plan_version AND a.kind = k.kind
                       AND a.step_index = k.step_index AND a.lease_epoch <= k.epoch
                     ORDER BY a.attempt DESC LIMIT 1) AS a
                 WHERE a.late_at IS NULL
                   AND (a.outcome IS DISTINCT FROM k.answered OR a.cost <> k.cost)
                   -- What a probe answers is what the next one will, as long as nothing was settled.
                   AND (a.lease_epoch = k.epoch OR coalesce(a.outcome, 'unknown') <> 'unknown')
                 ORDER BY k.plan_id, k.plan_version, k.kind, k.step_index, a.attempt, k.place),
             marked AS (
                 UPDATE step_attempt AS a SET late_at = $8 FROM late
                 WHERE a.plan_id = late.plan_id AND a.plan_version = late.plan_version AND a.kind = late.kind
                   AND a.step_index = late.step_index AND a.attempt = late.attempt)
             SELECT late.place AS "place!", late.attempt, late.outcome, late.cost, late.worker, s.step_key, s.state
             FROM late JOIN execution_step s USING (plan_id, plan_version, kind, step_index)
             ORDER BY late.place"#,
            &ids,
            &versions,
            &kinds,
            &indexes,
            &late.iter().map(|one| one.epoch).collect::<Vec<_>>(),
            &late.iter().map(|one| one.answered.as_str().to_owned()).collect::<Vec<_>>(),
            &late.iter().map(|one| one.cost).collect::<Vec<_>>(),
            now,
        )
        .fetch_all(conn)
        .await?;
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        let place = usize::try_from(row.place - 1).unwrap_or(usize::MAX);
        let Some(answer) = late.get(place) else { continue };
        let state: StepState = row.state.parse()?;
        let key: PlanKey = answer.unit.plan;
        let Some(plan) = plans.get(&key) else { continue };
        if plan.state == PlanState::Archived {
            // Its stream is closed; the attempt is marked all the same.
            tracing::warn!(plan = %key, step = row.step_key, attempt = row.attempt, "an answer of an archived plan");
            continue;
        }
        let what = if answer.unit.kind == UnitKind::Undo { "undo" } else { "step" };
        let recorded = row.outcome.as_deref().unwrap_or("nothing yet");
        let mut event = plan
            .event(EventKind::LateAnswer, now)
            .step(&row.step_key, row.attempt)
            .with("kind", answer.unit.kind.as_str())
            .with("answered", answer.answered.as_str())
            .with("cost", answer.cost)
            .with("refund", answer.refund)
            .with("currency", plan.currency.as_str())
            .with("recorded", recorded)
            .with("recorded_cost", row.cost)
            .with("state", state.as_str())
            .with("worker", row.worker);
        if !answer.detail.is_empty() {
            event = event.with("detail", answer.detail.as_str());
        }
        events.push(event.because(&format!(
            "the answer of attempt {} came {}; the {what} is {state}, and {recorded} is on record",
            row.attempt, answer.when
        )));
    }
    Ok(events)
}
