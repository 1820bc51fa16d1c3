//! Staging and admission: an approved plan gets its rows, and starts when nothing forbids it.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::budget::Account;
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::{PlanHash, PlanKey, PlanState, StepState, UnitKey, UnitKind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::connection::PgConnection;
use crate::constraint_set::{SetHead, SetHeads};
use crate::control::{self, Stops, open_versions};
use crate::error::StoreError;
use crate::event_log;
use crate::finish::{abort_unstarted, snapshot};
use crate::plan_row::{self, Contended, LockedPlan};
use crate::pool::Store;
use crate::unit_columns::unit_columns;

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
        let mut answers = BTreeMap::new();
        let (mut staged, mut passing) = (Vec::new(), Vec::new());
        for admission in admissions {
            let key = admission.plan;
            let active = plans
                .values()
                .find(|other| other.key.plan_id == key.plan_id && other.key != key && other.state.is_active())
                .map(|other| other.key.plan_version);
            let Some(plan) = plans.get_mut(&key) else { continue };
            match begin(plan, admission, &heads, active, &mut events, now)? {
                Begun::Answer(answer) => drop(answers.insert(key, answer)),
                Begun::Ends(reason) => {
                    abort_unstarted(&mut tx, plan, &reason, &mut events, now).await?;
                    answers.insert(key, Admitted::Aborted(reason));
                }
                Begun::Staged { now: is_new } => {
                    if is_new {
                        staged.push(admission);
                    }
                    passing.push(admission);
                }
            }
        }
        stage(&mut tx, &plans, &staged, now).await?;
        let mut admitted = Vec::new();
        for admission in passing {
            let Some(plan) = plans.get_mut(&admission.plan) else { continue };
            let answer = admit_one(&mut tx, plan, admission, &stops, &mut events, now).await?;
            if let Admitted::Executing { ready } = &answer {
                admitted.push((admission.plan, ready.clone()));
            }
            answers.insert(admission.plan, answer);
        }
        start(&mut tx, &plans, &admitted, now).await?;
        plan_row::write(&mut tx, &plans).await?;
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("admit", tx.commit()).await?;
        Ok(admissions.iter().filter_map(|one| Some((one.plan, answers.remove(&one.plan)?))).collect())
    }
}

/// How an admission begins.
enum Begun {
    /// It goes no further.
    Answer(Admitted),
    /// It can never pass.
    Ends(String),
    /// The plan is staged, by this admission or before.
    Staged { now: bool },
}

fn begin(
    plan: &mut LockedPlan,
    admission: &Admission,
    heads: &SetHeads,
    other_active: Option<i32>,
    events: &mut Vec<NewEvent>,
    now: DateTime<Utc>,
) -> Result<Begun, StoreError> {
    if !matches!(plan.state, PlanState::Approved | PlanState::Staged) {
        return Ok(Begun::Answer(Admitted::Moved));
    }
    let never = if admission.hash == plan.plan_hash {
        plan.stopped(now)
    } else {
        Some(format!("its stored document hashes to {}, not to what was approved", admission.hash))
    };
    if let Some(reason) = never {
        return Ok(Begun::Ends(reason));
    }
    if heads.of(&plan.tenant) != admission.operators {
        plan.wake(Some(now));
        return Ok(Begun::Answer(Admitted::Stale));
    }
    if plan.state == PlanState::Staged {
        return Ok(Begun::Staged { now: false });
    }
    if let Some(version) = other_active {
        let reason = format!("version {version} of this plan is still active");
        return Ok(Begun::Answer(wait(plan, reason, None, now)));
    }
    events.push(plan.enter(PlanState::Staged, "", now)?);
    Ok(Begun::Staged { now: true })
}

async fn admit_one(
    conn: &mut PgConnection,
    plan: &mut LockedPlan,
    admission: &Admission,
    stops: &Stops,
    events: &mut Vec<NewEvent>,
    now: DateTime<Utc>,
) -> Result<Admitted, StoreError> {
    let limit = limit_of(plan);
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
    events.push(plan.enter(PlanState::Executing, "", now)?.with("decision", admission.decision.clone()));
    plan.wake(plan.next_bound());
    let roots: Vec<i32> = admission
        .steps
        .iter()
        .zip(0..)
        .filter(|(step, _)| step.waits_for == 0)
        .map(|(_, index)| index)
        .collect();
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

/// Steps, snapshots of constraints and policies, and accounts of plans that are staged now.
async fn stage(
    conn: &mut PgConnection,
    plans: &BTreeMap<PlanKey, LockedPlan>,
    staged: &[&Admission],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let staged: Vec<(&LockedPlan, &Admission)> =
        staged.iter().filter_map(|one| Some((plans.get(&one.plan)?, *one))).collect();
    if staged.is_empty() {
        return Ok(());
    }
    insert_steps(conn, &staged, now).await?;
    let ids: Vec<Uuid> = staged.iter().map(|(plan, _)| plan.key.plan_id).collect();
    let versions: Vec<i32> = staged.iter().map(|(plan, _)| plan.key.plan_version).collect();
    sqlx::query!(
        "INSERT INTO constraint_snapshot (plan_id, plan_version, content_hash, constraints, taken_at, operator_sets)
         SELECT plan_id, plan_version, content_hash, constraints, $6, operator_sets
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::jsonb[], $5::jsonb[])
              AS n (plan_id, plan_version, content_hash, constraints, operator_sets)",
        &ids,
        &versions,
        &staged.iter().map(|(_, a)| a.constraints_hash.as_str().to_owned()).collect::<Vec<_>>(),
        &staged.iter().map(|(_, a)| json!(a.constraints)).collect::<Vec<_>>(),
        &staged.iter().map(|(_, a)| json!(a.operators)).collect::<Vec<_>>(),
        now,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO rollback_policy (plan_id, plan_version, type, scope, on_unknown, irreversible)
         SELECT plan_id, plan_version, type, scope, on_unknown,
                ARRAY(SELECT jsonb_array_elements_text(irreversible))
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::jsonb[])
              AS n (plan_id, plan_version, type, scope, on_unknown, irreversible)",
        &ids,
        &versions,
        &staged.iter().map(|(_, a)| a.policy.0.to_owned()).collect::<Vec<_>>(),
        &staged.iter().map(|(_, a)| a.policy.1.to_owned()).collect::<Vec<_>>(),
        &staged.iter().map(|(_, a)| a.policy.2.to_owned()).collect::<Vec<_>>(),
        // Arrays of arrays have one length in PostgreSQL, and these differ: each travels as JSON.
        &staged.iter().map(|(_, a)| json!(a.irreversible)).collect::<Vec<_>>(),
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO budget_account (tenant, currency, plan_id, plan_version, limit_amount)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::uuid[], $4::integer[], $5::bigint[])",
        &staged.iter().map(|(plan, _)| plan.tenant.clone()).collect::<Vec<_>>(),
        &staged.iter().map(|(plan, _)| plan.currency.clone()).collect::<Vec<_>>(),
        &ids,
        &versions,
        &staged.iter().map(|(plan, _)| limit_of(plan)).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The tighter of what was submitted and what was approved, smallest unit.
fn limit_of(plan: &LockedPlan) -> i64 {
    plan.approved_amount.unwrap_or(plan.budget_amount)
}

async fn insert_steps(
    conn: &mut PgConnection,
    staged: &[(&LockedPlan, &Admission)],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let steps = || {
        staged.iter().flat_map(|(plan, admission)| {
            admission.steps.iter().zip(0_i32..).map(move |step| (*plan, *admission, step))
        })
    };
    sqlx::query!(
        "INSERT INTO execution_step (plan_id, plan_version, kind, step_index, step_key, connector, action, tenant, priority,
             state, waits_for, not_before, wait_reason)
         SELECT plan_id, plan_version, 'action', step_index, step_key, connector, action, tenant, priority, 'pending',
                waits_for, coalesce(not_before, $1), CASE WHEN not_before > $1 THEN 'not before ' || not_before END
         FROM UNNEST($2::uuid[], $3::integer[], $4::integer[], $5::text[], $6::text[], $7::text[], $8::text[],
                     $9::smallint[], $10::integer[], $11::timestamptz[])
              AS n (plan_id, plan_version, step_index, step_key, connector, action, tenant, priority, waits_for,
                    not_before)",
        now,
        &steps().map(|(plan, ..)| plan.key.plan_id).collect::<Vec<_>>(),
        &steps().map(|(plan, ..)| plan.key.plan_version).collect::<Vec<_>>(),
        &steps().map(|(.., (_, index))| index).collect::<Vec<_>>(),
        &steps().map(|(.., (step, _))| step.key.clone()).collect::<Vec<_>>(),
        &steps().map(|(.., (step, _))| step.connector.clone()).collect::<Vec<_>>(),
        &steps().map(|(.., (step, _))| step.action.clone()).collect::<Vec<_>>(),
        &steps().map(|(plan, ..)| plan.tenant.clone()).collect::<Vec<_>>(),
        &steps().map(|(_, admission, _)| admission.priority).collect::<Vec<_>>(),
        &steps().map(|(.., (step, _))| step.waits_for).collect::<Vec<_>>(),
        &steps().map(|(.., (step, _))| step.not_before).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The first steps of plans that are executing now, and what their accounts held then.
async fn start(
    conn: &mut PgConnection,
    plans: &BTreeMap<PlanKey, LockedPlan>,
    admitted: &[(PlanKey, Vec<UnitKey>)],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if admitted.is_empty() {
        return Ok(());
    }
    let (ids, versions, kinds, indexes) = unit_columns(admitted.iter().flat_map(|(_, ready)| ready));
    sqlx::query!(
        "UPDATE execution_step AS s SET state = 'ready', ready_at = $5
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[])
              AS n (plan_id, plan_version, kind, step_index)
         WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version AND s.kind = n.kind
           AND s.step_index = n.step_index AND s.state = 'pending'",
        &ids,
        &versions,
        &kinds,
        &indexes,
        now,
    )
    .execute(&mut *conn)
    .await?;
    let began = admitted.iter().filter_map(|(key, _)| plans.get(key));
    let began: Vec<(&LockedPlan, Account)> = began.map(|plan| (plan, Account::new(limit_of(plan)))).collect();
    snapshot(conn, &began, "admitted", now).await
}
