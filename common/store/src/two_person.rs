//! Acts that take two: a first operator asks, a second, different one confirms, and only then is the act in force.
//!
//! **Owns** which acts those are and the requests that wait. It is enforced here, in the transaction of the act, so that
//! no command and no setting of a command can leave it out. Where nothing is set, an act takes one. Names are what
//! operators say of themselves: two people who share a name, or one who uses two, are not told apart.

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::PlanKey;
use dat_plan::event::{ControlAct, EventKind, NewEvent};
use serde::Serialize;
use serde_json::{Value, json};

use crate::connection::PgConnection;
use crate::control::{ControlChange, ControlScope, abort_in, control_in};
use crate::error::StoreError;
use crate::event_log;
use crate::operator::{Operator, Second};
use crate::plan_row::{self, Contended};
use crate::pool::Store;
use crate::resolve::{Resolve, Resolved, resolve_in};

/// What a change of the acts that take two is called in requests.
const POLICY: &str = "set_two_person";

/// An act that takes two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TwoPersonAct {
    /// The word of its event, after `control.`.
    pub act: String,
    /// How long a request waits for the second operator, milliseconds.
    pub valid_for_ms: i64,
    /// Who said so.
    pub set_by: String,
    /// When.
    pub set_at: DateTime<Utc>,
}

/// A request that was made instead of the act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Requested {
    /// What the second operator names.
    pub id: i64,
    /// It can be confirmed before this.
    pub expires_at: DateTime<Utc>,
}

/// A request that waits for its second operator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ControlRequest {
    /// What the second operator names.
    pub id: i64,
    /// The act.
    pub act: String,
    /// What it is about.
    pub scope: String,
    /// Which one; empty for the fleet.
    pub subject: String,
    /// What else the act needs to know.
    pub payload: Option<Value>,
    /// Who asked.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub requested_at: DateTime<Utc>,
    /// It can be confirmed before this.
    pub expires_at: DateTime<Utc>,
    /// Who confirmed it.
    pub confirmed_by: Option<String>,
}

impl ControlRequest {
    /// What the act is about; none where a newer version of DAT asked.
    #[must_use]
    pub fn control_scope(&self) -> Option<ControlScope> {
        ControlScope::of_columns(&self.scope, &self.subject)
    }
}

/// What came of a confirmation.
#[derive(Debug, Clone, PartialEq)]
pub enum Confirmation {
    /// There is no such request.
    NotThere,
    /// Whoever asked cannot confirm as well.
    SamePerson,
    /// It was confirmed before, by this one.
    Before(String),
    /// It expired at this moment.
    Expired(DateTime<Utc>),
    /// A stop, its end, or an abort: this came of the act.
    Control(ControlRequest, ControlChange),
    /// What an operator found out: this came of it.
    Resolved(ControlRequest, Resolved),
}

/// Makes a request of an act that takes two; none where it takes one, or was confirmed. The caller's locks come before:
/// this writes an event.
pub(crate) async fn ask(
    conn: &mut PgConnection,
    act: ControlAct,
    about: (&str, &str),
    payload: Option<Value>,
    operator: &Operator,
    now: DateTime<Utc>,
) -> Result<Option<Requested>, StoreError> {
    if operator.second.is_some() {
        return Ok(None);
    }
    let valid_for =
        sqlx::query_scalar!("SELECT valid_for_ms FROM two_person_act WHERE act = $1", act.as_str())
            .fetch_optional(&mut *conn)
            .await?;
    match valid_for {
        None => Ok(None),
        Some(ms) => request(conn, act.as_str(), about, payload, operator, (ms, now)).await.map(Some),
    }
}

async fn request(
    conn: &mut PgConnection,
    act: &str,
    (scope, subject): (&str, &str),
    payload: Option<Value>,
    operator: &Operator,
    (valid_for_ms, now): (i64, DateTime<Utc>),
) -> Result<Requested, StoreError> {
    let expires_at = now + TimeDelta::milliseconds(valid_for_ms);
    let id = sqlx::query_scalar!(
        "INSERT INTO control_request (act, scope, subject, payload, actor, reason, requested_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING request_id",
        act,
        scope,
        subject,
        payload.clone(),
        operator.actor,
        operator.reason,
        now,
        expires_at,
    )
    .fetch_one(&mut *conn)
    .await?;
    let mut event = NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::Control(ControlAct::Request), now)
        .with("request", id)
        .with("act", act)
        .with("scope", scope)
        .with("subject", subject)
        .with("expires_at", expires_at.to_rfc3339());
    if let Some(payload) = payload {
        event = event.with("payload", payload);
    }
    event_log::append(conn, &[operator.sign(event)]).await?;
    Ok(Requested { id, expires_at })
}

impl Store {
    /// Says which acts take two, and how long a request for one waits. Where some did before, this takes two as well.
    /// The database refuses acts that cannot take two, and waits below a second or above 30 days.
    pub async fn set_two_person(
        &self,
        acts: &[ControlAct],
        valid_for: TimeDelta,
        actor: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<ControlChange, StoreError> {
        let mut tx = self.begin().await?;
        let acts: Vec<String> = acts.iter().map(|act| act.as_str().to_owned()).collect();
        let operator = Operator::alone(actor, reason);
        let change = set_in(&mut tx, &acts, valid_for.num_milliseconds(), &operator, now).await?;
        tx.commit().await?;
        Ok(change)
    }

    /// The acts that take two.
    pub async fn two_person(&self) -> Result<Vec<TwoPersonAct>, StoreError> {
        Ok(sqlx::query_as!(
            TwoPersonAct,
            "SELECT act, valid_for_ms, set_by, set_at FROM two_person_act ORDER BY act"
        )
        .fetch_all(self.pool())
        .await?)
    }

    /// The requests that can be confirmed, oldest first, at most 1,000.
    pub async fn control_requests(&self, now: DateTime<Utc>) -> Result<Vec<ControlRequest>, StoreError> {
        Ok(sqlx::query_as!(
            ControlRequest,
            "SELECT request_id AS id, act, scope, subject, payload, actor, reason, requested_at, expires_at,
                    confirmed_by
             FROM control_request WHERE confirmed_at IS NULL AND expires_at > $1
             ORDER BY request_id LIMIT 1000",
            now,
        )
        .fetch_all(self.pool())
        .await?)
    }

    /// Confirms a request as its second operator: the act is in force when this returns. One transaction.
    pub async fn confirm(
        &self,
        id: i64,
        actor: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<Confirmation, StoreError> {
        let mut tx = self.begin().await?;
        let Some(asked) = request_row(&mut tx, id).await? else { return Ok(Confirmation::NotThere) };
        // Plans are locked first, as by every transaction; then the request, which is read again.
        let scope = asked.control_scope();
        if let Some(ControlScope::Plan(plan)) = &scope {
            let versions = crate::control::open_versions(&mut tx, &[*plan]).await?;
            plan_row::lock(&mut tx, versions, Contended::Wait).await?;
        }
        if same_person(&asked.actor, actor) {
            return Ok(Confirmation::SamePerson);
        }
        let confirmed = sqlx::query!(
            "UPDATE control_request SET confirmed_by = $2, confirmed_at = $3
             WHERE request_id = $1 AND confirmed_at IS NULL AND expires_at > $3",
            id,
            actor,
            now,
        )
        .execute(&mut *tx)
        .await?;
        if confirmed.rows_affected() == 0 {
            let asked = request_row(&mut tx, id).await?;
            let before = asked.as_ref().and_then(|asked| asked.confirmed_by.clone());
            return Ok(match (before, asked) {
                (Some(who), _) => Confirmation::Before(who),
                (None, Some(asked)) => Confirmation::Expired(asked.expires_at),
                (None, None) => Confirmation::NotThere,
            });
        }
        let operator = Operator {
            actor: asked.actor.clone(),
            reason: asked.reason.clone(),
            second: Some(Second { request: id, actor: actor.to_owned(), reason: reason.to_owned() }),
        };
        let unknown = || StoreError::Corrupt(format!("request {id} asks for what this version cannot do"));
        let payload = asked.payload.clone().unwrap_or_default();
        let change = if asked.act == POLICY {
            let acts: Vec<String> = serde_json::from_value(payload["acts"].clone()).map_err(|_| unknown())?;
            let valid_for_ms = payload["valid_for_ms"].as_i64().ok_or_else(unknown)?;
            set_in(&mut tx, &acts, valid_for_ms, &operator, now).await?
        } else {
            let scope = scope.ok_or_else(unknown)?;
            match (asked.act.parse().map_err(|_| unknown())?, &scope) {
                (ControlAct::Pause | ControlAct::DisableConnector, _) => {
                    control_in(&mut tx, &scope, true, &operator, now).await?
                }
                (ControlAct::Resume | ControlAct::EnableConnector, _) => {
                    control_in(&mut tx, &scope, false, &operator, now).await?
                }
                (ControlAct::Abort, ControlScope::Plan(plan)) => {
                    abort_in(&mut tx, *plan, &operator, now).await?
                }
                (ControlAct::Resolve, ControlScope::Plan(_)) => {
                    let plan = serde_json::from_value(payload["plan"].clone()).map_err(|_| unknown())?;
                    let units: Vec<Resolve> =
                        serde_json::from_value(payload["units"].clone()).map_err(|_| unknown())?;
                    let resolved = resolve_in(&mut tx, plan, &units, &operator, now).await?;
                    if matches!(resolved, Resolved::Done { .. }) {
                        tx.commit().await?;
                    }
                    return Ok(Confirmation::Resolved(asked, resolved));
                }
                _ => return Err(unknown()),
            }
        };
        // What changes nothing leaves the request as it was, until it expires.
        if change == ControlChange::Done {
            tx.commit().await?;
        }
        Ok(Confirmation::Control(asked, change))
    }
}

/// Replaces the acts that take two. A change of them takes two while there are any.
async fn set_in(
    conn: &mut PgConnection,
    acts: &[String],
    valid_for_ms: i64,
    operator: &Operator,
    now: DateTime<Utc>,
) -> Result<ControlChange, StoreError> {
    // One change at a time: the second sees what the first set.
    sqlx::query("LOCK TABLE two_person_act IN SHARE ROW EXCLUSIVE MODE").execute(&mut *conn).await?;
    let mut before: Vec<(String, i64)> = sqlx::query!("SELECT act, valid_for_ms FROM two_person_act")
        .fetch_all(&mut *conn)
        .await?
        .into_iter()
        .map(|row| (row.act, row.valid_for_ms))
        .collect();
    let mut after: Vec<(String, i64)> = acts.iter().map(|act| (act.clone(), valid_for_ms)).collect();
    before.sort_unstable();
    after.sort_unstable();
    after.dedup();
    if before == after {
        return Ok(ControlChange::AlreadySo);
    }
    if let (None, Some((_, wait))) = (&operator.second, before.first()) {
        let payload = json!({"acts": acts, "valid_for_ms": valid_for_ms});
        let about = ("fleet", "");
        let asked = request(conn, POLICY, about, Some(payload), operator, (*wait, now)).await?;
        return Ok(ControlChange::Requested(asked));
    }
    sqlx::query!("DELETE FROM two_person_act").execute(&mut *conn).await?;
    let acts: Vec<String> = after.into_iter().map(|(act, _)| act).collect();
    sqlx::query!(
        "INSERT INTO two_person_act (act, valid_for_ms, set_by, set_at)
         SELECT act, $2, $3, $4 FROM UNNEST($1::text[]) AS n (act)",
        &acts,
        valid_for_ms,
        operator.actor,
        now,
    )
    .execute(&mut *conn)
    .await?;
    let event = NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::Control(ControlAct::SetTwoPerson), now)
        .with("scope", "fleet")
        .with("subject", "")
        .with("acts", acts)
        .with("valid_for_ms", valid_for_ms);
    event_log::append(conn, &[operator.sign(event)]).await?;
    Ok(ControlChange::Done)
}

async fn request_row(conn: &mut PgConnection, id: i64) -> Result<Option<ControlRequest>, StoreError> {
    Ok(sqlx::query_as!(
        ControlRequest,
        "SELECT request_id AS id, act, scope, subject, payload, actor, reason, requested_at, expires_at,
                confirmed_by
         FROM control_request WHERE request_id = $1",
        id,
    )
    .fetch_optional(conn)
    .await?)
}

/// As the database compares them.
fn same_person(one: &str, other: &str) -> bool {
    one.trim().to_lowercase() == other.trim().to_lowercase()
}
