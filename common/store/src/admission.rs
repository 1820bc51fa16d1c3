//! Staging and admission: an approved plan gets its rows, and starts when nothing forbids it.

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::budget::Account;
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::{PlanHash, PlanKey, PlanState, StepState, UnitKey, UnitKind};
use serde_json::{Value, json};

use crate::connection::PgConnection;
use crate::constraint_set::{SetHead, SetHeads};
use crate::control::{self, Stops, open_versions};
use crate::error::StoreError;
use crate::event_log;
use crate::finish::{abort_unstarted, snapshot};
use crate::plan_row::{self, Contended, LockedPlan};
use crate::pool::Store;

/// How often a plan that waits for something without a date is looked at again.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(2);

/// One step's row, from the document.
#[derive(Debug, Clone)]
pub struct StagedStep {
    /// Its key.
    pub key: String,
    /// Its connector.
    pub connector: String,
    /// Its action.
    pub action: String,
    /// How many steps it needs.
    pub waits_for: i32,
    /// Not before, where the document says.
    pub not_before: Option<DateTime<Utc>>,
    /// What the first attempt may cost, with its undo.
    pub max_cost: i64,
}

/// What the orchestrator found out about an approved plan, from the document it hashed.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The plan.
    pub plan: PlanKey,
    /// The hash that the orchestrator computed.
    pub hash: PlanHash,
    /// The plan's priority.
    pub priority: i16,
    /// The steps, in the document's order.
    pub steps: Vec<StagedStep>,
    /// `rollback.type`, `rollback.scope` and `on_unknown`.
    pub policy: (&'static str, &'static str, &'static str),
    /// Keys of the steps that cannot be undone.
    pub irreversible: Vec<String>,
    /// The constraints that apply: the plan's own and the verdict's.
    pub constraints: Value,
    /// Their content hash.
    pub constraints_hash: PlanHash,
    /// The operator sets that the decision went by; with newer ones it is made again.
    pub operators: Vec<SetHead>,
    /// The constraint engine's decision, with its inputs, for the log.
    pub decision: Value,
    /// What hard constraints say now: nothing, wait until, or never.
    pub blocked: Option<Blocked>,
    /// Violations of soft constraints and of the hard ones that block, one object each.
    pub violations: Vec<Value>,
}

/// Why a plan may not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// For people.
    pub reason: String,
    /// When it can have changed; none if it never can.
    pub until: Option<DateTime<Utc>>,
}

/// What came of an admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// It runs.
    Executing {
        /// The steps that may be claimed.
        ready: Vec<UnitKey>,
    },
    /// It waits, and is looked at again.
    Waiting(String),
    /// It can never pass.
    Aborted(String),
    /// There is a newer operator set than the decision went by: nothing was done, ask again with it.
    Stale,
    /// It is in another state by now: nothing was done.
    Moved,
}

impl Store {
    /// Stages approved plans and admits those that nothing blocks. One transaction.
    pub async fn admit(
        &self,
        admissions: &[Admission],
        now: DateTime<Utc>,
    ) -> Result<Vec<(PlanKey, Admitted)>, StoreError> {
        let mut tx = self.begin().await?;
        // With every other version of the same plans: only one of them may become active (invariant 9).
        let mut keys: Vec<PlanKey> = admissions.iter().map(|a| a.plan).collect();
        keys.extend(open_versions(&mut tx, &keys.iter().map(|k| k.plan_id).collect::<Vec<_>>()).await?);
        let mut plans = plan_row::lock(&mut tx, keys, Contended::Wait).await?;
        let stops = control::stops(&mut tx).await?;
        let heads = SetHeads::read(&mut tx, plans.values().map(|plan| plan.tenant.as_str())).await?;
        let mut events = Vec::new();
        let mut answers = Vec::with_capacity(admissions.len());
        for admission in admissions {
            let key = admission.plan;
            let active = plans
                .values()
                .find(|other| other.key.plan_id == key.plan_id && other.key != key && other.state.is_active())
                .map(|other| other.key.plan_version);
            let Some(plan) = plans.get_mut(&key) else { continue };
            let answer =
                admit_one(&mut tx, plan, admission, (&stops, &heads, active), &mut events, now).await?;
            answers.push((admission.plan, answer));
        }
        plan_row::write(&mut tx, &plans).await?;
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("admit", tx.commit()).await?;
        Ok(answers)
    }
}

async fn admit_one(
    conn: &mut PgConnection,
    plan: &mut LockedPlan,
    admission: &Admission,
    (stops, heads, other_active): (&Stops, &SetHeads, Option<i32>),
    events: &mut Vec<NewEvent>,
    now: DateTime<Utc>,
) -> Result<Admitted, StoreError> {
    if !matches!(plan.state, PlanState::Approved | PlanState::Staged) {
        return Ok(Admitted::Moved);
    }
    let never = if admission.hash == plan.plan_hash {
        plan.stopped(now)
    } else {
        Some(format!("its stored document hashes to {}, not to what was approved", admission.hash))
    };
    if let Some(reason) = never {
        abort_unstarted(conn, plan, &reason, events, now).await?;
        return Ok(Admitted::Aborted(reason));
    }
    if heads.of(&plan.tenant) != admission.operators {
        plan.wake(Some(now));
        return Ok(Admitted::Stale);
    }
    if plan.state == PlanState::Approved {
        if let Some(version) = other_active {
            return Ok(wait(plan, format!("version {version} of this plan is still active"), None, now));
        }
        events.push(plan.enter(PlanState::Staged, "", now)?);
        stage(conn, plan, admission, now).await?;
    }
    let limit = plan.approved_amount.unwrap_or(plan.budget_amount);
    if let Some(step) = admission.steps.iter().find(|s| s.waits_for == 0 && s.max_cost > limit) {
        let reason =
            format!("step {} may cost {}, the budget is {limit} {}", step.key, step.max_cost, plan.currency);
        events.push(plan.event(EventKind::BudgetRefused, now).step(&step.key, 0).because(&reason));
        abort_unstarted(conn, plan, &reason, events, now).await?;
        return Ok(Admitted::Aborted(reason));
    }
    let changed = |plan: &LockedPlan, reason: &str| plan.wait_reason.as_deref() != Some(reason);
    if let Some(blocked) = &admission.blocked {
        if changed(plan, &blocked.reason) {
            violations(plan, admission, events, now);
        }
        if blocked.until.is_none() {
            abort_unstarted(conn, plan, &blocked.reason, events, now).await?;
            return Ok(Admitted::Aborted(blocked.reason.clone()));
        }
        return Ok(wait(plan, blocked.reason.clone(), blocked.until, now));
    }
    let connectors = admission.steps.iter().map(|s| s.connector.as_str());
    if let Some(reason) = stops.forbid(&plan.tenant, plan.key, connectors) {
        return Ok(wait(plan, reason, None, now));
    }

    violations(plan, admission, events, now);
    snapshot(conn, plan, "admitted", Account::new(limit), now).await?;
    events.push(plan.enter(PlanState::Executing, "", now)?.with("decision", admission.decision.clone()));
    plan.wake(plan.next_bound());
    let roots: Vec<i32> = admission
        .steps
        .iter()
        .zip(0..)
        .filter(|(step, _)| step.waits_for == 0)
        .map(|(_, index)| index)
        .collect();
    sqlx::query!(
        "UPDATE execution_step SET state = 'ready', ready_at = $4
         WHERE plan_id = $1 AND plan_version = $2 AND kind = 'action' AND step_index = ANY($3)
           AND state = 'pending'",
        plan.key.plan_id,
        plan.key.plan_version,
        &roots,
        now,
    )
    .execute(conn)
    .await?;
    for index in &roots {
        let step = usize::try_from(*index).ok().and_then(|i| admission.steps.get(i));
        let key = step.map_or("", |s| s.key.as_str());
        events.push(plan.event(EventKind::Step(StepState::Ready), now).step(key, 0));
    }
    let unit = |index| UnitKey { plan: plan.key, kind: UnitKind::Action, index };
    Ok(Admitted::Executing { ready: roots.into_iter().map(unit).collect() })
}

fn wait(plan: &mut LockedPlan, reason: String, until: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Admitted {
    let again = until.unwrap_or(now + LOOK_AGAIN).max(now + TimeDelta::milliseconds(100));
    let bound = plan.next_bound().unwrap_or(again);
    plan.wait_reason = Some(reason.clone());
    plan.wake(Some(again.min(bound)));
    Admitted::Waiting(reason)
}

fn violations(plan: &LockedPlan, admission: &Admission, events: &mut Vec<NewEvent>, now: DateTime<Utc>) {
    for violation in &admission.violations {
        events.push(
            plan.event(EventKind::ConstraintViolated, now)
                .because(violation.get("reason").and_then(Value::as_str).unwrap_or_default())
                .with("violation", violation.clone())
                .with("constraint_set_hash", admission.constraints_hash.as_str())
                .with("decision", admission.decision.clone()),
        );
    }
}

async fn stage(
    conn: &mut PgConnection,
    plan: &LockedPlan,
    admission: &Admission,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let (id, version) = (plan.key.plan_id, plan.key.plan_version);
    let steps = &admission.steps;
    sqlx::query!(
        "INSERT INTO execution_step (plan_id, plan_version, kind, step_index, step_key, connector, action, tenant, priority,
             state, waits_for, not_before, wait_reason)
         SELECT $1, $2, 'action', place - 1, step_key, connector, action, $3, $4, 'pending', waits_for,
                coalesce(not_before, $5), CASE WHEN not_before > $5 THEN 'not before ' || not_before END
         FROM UNNEST($6::text[], $7::text[], $8::text[], $9::integer[], $10::timestamptz[]) WITH ORDINALITY
              AS n (step_key, connector, action, waits_for, not_before, place)",
        id,
        version,
        plan.tenant,
        admission.priority,
        now,
        &steps.iter().map(|s| s.key.clone()).collect::<Vec<_>>(),
        &steps.iter().map(|s| s.connector.clone()).collect::<Vec<_>>(),
        &steps.iter().map(|s| s.action.clone()).collect::<Vec<_>>(),
        &steps.iter().map(|s| s.waits_for).collect::<Vec<_>>(),
        &steps.iter().map(|s| s.not_before).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO constraint_snapshot (plan_id, plan_version, content_hash, constraints, taken_at, operator_sets)
         VALUES ($1, $2, $3, $4, $5, $6)",
        id,
        version,
        admission.constraints_hash.as_str(),
        json!(admission.constraints),
        now,
        json!(admission.operators),
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO rollback_policy (plan_id, plan_version, type, scope, on_unknown, irreversible)
         VALUES ($1, $2, $3, $4, $5, $6)",
        id,
        version,
        admission.policy.0,
        admission.policy.1,
        admission.policy.2,
        &admission.irreversible,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO budget_account (tenant, currency, plan_id, plan_version, limit_amount)
         VALUES ($1, $2, $3, $4, $5)",
        plan.tenant,
        plan.currency,
        id,
        version,
        plan.approved_amount.unwrap_or(plan.budget_amount),
    )
    .execute(conn)
    .await?;
    Ok(())
}
