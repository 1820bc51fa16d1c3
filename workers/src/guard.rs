//! The runtime guards of one step, as the claim transaction asks them.

use std::sync::Arc;

use chrono::TimeDelta;
use dat_guards::{
    BudgetFacts, ConstraintSet, Counted, Counts, Decision, Inputs, StepFacts, StepPlace, Verdict, Violation,
};
use dat_plan::document::Enforcement;
use dat_plan::{Currency, UnitKey, references};
use dat_store::{CountLock, Counting, Guard, GuardFacts, GuardVerdict, SetHead, SpendCap};
use serde_json::{Value, json};

use crate::documents::Prepared;
use crate::operators::Binding;

/// How long a step waits when this worker cannot apply an operator's set.
const UNAPPLICABLE_WAIT: TimeDelta = TimeDelta::seconds(5);

/// What a violation of the budget is called in a dry run, beside the ids of constraints.
const BUDGET: &str = "budget";

/// Constraints and preconditions of one step.
#[derive(Debug)]
pub(crate) struct StepGuard {
    pub(crate) plan: Arc<Prepared>,
    pub(crate) operators: Binding,
    pub(crate) unit: UnitKey,
}

impl StepGuard {
    /// What the claim must count for the rules that count this step.
    pub(crate) fn counting(&self) -> Counting {
        let Some(spec) = self.plan.unit(self.unit) else { return Counting::default() };
        let place = StepPlace {
            tenant: &self.plan.document.tenant,
            plan: self.unit.plan,
            connector: spec.connector,
            action: spec.action,
        };
        let currency = self.plan.document.budget.currency.as_str();
        let mut counting = Counting::default();
        for set in self.sets() {
            let caps = set.caps(&place, currency).into_iter().map(|cap| SpendCap {
                key: cap.key,
                period: cap.period,
                max: cap.max,
                own: cap.own,
            });
            counting.caps.extend(caps);
            if set.counts_running() {
                counting.running.push(match set.origin() {
                    dat_guards::Origin::Fleet => CountLock::Fleet,
                    dat_guards::Origin::Tenant => CountLock::Tenant,
                    dat_guards::Origin::Plan => CountLock::Plan,
                });
            }
        }
        counting
    }

    fn sets(&self) -> impl Iterator<Item = &ConstraintSet> {
        std::iter::once(&self.plan.constraints).chain(self.operators.applicable())
    }
}

impl Guard for StepGuard {
    fn decide(&self, facts: &GuardFacts<'_>) -> GuardVerdict {
        if !self.operators.is(facts.operators) {
            return GuardVerdict::Stale;
        }
        if let Err(reason) = self.operators.rules() {
            let until = facts.now + UNAPPLICABLE_WAIT;
            return GuardVerdict::Wait { until, reason, decision: Value::Null };
        }
        let index = usize::try_from(self.unit.index).unwrap_or(usize::MAX);
        let (Some(step), Some(prepared)) = (self.plan.document.steps.get(index), self.plan.steps.get(index))
        else {
            return deny("the document has no such step".to_owned(), Value::Null, Vec::new());
        };
        let dry = self.plan.is_dry();
        let parameters = match references::resolve(&step.parameters, facts.results) {
            Ok(parameters) => parameters,
            // The steps of a dry run have no results.
            Err(_) if dry => references::resolve_or_null(&step.parameters, facts.results),
            Err(dangling) => return deny(dangling.to_string(), Value::Null, Vec::new()),
        };
        let mut inputs = Inputs {
            now: facts.now,
            plan: self.plan.facts.clone(),
            tenant: self.plan.document.tenant.clone(),
            step: Some(StepFacts {
                key: step.key.clone(),
                index: self.unit.index,
                attempt: facts.attempt,
                connector: step.connector.clone(),
                action: step.action.clone(),
                parameters,
            }),
            budget: BudgetFacts {
                amount: facts.account.limit,
                spent: facts.account.settled,
                reserved: facts.account.reserved,
                currency: Currency(facts.currency.to_owned()),
            },
            results: facts.results.clone(),
            counts: Counts::default(),
        };
        let counted_as: Vec<String> =
            self.sets().flat_map(|set| set.counters(&inputs)).map(|counter| counter.key).collect();
        let need = if dry { step.max_cost.saturating_add(step.undo_max_cost()) } else { facts.need };
        inputs.counts = counts(facts, &counted_as, need);
        let decision = self
            .sets()
            .map(|set| set.runtime(&inputs))
            .fold(Decision::default(), Decision::and)
            .and(prepared.before.check(&inputs));
        let has_rules = self.sets().any(|set| !set.is_empty()) || !step.preconditions.is_empty();
        let logged = log(&decision, "claim", &self.plan, facts.operators, has_rules.then_some(&inputs));
        let mut violations: Vec<Value> = decision.violations.iter().map(|v| json!(v)).collect();
        if dry {
            violations.extend(shortages(facts, &self.plan, index));
        }
        match (decision.verdict, decision.wait_until()) {
            (Verdict::Pass | Verdict::Warn, _) => {
                // A rehearsal is no call, and takes no place from one.
                let counted_as = if dry { Vec::new() } else { counted_as };
                GuardVerdict::Go { decision: logged, violations, counted_as }
            }
            (Verdict::Deny, Some(until)) => {
                GuardVerdict::Wait { until, reason: reasons(&decision), decision: logged }
            }
            (Verdict::Deny, None) => deny(reasons(&decision), logged, violations),
        }
    }
}

/// What of the claim's counts is about this step.
fn counts(facts: &GuardFacts<'_>, counted_as: &[String], need: i64) -> Counts {
    let running =
        counted_as.iter().map(|key| (key.clone(), facts.running.get(key).copied().unwrap_or(0))).collect();
    let spent = facts
        .spent
        .iter()
        .map(|(key, on)| {
            (key.clone(), Counted { settled: on.settled, reserved: on.reserved, undos: on.undos })
        })
        .collect();
    Counts { running, spent, need: if facts.spent.is_empty() { 0 } else { need } }
}

/// What a dry run says where the plan's budget would not do, or one of its tenant's as it is now: each step named, and
/// none held up.
fn shortages(facts: &GuardFacts<'_>, plan: &Prepared, step: usize) -> Vec<Value> {
    let (cost, tenant) = (plan.cost_up_to(step), &plan.document.tenant);
    let tenants = facts.tenants.iter();
    let tenants = tenants.map(|(period, account)| (format!("tenant {tenant}'s for this {period}"), *account));
    std::iter::once(("its budget".to_owned(), facts.account))
        .chain(tenants)
        .filter(|(_, account)| !account.fits(cost))
        .map(|(whose, account)| {
            json!(Violation {
                constraint: BUDGET.to_owned(),
                enforcement: Enforcement::Soft,
                reason: format!(
                    "up to this step the plan may cost {cost} {}, {} more than is left of {whose} of {}",
                    facts.currency,
                    account.short_by(cost),
                    account.limit
                ),
                retry_at: None,
                lasting: false,
            })
        })
        .collect()
}

fn deny(reason: String, decision: Value, violations: Vec<Value>) -> GuardVerdict {
    GuardVerdict::Deny { reason, decision, violations }
}

/// A decision as the log keeps it: when it was made, by which rules, and with everything it looked at, so that it can
/// be made again.
pub(crate) fn log(
    decision: &Decision,
    moment: &str,
    plan: &Prepared,
    operators: &[SetHead],
    inputs: Option<&Inputs>,
) -> Value {
    let mut logged = json!({
        "moment": moment,
        "verdict": decision.verdict,
        "constraint_set_hash": plan.constraints_hash.as_str(),
    });
    if let Value::Object(fields) = &mut logged {
        if !operators.is_empty() {
            fields.insert("operator_sets".to_owned(), json!(operators));
        }
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
