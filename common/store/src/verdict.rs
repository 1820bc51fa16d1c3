//! Governance's verdicts: bound to exactly the plan version and hash they name, or refused.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dat_plan::approval::{Outcome, Verdict};
use dat_plan::check::CheckedVerdict;
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::signing::{KeyRing, SignatureFault};
use dat_plan::{Fault, FaultCode, PlanKey, PlanState};
use serde_json::Value;

use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::event_log;
use crate::finish::{abort_unstarted, start_rollback};
use crate::plan_row::{self, Contended, LockedPlan};
use crate::pool::Store;

/// Why a verdict is parked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// No such plan version is registered.
    #[error("no plan {0} is registered")]
    NoSuchPlan(String),
    /// It names another hash than the registered document's.
    #[error("the verdict is of {named}, the registered document is {registered}")]
    OtherHash {
        /// What the verdict names.
        named: String,
        /// What is registered.
        registered: String,
    },
    /// Another verdict came first, or the plan is past being judged.
    #[error("{0}")]
    TooLate(String),
    /// It widens what the plan asked for.
    #[error("a verdict may tighten the budget, never widen it or change its currency")]
    Widens,
    /// Keys are configured, and its signature does not stand when it is received.
    #[error(transparent)]
    Signature(#[from] SignatureFault),
    /// Its approver saw other operators' rules than governance was told of for this plan version.
    #[error("the verdict is of the constraint sets {named}, governance was told of {told}")]
    OtherConstraints {
        /// What the verdict names.
        named: String,
        /// What the approval package named.
        told: String,
    },
}

impl Conflict {
    /// The same for the sender: where in the verdict, and which kind.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let (pointer, code) = match self {
            Self::NoSuchPlan(_) | Self::OtherHash { .. } | Self::TooLate(_) | Self::Widens => {
                ("", FaultCode::VerdictMismatch)
            }
            Self::OtherConstraints { .. } => ("/constraint_set_hash", FaultCode::OtherConstraints),
            Self::Signature(fault) => match fault {
                SignatureFault::Missing("key_id") => ("/key_id", FaultCode::Unsigned),
                SignatureFault::Missing(_) => ("/signature", FaultCode::Unsigned),
                SignatureFault::UnknownKey(_) => ("/key_id", FaultCode::UnknownKey),
                SignatureFault::NotYet { .. } => ("/key_id", FaultCode::KeyNotYetValid),
                SignatureFault::Expired { .. } => ("/key_id", FaultCode::KeyExpired),
                _ => ("/signature", FaultCode::WrongSignature),
            },
        };
        Fault::new(pointer, code, self.to_string())
    }
}

/// What became of a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// It binds.
    Bound,
    /// This decision was bound before.
    Repeat,
    /// It is to be parked.
    Parked(Conflict),
}

impl Store {
    /// Binds verdicts, in their order. Between approved and rejected the first wins; a revocation that matches always
    /// binds, also before its approval. Where there are keys, each must be signed with one that is believed now; one
    /// that was bound before is not asked again. One transaction.
    pub async fn bind_verdicts(
        &self,
        verdicts: &[CheckedVerdict],
        keys: &KeyRing,
        now: DateTime<Utc>,
    ) -> Result<Vec<Bound>, StoreError> {
        let mut tx = self.begin().await?;
        let judged = verdicts.iter().map(|v| v.verdict.plan());
        let mut plans = plan_row::lock(&mut tx, judged, Contended::Wait).await?;
        let mut earlier = bound_before(&mut tx, &plans).await?;
        let told = told_constraints(&mut tx, &plans).await?;
        let (mut events, mut bound) = (Vec::new(), Vec::new());
        let mut answers = Vec::with_capacity(verdicts.len());
        for CheckedVerdict { verdict, value } in verdicts {
            let Some(plan) = plans.get_mut(&verdict.plan()) else {
                answers.push(Bound::Parked(Conflict::NoSuchPlan(verdict.plan().to_string())));
                continue;
            };
            let before = earlier.entry(plan.key).or_default();
            let same = |(id, outcome): &(String, String)| {
                *id == verdict.decision_id && *outcome == verdict.outcome.as_str()
            };
            if verdict.plan_hash == plan.plan_hash && before.iter().any(same) {
                answers.push(Bound::Repeat);
                continue;
            }
            let stands = if keys.is_empty() { Ok(()) } else { keys.verify(value, now).map(drop) };
            let fitting = stands.map_err(Conflict::from).and_then(|()| {
                fits(plan, verdict, before)?;
                saw_the_rules(verdict, told.get(&plan.key).map(String::as_str))
            });
            if let Err(conflict) = fitting {
                answers.push(Bound::Parked(conflict));
                continue;
            }
            before.push((verdict.decision_id.clone(), verdict.outcome.as_str().to_owned()));
            bound.push((verdict, value));
            apply(&mut tx, plan, (verdict, value), &mut events, now).await?;
            answers.push(Bound::Bound);
        }
        record(&mut tx, &bound, now).await?;
        approve(&mut tx, &bound).await?;
        plan_row::write(&mut tx, &plans).await?;
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("verdict", tx.commit()).await?;
        Ok(answers)
    }
}

type Earlier = BTreeMap<PlanKey, Vec<(String, String)>>;

async fn bound_before(
    conn: &mut PgConnection,
    plans: &BTreeMap<PlanKey, LockedPlan>,
) -> Result<Earlier, StoreError> {
    let rows = sqlx::query!(
        "SELECT v.plan_id, v.plan_version, v.decision_id, v.outcome
         FROM plan_verdict v
         JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version) USING (plan_id, plan_version)",
        &plans.keys().map(|k| k.plan_id).collect::<Vec<_>>(),
        &plans.keys().map(|k| k.plan_version).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    let mut earlier = Earlier::new();
    for row in rows {
        let key = PlanKey::new(row.plan_id, row.plan_version);
        earlier.entry(key).or_default().push((row.decision_id, row.outcome));
    }
    Ok(earlier)
}

/// The hash of the operators' sets that each plan's approval package named. An older worker has it in the log alone.
async fn told_constraints(
    conn: &mut PgConnection,
    plans: &BTreeMap<PlanKey, LockedPlan>,
) -> Result<BTreeMap<PlanKey, String>, StoreError> {
    let rows = sqlx::query!(
        "SELECT p.plan_id, p.plan_version,
                coalesce(p.constraint_set_hash,
                         (SELECT e.data->>'constraint_set_hash' FROM event_stream s
                          JOIN execution_event e USING (partition_date, plan_id, plan_version)
                          WHERE s.plan_id = p.plan_id AND s.plan_version = p.plan_version
                            AND e.kind = 'plan.approval_requested' AND e.sequence <= 3 LIMIT 1)) AS told
         FROM execution_plan p
         JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version) USING (plan_id, plan_version)",
        &plans.keys().map(|k| k.plan_id).collect::<Vec<_>>(),
        &plans.keys().map(|k| k.plan_version).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    let told = |(id, version, told): (_, _, Option<String>)| Some((PlanKey::new(id, version), told?));
    Ok(rows.into_iter().filter_map(|row| told((row.plan_id, row.plan_version, row.told))).collect())
}

/// Where a verdict says which operators' rules its approver saw, they are those that governance was told of. It need not
/// say: every claim goes by the newest rules, whatever was seen.
fn saw_the_rules(verdict: &Verdict, told: Option<&str>) -> Result<(), Conflict> {
    match verdict.constraint_set_hash.as_deref() {
        Some(named) if Some(named) != told => Err(Conflict::OtherConstraints {
            named: named.to_owned(),
            told: told.unwrap_or("none").to_owned(),
        }),
        _ => Ok(()),
    }
}

fn fits(plan: &LockedPlan, verdict: &Verdict, before: &[(String, String)]) -> Result<(), Conflict> {
    if verdict.plan_hash != plan.plan_hash {
        return Err(Conflict::OtherHash {
            named: verdict.plan_hash.to_string(),
            registered: plan.plan_hash.to_string(),
        });
    }
    // Always, also under the id of the decision that it takes back.
    if verdict.outcome == Outcome::Revoked {
        return Ok(());
    }
    if before.iter().any(|(id, _)| *id == verdict.decision_id) {
        return Err(Conflict::TooLate(format!(
            "decision {} was bound with another outcome",
            verdict.decision_id
        )));
    }
    if plan.revoked_at.is_some() {
        return Err(Conflict::TooLate("the approval was revoked before it came".to_owned()));
    }
    if let Some((id, outcome)) = before.iter().find(|(_, outcome)| outcome != Outcome::Revoked.as_str()) {
        return Err(Conflict::TooLate(format!("decision {id} came first: {outcome}")));
    }
    if plan.state != PlanState::SubmittedForApproval {
        return Err(Conflict::TooLate(format!("the plan is {} already", plan.state)));
    }
    match &verdict.budget {
        Some(budget) if budget.amount > plan.budget_amount || budget.currency.0 != plan.currency => {
            Err(Conflict::Widens)
        }
        _ => Ok(()),
    }
}

/// A verdict that binds, and as it was received.
type Binding<'a> = (&'a Verdict, &'a Value);

async fn record(
    conn: &mut PgConnection,
    bound: &[Binding<'_>],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if bound.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO plan_verdict
             (plan_id, plan_version, decision_id, outcome, plan_hash, approver, verdict, received_at)
         SELECT plan_id, plan_version, decision_id, outcome, plan_hash, approver, verdict, $8
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[], $7::jsonb[])
              AS n (plan_id, plan_version, decision_id, outcome, plan_hash, approver, verdict)",
        &bound.iter().map(|(v, _)| v.plan_id).collect::<Vec<_>>(),
        &bound.iter().map(|(v, _)| v.plan_version).collect::<Vec<_>>(),
        &bound.iter().map(|(v, _)| v.decision_id.clone()).collect::<Vec<_>>(),
        &bound.iter().map(|(v, _)| v.outcome.as_str().to_owned()).collect::<Vec<_>>(),
        &bound.iter().map(|(v, _)| v.plan_hash.to_string()).collect::<Vec<_>>(),
        &bound.iter().map(|(v, _)| v.approver.clone()).collect::<Vec<_>>(),
        &bound.iter().map(|(_, as_sent)| (*as_sent).clone()).collect::<Vec<_>>(),
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes what approved plans that wait for their verdict; their state is written with the plans.
async fn approve(conn: &mut PgConnection, bound: &[Binding<'_>]) -> Result<(), StoreError> {
    let approved: Vec<&Verdict> =
        bound.iter().map(|(v, _)| *v).filter(|v| v.outcome == Outcome::Approved).collect();
    if approved.is_empty() {
        return Ok(());
    }
    let written = sqlx::query!(
        "UPDATE execution_plan AS p
         SET approval_decision = n.decision, approval_hash = n.hash, approval_expires_at = n.expires_at,
             approved_amount = n.amount
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[])
              AS n (plan_id, plan_version, decision, hash, expires_at, amount)
         WHERE p.plan_id = n.plan_id AND p.plan_version = n.plan_version AND p.state = $7",
        &approved.iter().map(|v| v.plan_id).collect::<Vec<_>>(),
        &approved.iter().map(|v| v.plan_version).collect::<Vec<_>>(),
        &approved.iter().map(|v| v.decision_id.clone()).collect::<Vec<_>>(),
        &approved.iter().map(|v| v.plan_hash.to_string()).collect::<Vec<_>>(),
        &approved.iter().map(|v| v.expires_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &approved.iter().map(|v| v.budget.as_ref().map(|b| b.amount)).collect::<Vec<_>>() as &[Option<i64>],
        PlanState::SubmittedForApproval.as_str(),
    )
    .execute(conn)
    .await?;
    plan_row::assert_rows(written.rows_affected(), approved.len(), "approved plan")
}

async fn apply(
    conn: &mut PgConnection,
    plan: &mut LockedPlan,
    (verdict, as_sent): (&Verdict, &Value),
    events: &mut Vec<NewEvent>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let reason = verdict.reason.clone().unwrap_or_default();
    let waited = (now - plan.registered_at).num_milliseconds().max(0);
    let judged = |event: NewEvent| {
        event.with("decision_id", verdict.decision_id.as_str()).with("approver", verdict.approver.as_str())
    };
    // As it was received: its signature is over this.
    let evidence = |event: NewEvent| judged(event).with("verdict", as_sent.clone());
    match verdict.outcome {
        Outcome::Approved => {
            events.push(evidence(plan.enter(PlanState::Approved, &reason, now)?).with("waited_ms", waited));
            // Due for staging and admission at once.
            plan.wake(Some(now));
        }
        Outcome::Rejected => {
            let why = if reason.is_empty() { "governance rejected it" } else { &reason };
            events.push(evidence(plan.enter(PlanState::Rejected, why, now)?).with("waited_ms", waited));
        }
        Outcome::Revoked => {
            plan.revoked_at = Some(now);
            plan.dirty = true;
            // An archived plan's stream is closed.
            if plan.state != PlanState::Archived {
                events.push(evidence(plan.event(EventKind::Revoked, now)).because(&reason));
            }
            let why = if reason.is_empty() {
                "its approval was revoked".to_owned()
            } else {
                format!("its approval was revoked: {reason}")
            };
            match plan.state {
                PlanState::Executing | PlanState::Paused => {
                    start_rollback(conn, plan, &why, events, now).await?;
                }
                PlanState::Draft
                | PlanState::SubmittedForApproval
                | PlanState::Approved
                | PlanState::Staged => {
                    abort_unstarted(conn, plan, &why, events, now).await?;
                    let aborted = events.pop();
                    events.extend(aborted.map(judged));
                }
                // Over, or being unwound: recorded, and nothing more to stop.
                _ => {}
            }
        }
    }
    Ok(())
}
