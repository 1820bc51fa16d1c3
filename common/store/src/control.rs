//! Control: stops that operators put in force, read in every claim transaction.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dat_plan::event::{ControlAct, EventKind, NewEvent};
use dat_plan::{PlanKey, PlanState, StepState};
use uuid::Uuid;

use crate::account::{Ledger, held_accounts};
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::event_log;
use crate::finish::{self, abort_unstarted, start_rollback};
use crate::operator::Operator;
use crate::plan_row::{self, Contended, LockedPlan};
use crate::pool::Store;
use crate::two_person::{self, Requested};
use crate::wake::{breaker_wait, disabled_wait, wake};

/// What a stop is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "scope", content = "subject")]
pub enum ControlScope {
    /// Everything.
    Fleet,
    /// One tenant's plans.
    Tenant(String),
    /// One plan.
    Plan(Uuid),
    /// Steps of one connector.
    Connector(String),
}

impl ControlScope {
    pub(crate) fn columns(&self) -> (&'static str, String) {
        match self {
            Self::Fleet => ("fleet", String::new()),
            Self::Tenant(tenant) => ("tenant", tenant.clone()),
            Self::Plan(id) => ("plan", id.to_string()),
            Self::Connector(name) => ("connector", name.clone()),
        }
    }

    /// What its columns say; none where they say nothing that this version knows.
    pub(crate) fn of_columns(scope: &str, subject: &str) -> Option<Self> {
        Some(match scope {
            "fleet" => Self::Fleet,
            "tenant" => Self::Tenant(subject.to_owned()),
            "plan" => Self::Plan(subject.parse().ok()?),
            "connector" => Self::Connector(subject.to_owned()),
            _ => return None,
        })
    }

    const fn act(&self, stop: bool) -> ControlAct {
        match (self, stop) {
            (Self::Connector(_), true) => ControlAct::DisableConnector,
            (Self::Connector(_), false) => ControlAct::EnableConnector,
            (_, true) => ControlAct::Pause,
            (_, false) => ControlAct::Resume,
        }
    }
}

/// A stop in force.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Stop {
    /// `fleet`, `tenant`, `plan` or `connector`; `breaker` for a connector whose breaker is forced open.
    pub scope: String,
    /// Which one; empty for the fleet.
    pub subject: String,
    /// Who stopped it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// What an operator's act changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlChange {
    /// It takes a second operator: nothing is changed until one confirms the request.
    Requested(Requested),
    /// It is in force now.
    Done,
    /// It was so before: nothing changed, no event.
    AlreadySo,
    /// There is no such plan, or it is over.
    NotThere,
}

/// The stops in force, as a claim reads them.
#[derive(Debug, Default)]
pub(crate) struct Stops(BTreeMap<(String, String), Stop>);

impl Stops {
    /// Why an undo of a plan may not run, if so: a pause of the plan itself holds what goes forward, not what unwinds.
    pub(crate) fn forbid_undo(&self, tenant: &str, connector: &str) -> Option<String> {
        self.forbid(tenant, PlanKey::CONTROL, [connector])
    }

    /// Why a plan may not act through these connectors, if so.
    pub(crate) fn forbid<'a>(
        &self,
        tenant: &str,
        plan: PlanKey,
        connectors: impl IntoIterator<Item = &'a str>,
    ) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let find = |scope: &str, subject: &str| self.0.get(&(scope.to_owned(), subject.to_owned()));
        let said = |what: String, stop: &Stop| format!("{what} by {}: {}", stop.actor, stop.reason);
        find("fleet", "")
            .map(|stop| said("the fleet is paused".to_owned(), stop))
            .or_else(|| find("tenant", tenant).map(|stop| said(format!("tenant {tenant} is paused"), stop)))
            .or_else(|| {
                find("plan", &plan.plan_id.to_string())
                    .map(|stop| said("the plan is paused".to_owned(), stop))
            })
            .or_else(|| {
                connectors.into_iter().find_map(|connector| {
                    let disabled =
                        find("connector", connector).map(|stop| said(disabled_wait(connector), stop));
                    let forced = || {
                        find("breaker", connector)
                            .map(|stop| said(format!("{}forced open", breaker_wait(connector)), stop))
                    };
                    disabled.or_else(forced)
                })
            })
    }
}

pub(crate) async fn stops(conn: &mut PgConnection) -> Result<Stops, StoreError> {
    let rows = sqlx::query_as!(
        Stop,
        r#"SELECT scope AS "scope!", subject AS "subject!", actor AS "actor!", reason AS "reason!",
                  since AS "since!"
           FROM control_state
           UNION ALL
           SELECT 'breaker', connector, actor, reason, since FROM breaker_force WHERE forced = 'open'"#
    )
    .fetch_all(conn)
    .await?;
    Ok(Stops(rows.into_iter().map(|stop| ((stop.scope.clone(), stop.subject.clone()), stop)).collect()))
}

impl Store {
    /// Puts a stop in force, or lifts it. No claim that begins after this has committed goes against it.
    pub async fn control(
        &self,
        scope: &ControlScope,
        stop: bool,
        actor: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<ControlChange, StoreError> {
        let mut tx = self.begin().await?;
        let change = control_in(&mut tx, scope, stop, &Operator::alone(actor, reason), now).await?;
        tx.commit().await?;
        Ok(change)
    }

    /// Ends a plan: what never started is skipped, what was done is undone by its own rollback.
    pub async fn abort(
        &self,
        plan_id: Uuid,
        actor: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<ControlChange, StoreError> {
        let mut tx = self.begin().await?;
        let change = abort_in(&mut tx, plan_id, &Operator::alone(actor, reason), now).await?;
        tx.commit().await?;
        Ok(change)
    }

    /// The stops in force.
    pub async fn stops(&self) -> Result<Vec<Stop>, StoreError> {
        Ok(sqlx::query_as!(
            Stop,
            r#"SELECT scope AS "scope!", subject AS "subject!", actor AS "actor!", reason AS "reason!",
                      since AS "since!"
               FROM control_state
               UNION ALL
               SELECT 'breaker', connector, actor, reason, since FROM breaker_force WHERE forced = 'open'
               ORDER BY 1, 2"#
        )
        .fetch_all(self.pool())
        .await?)
    }
}

/// Puts a stop in force, or lifts it, within a transaction.
pub(crate) async fn control_in(
    conn: &mut PgConnection,
    scope: &ControlScope,
    stop: bool,
    operator: &Operator,
    now: DateTime<Utc>,
) -> Result<ControlChange, StoreError> {
    let (word, subject) = scope.columns();
    let mut events = Vec::new();
    let mut plans = BTreeMap::new();
    if let ControlScope::Plan(id) = scope {
        let versions = open_versions(&mut *conn, &[*id]).await?;
        plans = plan_row::lock(&mut *conn, versions, Contended::Wait).await?;
        if plans.values().all(|plan| plan.state.is_end()) {
            return Ok(ControlChange::NotThere);
        }
    }
    let act = scope.act(stop);
    if let Some(request) = two_person::ask(&mut *conn, act, (word, &subject), None, operator, now).await? {
        return Ok(ControlChange::Requested(request));
    }
    let reason = operator.reason.as_str();
    let changed = if stop {
        sqlx::query!(
            "INSERT INTO control_state (scope, subject, actor, reason, since) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
            word,
            subject,
            operator.actor,
            reason,
            now,
        )
        .execute(&mut *conn)
        .await?
    } else {
        sqlx::query!("DELETE FROM control_state WHERE scope = $1 AND subject = $2", word, subject)
            .execute(&mut *conn)
            .await?
    };
    let mut any = changed.rows_affected() > 0;
    if let (ControlScope::Connector(connector), false, true) = (scope, stop, any) {
        wake(&mut *conn, connector, &disabled_wait(connector), now).await?;
    }
    for plan in plans.values_mut() {
        match (stop, plan.state) {
            (true, PlanState::Executing) => {
                events.push(operator.sign(plan.enter(PlanState::Paused, reason, now)?));
                plan.wake(plan.next_bound());
                any = true;
            }
            (false, PlanState::Paused) => {
                events.push(operator.sign(plan.enter(PlanState::Executing, reason, now)?));
                plan.wake(plan.next_bound());
                // A step that failed for good under `manual` gets one more decision: an operator wants it tried.
                let again = sqlx::query!(
                    "UPDATE execution_step
                     SET state = 'ready', ready_at = $3, not_before = $3, wait_reason = NULL, ended_at = NULL
                     WHERE plan_id = $1 AND plan_version = $2 AND kind = 'action' AND state = 'failed'
                       AND NOT needs_decision
                     RETURNING step_key, attempts",
                    plan.key.plan_id,
                    plan.key.plan_version,
                    now,
                )
                .fetch_all(&mut *conn)
                .await?;
                for step in again {
                    let ready = plan.event(EventKind::Step(StepState::Ready), now);
                    events.push(ready.step(&step.step_key, step.attempts).because(reason));
                }
                if plan.steps_done == plan.steps_total {
                    // Its last step completed while it was paused: no settlement is to come that would end it.
                    complete(&mut *conn, plan, &mut events, now).await?;
                }
                any = true;
            }
            _ => {}
        }
    }
    if !any {
        return Ok(ControlChange::AlreadySo);
    }
    let event = NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::Control(act), now)
        .with("scope", word)
        .with("subject", subject);
    events.push(operator.sign(event));
    plan_row::write(&mut *conn, &plans).await?;
    event_log::append(&mut *conn, &events).await?;
    Ok(ControlChange::Done)
}

/// Ends a plan within a transaction.
pub(crate) async fn abort_in(
    conn: &mut PgConnection,
    plan_id: Uuid,
    operator: &Operator,
    now: DateTime<Utc>,
) -> Result<ControlChange, StoreError> {
    let versions = open_versions(&mut *conn, &[plan_id]).await?;
    let mut plans = plan_row::lock(&mut *conn, versions, Contended::Wait).await?;
    let mut events = Vec::new();
    let abortable =
        |state: PlanState| !state.is_end() && !matches!(state, PlanState::RollingBack | PlanState::Stuck);
    let subject = plan_id.to_string();
    if plans.values().any(|plan| abortable(plan.state))
        && let Some(request) =
            two_person::ask(&mut *conn, ControlAct::Abort, ("plan", &subject), None, operator, now).await?
    {
        return Ok(ControlChange::Requested(request));
    }
    let why = format!("aborted by {}: {}", operator.names(), operator.reason);
    let mut change = ControlChange::NotThere;
    for plan in plans.values_mut() {
        match plan.state {
            PlanState::Executing | PlanState::Paused => {
                start_rollback(&mut *conn, plan, &why, &mut events, now).await?;
                change = ControlChange::Done;
            }
            PlanState::RollingBack | PlanState::Stuck if change == ControlChange::NotThere => {
                change = ControlChange::AlreadySo;
            }
            state if !abortable(state) => {}
            _ => {
                abort_unstarted(&mut *conn, plan, &why, &mut events, now).await?;
                change = ControlChange::Done;
            }
        }
    }
    if change == ControlChange::Done {
        // A pause of the plan would hold its undos too.
        sqlx::query!("DELETE FROM control_state WHERE scope = 'plan' AND subject = $1", subject)
            .execute(&mut *conn)
            .await?;
        let event = NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::Control(ControlAct::Abort), now)
            .with("scope", "plan")
            .with("subject", subject);
        events.push(operator.sign(event));
        plan_row::write(&mut *conn, &plans).await?;
        event_log::append(&mut *conn, &events).await?;
    }
    Ok(change)
}

/// The versions of these plans that have not ended.
pub(crate) async fn open_versions(
    conn: &mut PgConnection,
    plan_ids: &[Uuid],
) -> Result<Vec<PlanKey>, StoreError> {
    Ok(sqlx::query!(
        "SELECT plan_id, plan_version FROM execution_plan WHERE plan_id = ANY($1) AND ended_at IS NULL",
        plan_ids
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| PlanKey::new(row.plan_id, row.plan_version))
    .collect())
}

/// Ends a plan whose every step is done.
async fn complete(
    conn: &mut PgConnection,
    plan: &mut LockedPlan,
    events: &mut Vec<NewEvent>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let held = held_accounts(conn, [plan.key]).await?;
    let mut ledger = Ledger::open(conn, [plan.key], &[], &held, now).await?;
    let ended = finish::end(conn, &mut ledger, plan, PlanState::Completed, now).await?;
    ledger.write(conn).await?;
    events.append(&mut ledger.events);
    events.push(ended);
    Ok(())
}
