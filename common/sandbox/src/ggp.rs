//! The sandbox GGP, pure: judges approval packages.
//!
//! It trusts no hash that it is sent: it computes the plan's hash itself and approves nothing else. A decision's id
//! follows from what is decided, so a request that is delivered twice gets the same verdict twice.

use dat_plan::approval::{ApprovalPackage, Outcome, Verdict, hash_of_sets};
use dat_plan::{Amount, Currency, PlanHash};
use serde_json::Value;

use crate::report::{Decision, GgpMode, Package};

/// Judges by this label instead of the mode: `approve`, `reject` or `wait`.
const MODE_LABEL: &str = "sandbox.ggp";
/// Approves with this budget, an integer in the plan's currency.
const BUDGET_LABEL: &str = "sandbox.budget";

/// Why GGP does not decide as it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Objection {
    /// The package is not about the plan that it holds.
    #[error("the package names plan {named} and holds plan {held}")]
    OtherPlan {
        /// As the package has it.
        named: String,
        /// As the plan in it has it.
        held: String,
    },
    /// What would be approved is not what was registered.
    #[error("the package names hash {named} and its plan has {computed}")]
    OtherHash {
        /// As the package has it.
        named: String,
        /// As computed.
        computed: String,
    },
    /// The operators' rules that it shows are not those that it names.
    #[error("the package's constraint sets: {0}")]
    OtherRules(String),
    /// A label that GGP cannot follow.
    #[error("label {label} is '{value}', not {expected}")]
    Label {
        /// Which.
        label: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        expected: &'static str,
    },
}

/// The verdict on a package that has none yet; `None` where GGP waits for somebody to decide.
pub(crate) fn judge(package: &ApprovalPackage, mode: GgpMode) -> Option<Verdict> {
    let judged = sound(package).and_then(|()| labelled_mode(package)).and_then(|labelled| {
        match labelled.unwrap_or(mode) {
            GgpMode::Wait => Ok(None),
            GgpMode::Reject => {
                Ok(Some(verdict(package, Outcome::Rejected, Some("the sandbox rejects".to_owned()))))
            }
            GgpMode::Approve => {
                let budget = labelled_budget(package)?;
                Ok(Some(Verdict { budget, ..verdict(package, Outcome::Approved, None) }))
            }
        }
    });
    judged.unwrap_or_else(|objection| Some(verdict(package, Outcome::Rejected, Some(objection.to_string()))))
}

/// The verdict that somebody asks for. What was decided once stands: asked again, it is the same verdict.
pub(crate) fn decide(held: &Package, decision: &Decision) -> Result<Verdict, Objection> {
    if let Some(earlier) = held.verdicts.iter().find(|verdict| verdict.outcome == decision.outcome) {
        return Ok(earlier.clone());
    }
    if decision.outcome == Outcome::Approved {
        sound(&held.package)?;
    }
    Ok(Verdict {
        budget: decision.budget.clone(),
        constraints: decision.constraints.clone(),
        expires_at: decision.expires_at,
        ..verdict(&held.package, decision.outcome, decision.reason.clone())
    })
}

/// Whether the package is about the plan that it holds, unchanged.
pub(crate) fn sound(package: &ApprovalPackage) -> Result<(), Objection> {
    let field = |name: &str| package.plan.get(name).map_or_else(String::new, text);
    let named = format!("{}/{}", package.plan_id, package.plan_version);
    let held = format!("{}/{}", field("plan_id"), field("plan_version"));
    if named != held {
        return Err(Objection::OtherPlan { named, held });
    }
    let computed = PlanHash::of(&package.plan).map_or_else(|fault| fault.to_string(), |hash| hash.0);
    if computed != package.plan_hash {
        return Err(Objection::OtherHash { named: package.plan_hash.clone(), computed });
    }
    let rules = |why: String| Err(Objection::OtherRules(why));
    for set in &package.constraint_sets {
        let computed = PlanHash::of(&set.document).map_or_else(|fault| fault.to_string(), |hash| hash.0);
        if computed != set.head.hash {
            return rules(format!("a set is named {} and hashes to {computed}", set.head.hash));
        }
    }
    let computed =
        hash_of_sets(&package.constraint_sets).map_or_else(|fault| fault.to_string(), |hash| hash.0);
    if computed != package.constraint_set_hash {
        return rules(format!("all are named {} and hash to {computed}", package.constraint_set_hash));
    }
    Ok(())
}

/// A verdict names the hash that DAT registered: what rejects a plan must bind, too.
pub(crate) fn verdict(package: &ApprovalPackage, outcome: Outcome, reason: Option<String>) -> Verdict {
    Verdict {
        decision_id: format!("sandbox/{}/{}/{}", package.plan_id, package.plan_version, outcome.as_str()),
        plan_id: package.plan_id,
        plan_version: package.plan_version,
        plan_hash: PlanHash(package.plan_hash.clone()),
        constraint_set_hash: Some(package.constraint_set_hash.clone()),
        outcome,
        approver: "sandbox".to_owned(),
        reason,
        expires_at: None,
        budget: None,
        constraints: None,
        key_id: None,
        signature: None,
    }
}

fn label(package: &ApprovalPackage, name: &str) -> Option<String> {
    package.plan.get("labels")?.get(name).map(text)
}

fn labelled_mode(package: &ApprovalPackage) -> Result<Option<GgpMode>, Objection> {
    label(package, MODE_LABEL)
        .map(|value| match value.as_str() {
            "approve" => Ok(GgpMode::Approve),
            "reject" => Ok(GgpMode::Reject),
            "wait" => Ok(GgpMode::Wait),
            _ => Err(Objection::Label { label: MODE_LABEL, value, expected: "approve, reject or wait" }),
        })
        .transpose()
}

fn labelled_budget(package: &ApprovalPackage) -> Result<Option<Amount>, Objection> {
    let Some(value) = label(package, BUDGET_LABEL) else { return Ok(None) };
    let currency = package.plan.pointer("/budget/currency").map_or_else(String::new, text);
    match value.parse() {
        Ok(amount) => Ok(Some(Amount { amount, currency: Currency(currency) })),
        Err(_) => Err(Objection::Label { label: BUDGET_LABEL, value, expected: "an integer" }),
    }
}

/// A JSON string without its quotes, anything else as JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests;
