//! What GGP reports, and what it is told.

use chrono::{DateTime, Utc};
use dat_plan::approval::{ApprovalPackage, Outcome, Verdict};
use dat_plan::document::Constraint;
use dat_plan::quorum::Vote;
use dat_plan::{Amount, PlanHash};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How GGP judges a package whose plan has no label `sandbox.ggp`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GgpMode {
    /// Approves it.
    #[default]
    Approve,
    /// Rejects it.
    Reject,
    /// Waits for `POST /ggp/decide`.
    Wait,
}

/// `POST /ggp/mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeSetting {
    /// From now on, until the sandbox ends.
    pub mode: GgpMode,
}

/// `GET /ggp/packages`: a plan version that GGP was asked about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Package {
    /// The id of the event that asked first.
    pub event_id: String,
    /// How often it was asked.
    pub deliveries: u64,
    /// The request's `traceparent`, passed on with each verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The hash that GGP computed from the plan in the package; `None` where it has none.
    pub computed_hash: Option<PlanHash>,
    /// What GGP decided, oldest first; empty while it waits.
    pub verdicts: Vec<Verdict>,
    /// How many people must approve, where people are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    /// What people said that counts.
    #[serde(default)]
    pub approvals: Vec<Vote>,
    /// Whose word did not count, and why; the first hundred.
    #[serde(default)]
    pub refused: Vec<RefusedVote>,
    /// What it was asked.
    pub package: ApprovalPackage,
}

impl Package {
    /// A package as it comes in.
    pub(crate) fn asked(event_id: String, traceparent: Option<String>, package: ApprovalPackage) -> Self {
        Self {
            event_id,
            deliveries: 0,
            traceparent,
            computed_hash: PlanHash::of(&package.plan).ok(),
            verdicts: Vec::new(),
            quorum: None,
            approvals: Vec::new(),
            refused: Vec::new(),
            package,
        }
    }
}

/// What somebody said that did not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedVote {
    /// Who, by their own word.
    pub approver: String,
    /// Why not.
    pub why: String,
}

/// `POST /ggp/decide`; answered with the verdict, once the broker has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The plan.
    pub plan_id: Uuid,
    /// Its version.
    pub plan_version: i32,
    /// What is decided.
    pub outcome: Outcome,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A tighter budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Amount>,
    /// Further constraints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Vec<Constraint>>,
    /// When the approval ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// How long to wait for the plan's package, if it is not there yet.
    #[serde(default)]
    pub wait_ms: u64,
}
