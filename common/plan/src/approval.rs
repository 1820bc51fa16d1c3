//! What goes to governance and what comes back: the approval package and the verdict.

use chrono::{DateTime, NaiveDate, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::amount::Amount;
use crate::cost::CostRange;
use crate::coverage::Coverage;
use crate::document::{Constraint, PlanDocument};
use crate::hash::{NoCanonicalForm, PlanHash};
use crate::ids::PlanKey;
use crate::revision::Revision;

/// What GGP is sent on `plan.approval_requested`: all that an approver needs. What a worker one version back does not
/// write is absent.
///
/// It is bounded: by the plan, of which it holds the document and, of each step, its key and its undo; by what
/// [`crate::revision`] spells out; and by two sets of at most 256 rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalPackage {
    /// The plan's id.
    pub plan_id: Uuid,
    /// Its version.
    pub plan_version: i32,
    /// Who pays.
    pub tenant: String,
    /// What the verdict must name.
    pub plan_hash: String,
    /// The operators' constraint sets in force, as one hash: [`hash_of_sets`]. A verdict names it back.
    pub constraint_set_hash: String,
    /// The document as submitted.
    pub plan: Value,
    /// What Plan Builder found.
    pub readiness: Readiness,
    /// Who submitted it, as the broker has validated the sender's name; absent where the broker was told none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitter: Option<String>,
    /// What can be undone, by what, for how much at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_coverage: Option<Coverage>,
    /// What it may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostRange>,
    /// The operators' sets in force that bind the plan: the fleet's, then the tenant's.
    #[serde(default)]
    pub constraint_sets: Vec<ShownSet>,
    /// The tenant's accounts of the present periods in the plan's currency; none where no limit is set.
    #[serde(default)]
    pub budgets: Vec<BudgetSnapshot>,
    /// What changed since the last version that was approved, where one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Revision>,
}

/// One operators' set as an approver sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownSet {
    /// Which version.
    #[serde(flatten)]
    pub head: ShownHead,
    /// The rules, as they were registered.
    pub document: Value,
}

/// Which version of which set: what the package's `constraint_set_hash` is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownHead {
    /// `fleet` or `tenant`.
    pub scope: String,
    /// Which tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The version, from 1.
    pub version: i32,
    /// SHA-256 over the RFC 8785 form of the document.
    pub hash: String,
}

/// A tenant's account for a period at the moment that the plan was registered. All in the smallest unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetSnapshot {
    /// `day`, `month` or `year`, UTC.
    pub period: String,
    /// The period's first day.
    pub since: NaiveDate,
    /// Of what.
    pub currency: String,
    /// The most that may be spent.
    pub limit: i64,
    /// Spent, net of refunds.
    pub settled: i64,
    /// Held by open reservations.
    pub reserved: i64,
    /// The most that this plan adds: its steps' costs and their undos', within its budget.
    pub adds: i64,
}

/// What a package needs to know besides the plan.
#[derive(Debug, Clone, Default)]
pub struct PackageFacts {
    /// The operators' sets in force that bind the plan.
    pub constraint_sets: Vec<ShownSet>,
    /// The tenant's accounts; what the plan adds is filled in.
    pub budgets: Vec<BudgetSnapshot>,
    /// The last version that was approved: its hash, and the bytes as submitted.
    pub approved: Option<(PlanHash, Vec<u8>)>,
}

impl PackageFacts {
    /// The hash of the sets in force: over the array of which versions they are, in their order.
    pub fn constraint_set_hash(&self) -> Result<PlanHash, NoCanonicalForm> {
        hash_of_sets(&self.constraint_sets)
    }

    /// Fills a package in with what was true when its plan was registered.
    pub fn complete(
        self,
        package: &mut Map<String, Value>,
        document: &PlanDocument,
    ) -> Result<(), NoCanonicalForm> {
        let adds = document.max_cost().min(document.budget.amount);
        let budgets: Vec<_> = self.budgets.iter().map(|b| BudgetSnapshot { adds, ..b.clone() }).collect();
        package.insert("constraint_set_hash".to_owned(), json!(self.constraint_set_hash()?));
        package.insert("constraint_sets".to_owned(), json!(self.constraint_sets));
        package.insert("budgets".to_owned(), json!(budgets));
        // An earlier version that cannot be read any more is not compared: the package says nothing of it.
        let earlier =
            self.approved.and_then(|(hash, body)| Some((hash, serde_json::from_slice(&body).ok()?)));
        if let Some((hash, earlier)) = earlier {
            package.insert("changes".to_owned(), json!(Revision::between(&earlier, &hash, document)));
        }
        Ok(())
    }
}

/// What a package's `constraint_set_hash` must be, by the sets that it shows.
pub fn hash_of_sets(sets: &[ShownSet]) -> Result<PlanHash, NoCanonicalForm> {
    PlanHash::of(&json!(sets.iter().map(|set| &set.head).collect::<Vec<_>>()))
}

/// Plan Builder's report on a plan that is ready to be judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Readiness {
    /// How many steps.
    pub steps: usize,
    /// What all steps and undos may cost at most.
    pub max_cost: i64,
    /// Steps that can be undone.
    pub reversible: usize,
    /// Keys of the steps that cannot.
    pub irreversible: Vec<String>,
    /// What is worth a second look, and does not stop the plan.
    pub warnings: Vec<String>,
}

/// GGP's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It may run, within what the verdict says.
    Approved,
    /// It may not.
    Rejected,
    /// It may no longer.
    Revoked,
}

impl Outcome {
    /// The word stored in rows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Revoked => "revoked",
        }
    }
}

/// GGP's verdict on one plan version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The decision's id in GGP.
    #[schemars(length(min = 1, max = 200))]
    pub decision_id: String,
    /// The plan.
    pub plan_id: Uuid,
    /// Its version.
    pub plan_version: i32,
    /// The hash of what was judged.
    pub plan_hash: PlanHash,
    /// The operator constraint set that the approver saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint_set_hash: Option<String>,
    /// The outcome.
    pub outcome: Outcome,
    /// Who judged.
    #[schemars(length(min = 1, max = 200))]
    pub approver: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// An approval past this acts as a revocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// A tighter budget; never a wider one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Amount>,
    /// Further constraints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Vec<Constraint>>,
    /// The key that signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Ed25519 over the RFC 8785 form of the verdict without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

impl Verdict {
    /// The plan version it judges.
    #[must_use]
    pub fn plan(&self) -> PlanKey {
        PlanKey::new(self.plan_id, self.plan_version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::limits;

    /// A plan of as many steps as may be, each with much to show, in a body as large as may be.
    fn largest(version: i32, word: &str) -> (Value, PlanDocument) {
        let steps: Vec<Value> = (0..limits::STEPS)
            .map(|n| {
                json!({"key": format!("{word}{n:0>60}"), "connector": "mux", "action": format!("{word}.{n:0>60}"),
                       "parameters": {word: "x".repeat(60)}, "compensation": {"action": format!("undo.{n:0>60}")}})
            })
            .collect();
        let plan = json!({
            "plan_id": Uuid::max(), "plan_version": version, "tenant": "acme", "name": word,
            "budget": {"amount": 1, "currency": "usd"}, "steps": steps,
        });
        let bytes = plan.to_string().len();
        assert!((limits::BODY_BYTES * 3 / 4..limits::BODY_BYTES).contains(&bytes), "{bytes} bytes");
        let document = serde_json::from_value(plan.clone()).expect("a plan");
        (plan, document)
    }

    /// RabbitMQ 4 takes 16 MiB by default.
    #[test]
    fn the_largest_package_is_taken_by_a_broker_as_it_comes() {
        let ((earlier, _), (plan, document)) = (largest(1, "a"), largest(2, "b"));
        let rules: Vec<Value> = (0..limits::CONSTRAINTS)
            .map(|n| json!({"id": n.to_string(), "kind": "predicate", "require": "x".repeat(limits::PREDICATE_BYTES)}))
            .collect();
        let set = |scope: &str| ShownSet {
            head: ShownHead { scope: scope.to_owned(), subject: None, version: 1, hash: String::new() },
            document: json!({"format": 1, "constraints": rules}),
        };
        let hash = PlanHash::of(&earlier).expect("a hash");
        let facts = PackageFacts {
            constraint_sets: vec![set("fleet"), set("tenant")],
            budgets: Vec::new(),
            approved: Some((hash.clone(), earlier.to_string().into_bytes())),
        };
        let Value::Object(mut package) = json!({
            "plan": plan, "rollback_coverage": Coverage::of(&document), "cost": document.cost_range(),
        }) else {
            panic!("an object was written")
        };
        facts.complete(&mut package, &document).expect("it has a canonical form");
        let bytes = json!(package).to_string().len();
        assert!(bytes < 12 * 1024 * 1024, "{bytes} bytes");
        assert_eq!(package["changes"]["since_hash"], json!(hash));
        assert!(package["changes"]["more"].as_u64() > Some(10_000), "what is not spelt out is counted");
    }

    #[test]
    fn the_hash_of_no_sets_is_what_an_older_worker_names() {
        let none = PackageFacts::default().constraint_set_hash().expect("it has a canonical form");
        assert_eq!(none, PlanHash::of_canonical(b"[]"));
    }
}
