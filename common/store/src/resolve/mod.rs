//! Resolving: an operator settles what nobody could tell, or an undo that cannot finish.
//!
//! **Owns** the way out of `unknown` and `stuck` by hand. It goes through the same settlement as a worker's outcome:
//! the operator takes the unit's lease, and what is found is written with its money, its events and what it unlocked,
//! in one transaction with the act's own event. **Must never** take a lease that someone holds.

mod order;
mod writing;

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::event::{ControlAct, EventKind, NewEvent};
use dat_plan::{PlanKey, PlanState, StepState, UnitKind};
use serde_json::json;

use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::event_log;
use crate::lease::Lease;
use crate::operator::Operator;
use crate::plan_row::{self, Contended};
use crate::pool::Store;
use crate::settle::{Finding, Settlement, settle_in};
use crate::two_person;
use writing::{LEASE, Row, by_hand, rows, stuck, take_over, unstick};

pub use order::{NotResolved, Resolution, Resolve, Resolved};

impl Store {
    /// Resolves units of one plan, all of them or none, in one transaction. A stuck plan goes on when nothing of it is
    /// stuck any more. (The states and arrows are `dat-plan`'s.)
    pub async fn resolve(
        &self,
        plan: PlanKey,
        units: &[Resolve],
        actor: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<Resolved, StoreError> {
        let mut tx = self.begin().await?;
        let resolved = resolve_in(&mut tx, plan, units, &Operator::alone(actor, reason), now).await?;
        if !matches!(resolved, Resolved::Refused(_)) {
            tx.commit().await?;
        }
        Ok(resolved)
    }
}

pub(crate) async fn resolve_in(
    conn: &mut PgConnection,
    key: PlanKey,
    units: &[Resolve],
    operator: &Operator,
    now: DateTime<Utc>,
) -> Result<Resolved, StoreError> {
    let mut plans = plan_row::lock(&mut *conn, [key], Contended::Wait).await?;
    let Some(plan) = plans.get_mut(&key) else { return Ok(Resolved::Refused(NotResolved::NotThere)) };
    let rows = rows(&mut *conn, units).await?;
    for one in units {
        let Some(row) = rows.get(&one.unit).filter(|_| one.unit.plan == key) else {
            return Ok(Resolved::Refused(NotResolved::NotThere));
        };
        if let Err(refused) = admissible(one, row, now) {
            return Ok(Resolved::Refused(refused));
        }
    }
    let subject = key.plan_id.to_string();
    let about = ("plan", subject.as_str());
    let payload = json!({"plan": key, "units": units});
    if let Some(request) =
        two_person::ask(&mut *conn, ControlAct::Resolve, about, Some(payload), operator, now).await?
    {
        return Ok(Resolved::Requested(request));
    }
    let mut events = Vec::new();
    let mut settlements = Vec::new();
    for one in units {
        let Some(row) = rows.get(&one.unit) else { continue };
        let finding = match &one.resolution {
            Resolution::Done { result, cost, refund } => {
                take_over(&mut *conn, one.unit, row, operator, now).await?;
                Finding::Done { result: result.clone(), cost: *cost, refund: *refund }
            }
            Resolution::NoEffect { .. } => {
                take_over(&mut *conn, one.unit, row, operator, now).await?;
                Finding::Sealed
            }
            Resolution::Undone { cost, refund } => {
                unstick(&mut *conn, plan, one.unit, row, operator, &mut events, now).await?;
                by_hand(&mut *conn, plan, one.unit, row, operator, &mut events, now).await?;
                Finding::Done { result: json!({}), cost: *cost, refund: *refund }
            }
            Resolution::Retry => {
                unstick(&mut *conn, plan, one.unit, row, operator, &mut events, now).await?;
                continue;
            }
        };
        let lease = Lease { unit: one.unit, epoch: row.epoch + 1, until: now + LEASE };
        settlements.push(Settlement { lease, finding, successors: one.successors.clone(), decision: None });
    }
    let stuck = stuck(&mut *conn, key).await?;
    if plan.state == PlanState::Stuck {
        if stuck == 0 {
            let why = format!("resolved by {}: {}", operator.names(), operator.reason);
            events
                .push(plan.enter(PlanState::RollingBack, &why, now)?.with("actor", operator.actor.as_str()));
        } else {
            plan.wait_reason = Some(format!("{stuck} undos cannot finish"));
            plan.dirty = true;
        }
    }
    for one in units {
        let Some(row) = rows.get(&one.unit) else { continue };
        events.push(said(one, row, &subject, operator, now));
    }
    plan_row::write(&mut *conn, &plans).await?;
    if settlements.is_empty() {
        event_log::append(&mut *conn, &events).await?;
    } else {
        settle_in(&mut *conn, &settlements, events, Some(operator), now).await?;
    }
    let state = sqlx::query_scalar!(
        "SELECT state FROM execution_plan WHERE plan_id = $1 AND plan_version = $2",
        key.plan_id,
        key.plan_version,
    )
    .fetch_one(conn)
    .await?;
    Ok(Resolved::Done { plan: state.parse()?, stuck })
}

fn admissible(one: &Resolve, row: &Row, now: DateTime<Utc>) -> Result<(), NotResolved> {
    let (unit, wanted) = (row.name(one.unit), one.resolution.applies_to());
    if wanted == StepState::Stuck && one.unit.kind == UnitKind::Action {
        return Err(NotResolved::NoUndo { unit });
    }
    if row.state != wanted {
        return Err(NotResolved::NotSo { unit, state: row.state, wanted });
    }
    if row.attempts != one.attempt {
        return Err(NotResolved::Moved { unit, seen: one.attempt, made: row.attempts });
    }
    if let Some(until) = row.lease_until.filter(|until| now < *until) {
        let worker = row.worker.clone().unwrap_or_default();
        return Err(NotResolved::Held { unit, worker, until });
    }
    if let (Resolution::NoEffect { timeout_ms }, Some(left)) = (&one.resolution, row.send_before) {
        let until = left + TimeDelta::milliseconds(i64::try_from(*timeout_ms).unwrap_or(i64::MAX));
        if now < until {
            return Err(NotResolved::TooSoon { unit, until });
        }
    }
    Ok(())
}

/// The act's own event, in the control stream.
fn said(one: &Resolve, row: &Row, subject: &str, operator: &Operator, now: DateTime<Utc>) -> NewEvent {
    let mut event = NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::Control(ControlAct::Resolve), now)
        .with("scope", "plan")
        .with("subject", subject)
        .with("version", one.unit.plan.plan_version)
        .with("unit", one.unit.kind.as_str())
        .with("resolved_step", row.step_key.as_str())
        .with("resolution", one.resolution.as_str());
    if let Resolution::Done { cost, refund, .. } | Resolution::Undone { cost, refund } = &one.resolution {
        event = event.with("cost", *cost).with("refund", *refund);
    }
    operator.sign(event)
}
