//! The runtime guards of one step, as the claim transaction asks them.

use std::sync::Arc;

use dat_guards::{BudgetFacts, Decision, Inputs, StepFacts, Verdict};
use dat_plan::{Currency, UnitKey};
use dat_store::{Guard, GuardFacts, GuardVerdict};
use serde_json::{Value, json};

use crate::documents::Prepared;
use crate::references;

/// Constraints and preconditions of one step.
#[derive(Debug)]
pub(crate) struct StepGuard {
    pub(crate) plan: Arc<Prepared>,
    pub(crate) unit: UnitKey,
}

impl Guard for StepGuard {
    fn decide(&self, facts: &GuardFacts<'_>) -> GuardVerdict {
        let index = usize::try_from(self.unit.index).unwrap_or(usize::MAX);
        let (Some(step), Some(prepared)) = (self.plan.document.steps.get(index), self.plan.steps.get(index))
        else {
            return deny("the document has no such step".to_owned(), Value::Null, Vec::new());
        };
        let parameters = match references::resolve(&step.parameters, facts.results) {
            Ok(parameters) => parameters,
            Err(dangling) => return deny(dangling.to_string(), Value::Null, Vec::new()),
        };
        let inputs = Inputs {
            now: facts.now,
            plan: self.plan.facts.clone(),
            tenant: self.plan.document.tenant.clone(),
            step: Some(StepFacts {
                key: step.key.clone(),
                index: self.unit.index,
                attempt: facts.attempt,
                parameters,
            }),
            budget: BudgetFacts {
                amount: facts.account.limit,
                spent: facts.account.settled,
                reserved: facts.account.reserved,
                currency: Currency(facts.currency.to_owned()),
            },
            results: facts.results.clone(),
        };
        let decision = self.plan.constraints.runtime(&inputs).and(prepared.before.check(&inputs));
        let has_rules = self.plan.has_constraints() || !step.preconditions.is_empty();
        let logged = log(&decision, &self.plan, has_rules.then_some(&inputs));
        let violations: Vec<Value> = decision.violations.iter().map(|v| json!(v)).collect();
        match (decision.verdict, decision.wait_until()) {
            (Verdict::Pass | Verdict::Warn, _) => GuardVerdict::Go { decision: logged, violations },
            (Verdict::Deny, Some(until)) => {
                GuardVerdict::Wait { until, reason: reasons(&decision), decision: logged }
            }
            (Verdict::Deny, None) => deny(reasons(&decision), logged, violations),
        }
    }
}

fn deny(reason: String, decision: Value, violations: Vec<Value>) -> GuardVerdict {
    GuardVerdict::Deny { reason, decision, violations }
}

/// A decision as the log keeps it: with everything it looked at, so that it can be made again.
pub(crate) fn log(decision: &Decision, plan: &Prepared, inputs: Option<&Inputs>) -> Value {
    let mut logged = json!({
        "verdict": decision.verdict,
        "constraint_set_hash": plan.constraints_hash.as_str(),
    });
    if let Value::Object(fields) = &mut logged {
        if !decision.violations.is_empty() {
            fields.insert("violations".to_owned(), json!(decision.violations));
        }
        if let Some(inputs) = inputs {
            fields.insert("inputs".to_owned(), json!(inputs));
        }
    }
    logged
}

/// The violated rules in one sentence.
pub(crate) fn reasons(decision: &Decision) -> String {
    let each: Vec<String> =
        decision.violations.iter().map(|v| format!("constraint {}: {}", v.constraint, v.reason)).collect();
    each.join("; ")
}
