//! Recorded decisions, made again from their recorded inputs, with no clock and no server asked for anything but the
//! record: documents, verdicts and constraint sets as they were.
//!
//! **May be called** by audits. **Must never** write, or look at anything that a decision's record does not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dat_guards::{ConstraintSet, Decision, Inputs, Verdict};
use dat_plan::PlanKey;
use dat_plan::signing::KeyRing;
use dat_store::{RecordedDecision, SetHead, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::documents::{Documents, Prepared};
use crate::operators::{Binding, OperatorSet};

/// Plans looked at together.
const PAGE: i64 = 100;

/// A decision as it is logged.
#[derive(Debug, Deserialize)]
struct Logged {
    moment: Moment,
    verdict: Verdict,
    constraint_set_hash: String,
    #[serde(default)]
    operator_sets: Vec<SetHead>,
    #[serde(default)]
    violations: Value,
    #[serde(default)]
    inputs: Option<Inputs>,
}

/// When a decision was made.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Moment {
    Admission,
    Claim,
    Answer,
}

/// A decision that does not come out as it was recorded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Differs {
    pub(crate) plan: PlanKey,
    pub(crate) sequence: i64,
    pub(crate) event: String,
    pub(crate) step: Option<String>,
    pub(crate) message: String,
}

/// What was made again.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Recheck {
    pub(crate) plans: u64,
    pub(crate) decisions: u64,
    pub(crate) differ: Vec<Differs>,
}

/// Makes every recorded decision again, of one plan version or of all, in pages of plans.
pub(crate) async fn recheck(store: &Store, only: Option<PlanKey>) -> Result<Recheck, StoreError> {
    let mut report = Recheck::default();
    let mut after = None;
    while let Some((last, decisions)) = store.recorded_decisions(after, only, PAGE).await? {
        after = Some(last);
        let plans: BTreeSet<PlanKey> = decisions.iter().map(|one| one.plan).collect();
        report.plans += plans.len() as u64;
        // Whether its verdict was signed is the audit's to say.
        let documents = Documents::new(KeyRing::default()).get(store, plans).await?.plans;
        let sets = operator_sets(store, &decisions).await?;
        for recorded in decisions {
            report.decisions += 1;
            let plan = documents.get(&recorded.plan);
            if let Err(message) = again(&recorded.decision, recorded.step.as_deref(), plan, &sets) {
                let RecordedDecision { plan, sequence, kind, step, .. } = recorded;
                report.differ.push(Differs { plan, sequence, event: kind, step, message });
            }
        }
    }
    Ok(report)
}

type Sets = BTreeMap<String, Value>;

async fn operator_sets(store: &Store, decisions: &[RecordedDecision]) -> Result<Sets, StoreError> {
    let named = decisions.iter().filter_map(|one| one.decision.get("operator_sets")?.as_array());
    let hashes: BTreeSet<String> =
        named.flatten().filter_map(|set| Some(set.get("hash")?.as_str()?.to_owned())).collect();
    if hashes.is_empty() { Ok(Sets::new()) } else { store.constraint_documents(&hashes).await }
}

/// Makes one decision again; fails with what differs.
fn again(
    logged: &Value,
    step: Option<&str>,
    plan: Option<&Arc<Prepared>>,
    sets: &Sets,
) -> Result<(), String> {
    let plan = plan.ok_or("its plan's document cannot be executed: was it altered?")?;
    let logged: Logged =
        serde_json::from_value(logged.clone()).map_err(|error| format!("it cannot be read: {error}"))?;
    if logged.constraint_set_hash != plan.constraints_hash.as_str() {
        return Err(format!(
            "it names the constraints {}, the plan's and its verdict's are {}",
            logged.constraint_set_hash, plan.constraints_hash
        ));
    }
    let compiled = logged.operator_sets.iter().map(|head| {
        let document = sets
            .get(&head.hash)
            .ok_or_else(|| format!("it names the constraint set {}, which is not registered", head.hash))?;
        Ok(Arc::new(OperatorSet::new(head.clone(), document)))
    });
    let operators = Binding::from_sets(compiled.collect::<Result<_, String>>()?);
    let rules: Vec<&ConstraintSet> = std::iter::once(&plan.constraints).chain(operators.rules()?).collect();
    let step = match step {
        None => None,
        Some(key) => {
            let index = plan.document.steps.iter().position(|one| one.key.as_str() == key);
            let index = index.ok_or_else(|| format!("the plan has no step {key}"))?;
            Some(plan.steps.get(index).ok_or("the plan has no such step")?)
        }
    };
    let Some(inputs) = &logged.inputs else {
        let free = rules.iter().all(|set| set.is_empty()) && step.is_none_or(|step| step.before.is_empty());
        return if free && logged.verdict == Verdict::Pass {
            Ok(())
        } else {
            Err("it has no inputs, though rules apply".to_owned())
        };
    };
    let decided = match (logged.moment, step) {
        (Moment::Admission, _) => rules
            .iter()
            .map(|set| set.admission(inputs, &plan.document))
            .fold(Decision::default(), Decision::and),
        (Moment::Claim, Some(step)) => rules
            .iter()
            .map(|set| set.runtime(inputs))
            .fold(Decision::default(), Decision::and)
            .and(step.before.check(inputs)),
        (Moment::Answer, Some(step)) => step.after.check(inputs),
        (Moment::Claim | Moment::Answer, None) => return Err("it names no step".to_owned()),
    };
    let violations = serde_json::json!(decided.violations);
    let recorded = if logged.violations.is_null() { Value::Array(Vec::new()) } else { logged.violations };
    if decided.verdict != logged.verdict || violations != recorded {
        return Err(format!(
            "recorded as {:?} with {recorded}, made again it is {:?} with {violations}",
            logged.verdict, decided.verdict
        ));
    }
    Ok(())
}
