//! What goes to governance and what comes back: the approval package and the verdict.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::amount::Amount;
use crate::document::Constraint;
use crate::hash::PlanHash;
use crate::ids::PlanKey;

/// What GGP is sent on `plan.approval_requested`: all that an approver needs.
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
    /// The operator constraint set in force.
    pub constraint_set_hash: String,
    /// The document as submitted.
    pub plan: Value,
    /// What Plan Builder found.
    pub readiness: Readiness,
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
