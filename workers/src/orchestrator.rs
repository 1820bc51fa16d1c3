//! The Execution Orchestrator: stages approved plans, admits them, and rings for their first steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use dat_guards::{BudgetFacts, Counts, Decision, Inputs, Verdict};
use dat_plan::document::OnUnknown;
use dat_plan::seal::BrokenSeal;
use dat_plan::{Currency, PlanKey};
use dat_store::{Admission, Admitted, Blocked, SEAL_BROKEN, StagedStep, StoreError};
use serde_json::{Value, json};

use crate::documents::{Broken, Found, Prepared};
use crate::doorbell::{self, Doorbell};
use crate::fleet::Fleet;
use crate::guard;
use crate::operators::Binding;

/// How soon a plan is looked at again whose approval this worker does not believe.
const UNPROVED: TimeDelta = TimeDelta::seconds(10);

type Documents = BTreeMap<PlanKey, Arc<Prepared>>;

/// Stages and admits plans. Those that are not approved or staged any more are left as they are.
pub(crate) async fn admit(fleet: &Fleet, plans: &[PlanKey]) -> Result<(), StoreError> {
    if plans.is_empty() {
        return Ok(());
    }
    let now = fleet.now();
    let Found { plans: prepared, broken } = fleet.documents.get(&fleet.store, plans.iter().copied()).await?;
    fleet.metrics.seals_broken(broken.len());
    for (plan, why) in broken {
        let reason = format!("{SEAL_BROKEN}{why}");
        match why {
            // A worker that was told of the key may come to believe it: nobody can be sure that it was altered.
            Broken::Seal(BrokenSeal::Signature(_)) => {
                fleet.store.hold(plan, &reason, now + UNPROVED, now).await?;
            }
            Broken::Seal(_) | Broken::Document(_) => {
                fleet.store.abort_unstarted(&[plan], &reason, now).await?;
            }
        }
    }
    let mut ready = Vec::new();
    let mut answers = ask(fleet, &prepared, now).await?;
    if answers.iter().any(|(_, admitted)| *admitted == Admitted::Stale) {
        // An operator has set other rules since. What was decided meanwhile is decided: it has moved on.
        fleet.operators.refresh(&fleet.store).await?;
        let behind =
            |plan: &PlanKey| answers.iter().any(|(key, said)| key == plan && *said == Admitted::Stale);
        let again: Documents = prepared.into_iter().filter(|(plan, _)| behind(plan)).collect();
        answers.retain(|(_, admitted)| *admitted != Admitted::Stale);
        answers.extend(ask(fleet, &again, now).await?);
    }
    for (plan, admitted) in answers {
        match admitted {
            Admitted::Executing { ready: units } => {
                tracing::info!(%plan, ready = units.len(), "executing");
                ready.extend(units);
            }
            Admitted::Waiting(reason) => tracing::info!(%plan, reason, "not admitted yet"),
            Admitted::Aborted(reason) => {
                tracing::warn!(%plan, reason, "never admitted");
                fleet.metrics.plan_ended("aborted");
            }
            // Stale: rules were set again at this very moment; it is due at once, and the sweeper asks.
            Admitted::Moved | Admitted::Stale => {}
        }
        fleet.live.touch(plan);
    }
    doorbell::ring(fleet, Doorbell::Dispatch, &ready).await;
    Ok(())
}

async fn ask(
    fleet: &Fleet,
    documents: &Documents,
    now: DateTime<Utc>,
) -> Result<Vec<(PlanKey, Admitted)>, StoreError> {
    let admissions: Vec<Admission> = documents
        .iter()
        .map(|(plan, prepared)| {
            admission(*plan, prepared, &fleet.operators.binding(&prepared.document.tenant), now)
        })
        .collect();
    fleet.store.admit(&admissions, now).await
}

/// What the document says of staging, and what the constraint engine says of admission.
fn admission(plan: PlanKey, prepared: &Prepared, operators: &Binding, now: DateTime<Utc>) -> Admission {
    let document = &prepared.document;
    let inputs = Inputs {
        now,
        plan: prepared.facts.clone(),
        tenant: document.tenant.clone(),
        step: None,
        budget: BudgetFacts {
            amount: document.budget.amount,
            spent: 0,
            reserved: 0,
            currency: Currency(document.budget.currency.0.clone()),
        },
        results: serde_json::Map::new(),
        counts: Counts::default(),
    };
    let own = prepared.constraints.admission(&inputs, document);
    let decision =
        operators.applicable().map(|set| set.admission(&inputs, document)).fold(own, Decision::and);
    let has_rules = prepared.has_constraints() || operators.applicable().any(|set| !set.is_empty());
    let heads = operators.heads();
    let steps = document
        .steps
        .iter()
        .enumerate()
        .map(|(index, step)| StagedStep {
            key: step.key.0.clone(),
            connector: step.connector.clone(),
            action: step.action.clone(),
            waits_for: i32::try_from(prepared.graph.needs(index).len()).unwrap_or(i32::MAX),
            not_before: step.not_before,
            max_cost: if prepared.is_dry() { 0 } else { step.max_cost.saturating_add(step.undo_max_cost()) },
        })
        .collect();
    let on_unknown = match document.on_unknown {
        OnUnknown::Wait => "wait",
        OnUnknown::Rollback => "rollback",
    };
    Admission {
        plan,
        hash: prepared.hash.clone(),
        priority: i16::from(document.priority),
        steps,
        policy: (document.rollback.kind.as_str(), document.rollback.scope.as_str(), on_unknown),
        irreversible: document.steps.iter().filter(|s| s.irreversible).map(|s| s.key.0.clone()).collect(),
        constraints: prepared.constraints_json.clone(),
        constraints_hash: prepared.constraints_hash.clone(),
        decision: guard::log(&decision, "admission", prepared, &heads, has_rules.then_some(&inputs)),
        operators: heads,
        blocked: operators.rules().err().map(|reason| later(reason, now)).or_else(|| blocked(&decision, now)),
        violations: decision.violations.iter().map(|v| json!(v)).collect::<Vec<Value>>(),
    }
}

fn blocked(decision: &Decision, now: DateTime<Utc>) -> Option<Blocked> {
    if decision.verdict != Verdict::Deny {
        return None;
    }
    let until = match decision.wait_until() {
        Some(until) => Some(until),
        None if decision.is_lasting() => None,
        // It can change with what is not a moment: looked at again soon.
        None => return Some(later(guard::reasons(decision), now)),
    };
    Some(Blocked { reason: guard::reasons(decision), until })
}

fn later(reason: String, now: DateTime<Utc>) -> Blocked {
    Blocked { reason, until: Some(now + TimeDelta::seconds(2)) }
}
