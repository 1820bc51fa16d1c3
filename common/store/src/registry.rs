//! The Plan Registry: plan versions, append-only.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dat_plan::approval::{PackageFacts, Readiness};
use dat_plan::document::Mode;
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::hash::NoCanonicalForm;
use dat_plan::{Fault, FaultCode, PlanDocument, PlanHash, PlanKey, PlanState};
use serde_json::{Map, Value, json};

use crate::error::StoreError;
use crate::event_log;
use crate::package;
use crate::pool::Store;

/// A submission that passed the checks.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The document, read.
    pub document: PlanDocument,
    /// The document, as submitted.
    pub body: Vec<u8>,
    /// Its hash.
    pub hash: PlanHash,
    /// Plan Builder's report.
    pub readiness: Readiness,
    /// The approval package, as far as the document tells: the `data` of `plan.approval_requested`. What is in force at
    /// that moment (operators' rules, the tenant's budget, the version approved last) is filled in under the transaction.
    pub package: Map<String, Value>,
    /// W3C trace context.
    pub traceparent: String,
    /// The submission's `message_id`, where it had one.
    pub message_id: Option<String>,
    /// Who submitted it, as the broker validated it; none where the broker was told none.
    pub submitter: Option<String>,
}

/// What became of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// It is registered, and governance is asked.
    New,
    /// The same content was registered before: the same plan.
    Same,
    /// It is refused, and nothing is touched.
    Refused(Vec<Fault>),
}

/// A document as it is stored.
#[derive(Debug, Clone)]
pub struct StoredDocument {
    /// Which plan version.
    pub plan: PlanKey,
    /// The bytes as submitted.
    pub body: Vec<u8>,
}

impl Store {
    /// Registers submissions, each once, and asks governance about the new ones. The answers come in the order of the
    /// submissions. One transaction.
    pub async fn register(
        &self,
        submissions: &[Registration],
        now: DateTime<Utc>,
    ) -> Result<Vec<Registered>, StoreError> {
        let mut tx = self.begin().await?;
        let ids: Vec<uuid::Uuid> = submissions.iter().map(|s| s.document.plan_id).collect();
        let tenants: Vec<String> = submissions.iter().map(|s| s.document.tenant.clone()).collect();
        sqlx::query!(
            "INSERT INTO plan_owner (plan_id, tenant)
             SELECT DISTINCT ON (plan_id) plan_id, tenant
             FROM UNNEST($1::uuid[], $2::text[]) WITH ORDINALITY AS n (plan_id, tenant, place)
             ORDER BY plan_id, place
             ON CONFLICT DO NOTHING",
            &ids,
            &tenants
        )
        .execute(&mut *tx)
        .await?;
        let owners: BTreeMap<uuid::Uuid, String> =
            sqlx::query!("SELECT plan_id, tenant FROM plan_owner WHERE plan_id = ANY($1)", &ids)
                .fetch_all(&mut *tx)
                .await?
                .into_iter()
                .map(|row| (row.plan_id, row.tenant))
                .collect();
        // Of each plan version the owner's first, in id order, so that two batches with the same plans wait for each
        // other and do not deadlock.
        let mut first: BTreeMap<PlanKey, usize> = BTreeMap::new();
        for (place, submission) in submissions.iter().enumerate() {
            if owners.get(&submission.document.plan_id) == Some(&submission.document.tenant) {
                first.entry(submission.document.key()).or_insert(place);
            }
        }
        let owned: Vec<&Registration> = first.values().map(|place| &submissions[*place]).collect();
        let supersedes = superseded(&mut tx, &first).await?;
        let mut facts = package::facts(&mut tx, owned.iter().map(|s| &s.document), now).await?;
        let inserted = insert_plans(&mut tx, &owned, (&supersedes, &facts), now).await?;
        let new: Vec<&Registration> =
            owned.into_iter().filter(|c| inserted.contains(&c.document.key())).collect();
        let streams: Vec<_> = new.iter().map(|c| (c.document.key(), c.traceparent.clone())).collect();
        event_log::open_streams(&mut tx, &streams, now).await?;
        let mut events: Vec<NewEvent> = Vec::with_capacity(3 * new.len());
        for submission in &new {
            let facts = facts.remove(&submission.document.key()).unwrap_or_default();
            events.extend(registration_events(submission, &supersedes, facts, now)?);
        }
        event_log::append(&mut tx, &events).await?;

        let keys: Vec<PlanKey> = first.keys().copied().collect();
        let stored: BTreeMap<PlanKey, String> = sqlx::query!(
            "SELECT p.plan_id, p.plan_version, p.plan_hash
             FROM execution_plan p
             JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version) USING (plan_id, plan_version)",
            &keys.iter().map(|k| k.plan_id).collect::<Vec<_>>(),
            &keys.iter().map(|k| k.plan_version).collect::<Vec<_>>(),
        )
        .fetch_all(&mut *tx)
        .await?
        .into_iter()
        .map(|row| (PlanKey::new(row.plan_id, row.plan_version), row.plan_hash))
        .collect();
        dat_fault::around("register", tx.commit()).await?;

        Ok(submissions
            .iter()
            .enumerate()
            .map(|(place, submission)| {
                let key = submission.document.key();
                let is_first = first.get(&key) == Some(&place);
                match stored.get(&key) {
                    _ if owners.get(&key.plan_id) != Some(&submission.document.tenant) => {
                        Registered::Refused(vec![Fault::new(
                            "/tenant",
                            FaultCode::ForeignTenant,
                            "this plan id belongs to another tenant; submit under a new plan id",
                        )])
                    }
                    Some(hash) if hash != submission.hash.as_str() => Registered::Refused(vec![Fault::new(
                        "/plan_version",
                        FaultCode::VersionConflict,
                        format!("{key} is registered with other content ({hash}); a change is a new version"),
                    )]),
                    Some(_) if is_first && inserted.contains(&key) => Registered::New,
                    _ => Registered::Same,
                }
            })
            .collect())
    }

    /// Reads documents as submitted.
    pub async fn documents(&self, plans: &[PlanKey]) -> Result<Vec<StoredDocument>, StoreError> {
        let rows = sqlx::query!(
            "SELECT p.plan_id, p.plan_version, p.document
             FROM execution_plan p
             JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version) USING (plan_id, plan_version)",
            &plans.iter().map(|k| k.plan_id).collect::<Vec<_>>(),
            &plans.iter().map(|k| k.plan_version).collect::<Vec<_>>(),
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| StoredDocument {
                plan: PlanKey::new(row.plan_id, row.plan_version),
                body: row.document,
            })
            .collect())
    }

    /// Records what became of messages: refused, parked, sent again or dropped. An event each in the control stream.
    pub async fn record_refused(&self, events: &[NewEvent]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        event_log::append(&mut tx, events).await?;
        dat_fault::around("refused", tx.commit()).await?;
        Ok(())
    }
}

/// Of each version the newest one before it: registered already, or in the same batch.
async fn superseded(
    conn: &mut crate::connection::PgConnection,
    versions: &BTreeMap<PlanKey, usize>,
) -> Result<BTreeMap<PlanKey, i32>, StoreError> {
    let later: Vec<PlanKey> = versions.keys().filter(|key| key.plan_version > 1).copied().collect();
    let registered = sqlx::query!(
        r#"SELECT k.plan_id AS "plan_id!", k.plan_version AS "plan_version!", max(p.plan_version) AS "before!"
         FROM UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version)
         JOIN execution_plan p ON p.plan_id = k.plan_id AND p.plan_version < k.plan_version
         GROUP BY 1, 2"#,
        &later.iter().map(|k| k.plan_id).collect::<Vec<_>>(),
        &later.iter().map(|k| k.plan_version).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    let mut supersedes: BTreeMap<PlanKey, i32> =
        registered.into_iter().map(|row| (PlanKey::new(row.plan_id, row.plan_version), row.before)).collect();
    // The keys are in order: the one before, if it is of the same plan, is the newest of this batch.
    for (before, key) in versions.keys().zip(versions.keys().skip(1)) {
        if before.plan_id == key.plan_id {
            let newest = supersedes.entry(*key).or_insert(before.plan_version);
            *newest = before.plan_version.max(*newest);
        }
    }
    Ok(supersedes)
}

async fn insert_plans(
    conn: &mut crate::connection::PgConnection,
    plans: &[&Registration],
    (supersedes, facts): (&BTreeMap<PlanKey, i32>, &BTreeMap<PlanKey, PackageFacts>),
    now: DateTime<Utc>,
) -> Result<std::collections::BTreeSet<PlanKey>, StoreError> {
    let told: Vec<Option<String>> = plans
        .iter()
        .map(|plan| {
            let facts = facts.get(&plan.document.key());
            facts.map(|facts| Ok(facts.constraint_set_hash()?.0)).transpose()
        })
        .collect::<Result<_, NoCanonicalForm>>()?;
    let documents = || plans.iter().map(|p| &p.document);
    let rows = sqlx::query!(
        "INSERT INTO execution_plan (plan_id, plan_version, tenant, name, state, priority, currency, budget_amount,
             deadline, plan_hash, document, readiness, traceparent, registered_at, state_since, steps_total,
             wake_at, mode, constraint_set_hash, supersedes, submitter)
         SELECT plan_id, plan_version, tenant, name, $14, priority, currency, budget_amount, deadline, plan_hash,
             document, readiness, traceparent, $15, $15, steps_total, deadline, mode, constraint_set_hash,
             supersedes, submitter
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::smallint[], $6::text[], $7::bigint[],
                     $8::timestamptz[], $9::text[], $10::bytea[], $11::jsonb[], $12::text[], $13::integer[],
                     $16::text[], $17::text[], $18::integer[], $19::text[])
              AS n (plan_id, plan_version, tenant, name, priority, currency, budget_amount, deadline, plan_hash,
                    document, readiness, traceparent, steps_total, mode, constraint_set_hash, supersedes,
                    submitter)
         ON CONFLICT DO NOTHING
         RETURNING plan_id, plan_version",
        &documents().map(|d| d.plan_id).collect::<Vec<_>>(),
        &documents().map(|d| d.plan_version).collect::<Vec<_>>(),
        &documents().map(|d| d.tenant.clone()).collect::<Vec<_>>(),
        &documents().map(|d| d.name.clone()).collect::<Vec<_>>(),
        &documents().map(|d| i16::from(d.priority)).collect::<Vec<_>>(),
        &documents().map(|d| d.budget.currency.0.clone()).collect::<Vec<_>>(),
        &documents().map(|d| d.budget.amount).collect::<Vec<_>>(),
        &documents().map(|d| d.deadline).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &plans.iter().map(|p| p.hash.0.clone()).collect::<Vec<_>>(),
        &plans.iter().map(|p| p.body.clone()).collect::<Vec<_>>(),
        &plans.iter().map(|p| json!(p.readiness)).collect::<Vec<_>>(),
        &plans.iter().map(|p| p.traceparent.clone()).collect::<Vec<_>>(),
        &documents().map(|d| i32::try_from(d.steps.len()).unwrap_or(i32::MAX)).collect::<Vec<_>>(),
        PlanState::SubmittedForApproval.as_str(),
        now,
        &documents().map(|d| d.mode.as_str().to_owned()).collect::<Vec<_>>(),
        &told as &[Option<String>],
        &documents().map(|d| supersedes.get(&d.key()).copied()).collect::<Vec<_>>() as &[Option<i32>],
        &plans.iter().map(|p| p.submitter.clone()).collect::<Vec<_>>() as &[Option<String>],
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| PlanKey::new(row.plan_id, row.plan_version)).collect())
}

/// A registered plan is `draft` and handed over in the same breath; both are in its log.
fn registration_events(
    plan: &Registration,
    supersedes: &BTreeMap<PlanKey, i32>,
    facts: PackageFacts,
    now: DateTime<Utc>,
) -> Result<[NewEvent; 3], StoreError> {
    let event = |kind| {
        let event = NewEvent::of_plan(plan.document.key(), &plan.document.tenant, kind, now);
        match plan.document.mode {
            Mode::Live => event,
            Mode::Dry => event.with("mode", Mode::Dry.as_str()),
        }
    };
    let mut draft = event(EventKind::Plan(PlanState::Draft))
        .with("plan_hash", plan.hash.as_str())
        .with("name", plan.document.name.as_str())
        .with("steps", plan.document.steps.len())
        .with("readiness", json!(plan.readiness));
    if let Some(message_id) = &plan.message_id {
        draft = draft.with("message_id", message_id.as_str());
    }
    if let Some(submitter) = &plan.submitter {
        draft = draft.with("submitter", submitter.as_str());
    }
    if let Some(version) = supersedes.get(&plan.document.key()) {
        draft = draft.with("supersedes", *version);
    }
    let mut request = event(EventKind::ApprovalRequested);
    request.data.clone_from(&plan.package);
    facts.complete(&mut request.data, &plan.document)?;
    Ok([
        draft,
        event(EventKind::Plan(PlanState::SubmittedForApproval)).with("plan_hash", plan.hash.as_str()),
        request,
    ])
}
