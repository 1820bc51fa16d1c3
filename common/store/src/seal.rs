//! The seal: what was registered and what approved it, as a worker reads both before it executes anything, and as a claim
//! holds the rows against it.
//!
//! **Owns** the reading of document and approving verdict together, and the comparison of a plan's row with them.
//! **May be called** by workers that prepare a plan, and by the claim. **Must never** say that a seal stands: whether a
//! document hashes to what its verdict names, and whether that is signed, is found by whoever executes.

use std::sync::Arc;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use dat_plan::budget::Account;
use dat_plan::event::EventKind;
use dat_plan::{PlanDocument, PlanHash, PlanKey, PlanState, UnitKey};
use serde_json::Value;

use crate::error::StoreError;
use crate::event_log;
use crate::plan_row::{self, Contended, LockedPlan};
use crate::pool::Store;
use crate::unit_columns::unit_columns;

/// How the reason begins of every wait of a unit whose plan's rows are not what was approved.
pub const SEAL_BROKEN: &str = "the seal is broken: ";

/// A document and the verdict that approved it, as they are stored.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Which plan version.
    pub plan: PlanKey,
    /// The bytes as submitted.
    pub body: Vec<u8>,
    /// The approving verdict as it was received, where there is one.
    pub approval: Option<StoredVerdict>,
    /// SHA-256 over the stored bytes of both; none where there is no verdict.
    pub digest: Option<Vec<u8>>,
}

/// A verdict as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredVerdict {
    /// As it was received.
    pub verdict: Value,
    /// When: its signature must have been believed then.
    pub received_at: DateTime<Utc>,
}

/// What a worker found to be approved, from the document that it hashed and the verdict that it checked. A claim holds
/// the rows against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// The hash of the document that the worker executes from.
    pub hash: PlanHash,
    /// The verdict's decision.
    pub decision_id: String,
    /// Until when it approves.
    pub expires_at: Option<DateTime<Utc>>,
    /// The tighter budget of the verdict, where it gives one; smallest unit.
    pub approved_amount: Option<i64>,
    /// The budget that binds: the verdict's, else the document's; smallest unit.
    pub limit: i64,
    /// What each step of the document is, by its index.
    pub steps: Arc<[SealedStep]>,
    /// What the stored bytes of document and verdict must hash to now, where this claim is to look.
    pub digest: Option<Vec<u8>>,
}

/// A step as its document has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedStep {
    /// Its key.
    pub key: String,
    /// Its connector.
    pub connector: String,
    /// Its action.
    pub action: String,
}

impl SealedStep {
    /// The steps of a document.
    #[must_use]
    pub fn all(document: &PlanDocument) -> Arc<[Self]> {
        let steps = document.steps.iter().map(|step| Self {
            key: step.key.0.clone(),
            connector: step.connector.clone(),
            action: step.action.clone(),
        });
        steps.collect()
    }
}

impl Seal {
    /// What of a step's row is not what the document has there.
    pub(crate) fn step_broken_by(&self, index: i32, row: &SealedStep) -> Option<String> {
        let step = usize::try_from(index).ok().and_then(|index| self.steps.get(index));
        if step == Some(row) {
            return None;
        }
        let SealedStep { key, connector, action } = row;
        let by_row = format!("step {index} is {key} ({connector}: {action}) by its row");
        Some(match step {
            Some(SealedStep { key, connector, action }) => {
                format!("{by_row} and {key} ({connector}: {action}) by what was approved")
            }
            None => format!("{by_row}, and was never approved"),
        })
    }

    /// What of a plan's row, or of its account, is not what was approved.
    pub(crate) fn broken_by(&self, plan: &LockedPlan, account: Account) -> Option<String> {
        let Some(approval) = &plan.approval else { return Some("its row has no approval".to_owned()) };
        let says = |what: &str, row: &dyn std::fmt::Display, sealed: &dyn std::fmt::Display| {
            Some(format!("its {what} is {row} by its row and {sealed} by what was approved"))
        };
        let until = |end: Option<DateTime<Utc>>| end.map_or("without end".to_owned(), |end| end.to_rfc3339());
        let amount = |limit: Option<i64>| limit.map_or("none".to_owned(), |amount| amount.to_string());
        if approval.plan_hash != self.hash {
            says("hash", &approval.plan_hash, &self.hash)
        } else if approval.decision_id != self.decision_id {
            says("decision", &approval.decision_id, &self.decision_id)
        } else if approval.expires_at != self.expires_at.map(as_stored) {
            says("approval's end", &until(approval.expires_at), &until(self.expires_at))
        } else if plan.approved_amount != self.approved_amount {
            says("approved amount", &amount(plan.approved_amount), &amount(self.approved_amount))
        } else if account.limit != self.limit {
            says("account's limit", &account.limit, &self.limit)
        } else if self.digest.is_some() && plan.digest != self.digest {
            Some("its stored document or verdict was altered".to_owned())
        } else {
            None
        }
    }
}

/// A moment as the database keeps it: to the microsecond, cut.
fn as_stored(moment: DateTime<Utc>) -> DateTime<Utc> {
    moment.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(moment)
}

impl Store {
    /// What is to be executed and what approved it, of plan versions that are registered.
    pub async fn sealed(&self, plans: &[PlanKey]) -> Result<Vec<Sealed>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT p.plan_id, p.plan_version, p.document, v.verdict AS "verdict?",
                    v.received_at AS "received_at?",
                    sha256(p.document || convert_to(v.verdict::text, 'UTF8')) AS digest
             FROM execution_plan p
             JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version) USING (plan_id, plan_version)
             LEFT JOIN plan_verdict v ON v.plan_id = p.plan_id AND v.plan_version = p.plan_version
              AND v.outcome = 'approved'"#,
            &plans.iter().map(|p| p.plan_id).collect::<Vec<_>>(),
            &plans.iter().map(|p| p.plan_version).collect::<Vec<_>>(),
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Sealed {
                plan: PlanKey::new(row.plan_id, row.plan_version),
                body: row.document,
                approval: row
                    .verdict
                    .zip(row.received_at)
                    .map(|(verdict, received_at)| StoredVerdict { verdict, received_at }),
                digest: row.digest,
            })
            .collect())
    }
}

impl Store {
    /// Leaves a plan that has not started, or whose rollback has not begun, as it is, for the reason given, until
    /// somebody looks again.
    pub async fn hold(
        &self,
        plan: PlanKey,
        reason: &str,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let mut plans = plan_row::lock(&mut tx, [plan], Contended::Wait).await?;
        let mut events = Vec::new();
        for plan in plans.values_mut() {
            match plan.state {
                PlanState::Approved | PlanState::Staged => {}
                PlanState::RollingBack if !plan.undo_begun => {}
                _ => continue,
            }
            if plan.wait_reason.as_deref() != Some(reason) {
                events.push(plan.event(EventKind::SealBroken, now).because(reason));
                plan.wait_reason = Some(reason.to_owned());
            }
            plan.wake(Some(plan.next_bound().map_or(until, |bound| bound.min(until))));
        }
        plan_row::write(&mut tx, &plans).await?;
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("sweep.hold", tx.commit()).await?;
        Ok(())
    }

    /// Leaves failed units undecided, each for the reason given, which begins with [`SEAL_BROKEN`], until somebody looks
    /// again; so that they do not stand before others in [`Store::undecided`]. Tells of each once for as long as the
    /// reason is the same; gives how many it told of. A plan that another transaction holds is left to the next look.
    pub async fn leave_undecided(
        &self,
        units: &[(UnitKey, String)],
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<usize, StoreError> {
        if units.is_empty() {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        let plans = plan_row::lock(&mut tx, units.iter().map(|(unit, _)| unit.plan), Contended::Skip).await?;
        let held = || units.iter().filter(|(unit, _)| plans.contains_key(&unit.plan));
        let (ids, versions, kinds, indexes) = unit_columns(held().map(|(unit, _)| unit));
        let left = sqlx::query!(
            r#"WITH undecided AS MATERIALIZED (
                 SELECT s.plan_id, s.plan_version, s.kind, s.step_index, s.step_key, s.attempts, n.reason,
                        s.wait_reason IS DISTINCT FROM n.reason AS news
                 FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::text[])
                      AS n (plan_id, plan_version, kind, step_index, reason)
                 JOIN execution_step s USING (plan_id, plan_version, kind, step_index)
                 WHERE s.needs_decision AND s.state || '' = 'failed'
                 ORDER BY s.plan_id, s.plan_version, s.kind, s.step_index
                 FOR NO KEY UPDATE OF s)
             UPDATE execution_step AS s SET not_before = $6, wait_reason = u.reason
             FROM undecided u
             WHERE s.plan_id = u.plan_id AND s.plan_version = u.plan_version AND s.kind = u.kind
               AND s.step_index = u.step_index
             RETURNING s.plan_id, s.plan_version, u.step_key, u.attempts, u.reason AS "reason!", u.news AS "news!""#,
            &ids,
            &versions,
            &kinds,
            &indexes,
            &held().map(|(_, reason)| reason.clone()).collect::<Vec<_>>(),
            until,
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut events = Vec::new();
        for row in left.into_iter().filter(|row| row.news) {
            if let Some(plan) = plans.get(&PlanKey::new(row.plan_id, row.plan_version)) {
                let event = plan.event(EventKind::SealBroken, now).step(&row.step_key, row.attempts);
                events.push(event.because(&row.reason));
            }
        }
        event_log::append(&mut tx, &events).await?;
        dat_fault::around("undecided.leave", tx.commit()).await?;
        Ok(events.len())
    }
}
