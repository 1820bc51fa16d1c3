//! The plan document: what a producer submits, and what is approved and executed exactly as it stands.
//!
//! These types are the contract: the published JSON Schema is generated from them, and [`crate::check`] holds every
//! submission against the same bounds. A document that passed the checks reads into [`PlanDocument`] without loss.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::amount::{Amount, MAX};
pub use crate::constraint::{Constraint, Enforcement, Rule};
use crate::ids::{PlanKey, StepKey};

/// Bounds of a document.
pub mod limits {
    /// The largest body of `plan.submitted`, in bytes (4 MiB).
    pub const BODY_BYTES: usize = 4 * 1024 * 1024;
    /// The most steps of a plan.
    pub const STEPS: usize = 10_000;
    /// The most constraints of a plan, of a verdict, and of an operator's set.
    pub const CONSTRAINTS: usize = 256;
    /// The longest predicate, in bytes.
    pub const PREDICATE_BYTES: usize = 2_048;
    /// The longest name, tenant or label value, in characters.
    pub const TEXT_CHARS: usize = 200;
    /// The longest timeout of one attempt, in milliseconds (24 hours).
    pub const TIMEOUT_MS: u64 = 86_400_000;
    /// The most attempts of a step.
    pub const ATTEMPTS: u32 = 100;
    /// The longest wait between attempts, in milliseconds (24 hours).
    pub const BACKOFF_MS: u64 = 86_400_000;
    /// The longest that attempts may go on being made, in milliseconds (30 days).
    pub const WITHIN_MS: u64 = 2_592_000_000;
    /// The deepest nesting of JSON values; a deeper document is refused unread.
    pub const DEPTH: usize = 64;
    /// The most labels of a plan.
    pub const LABELS: usize = 64;
    /// The longest name of a label, in characters.
    pub const LABEL_NAME_CHARS: usize = 100;
    /// The longest action, in characters; as a routing key of AMQP it may have 255 bytes with the namespace.
    pub const ACTION_CHARS: usize = 200;
    /// The most connectors that a `capability` names, and the most actions of one.
    pub const CAPABILITIES: usize = 256;
    /// The most attempts that a `concurrency` lets run at once.
    pub const CONCURRENCY: i64 = 1_000_000;
    /// The most calls of a `rate`, in its period and at once.
    pub const RATE: i64 = 1_000_000;
    /// The most preconditions of a step, and the most postconditions.
    pub const CONDITIONS: usize = 256;
    /// The most different predicates of a plan.
    pub const PREDICATES: usize = 20_000;
}

/// A plan as submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanDocument {
    /// The plan's id, a UUID in lowercase with hyphens; the same in every version of the plan.
    pub plan_id: Uuid,
    /// The version of the plan, from 1. A change is a new version, approved anew.
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub plan_version: i32,
    /// Who pays, 1 to 200 characters of `[A-Za-z0-9._-]`. A plan id belongs to one tenant for ever.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"))]
    pub tenant: String,
    /// A name for people, 1 to 200 characters.
    #[schemars(length(min = 1, max = 200))]
    pub name: String,
    /// The insight that the plan acts on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insight: Option<Insight>,
    /// The most that the whole plan may spend.
    pub budget: Amount,
    /// The plan's own constraints.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub constraints: Vec<Constraint>,
    /// How the plan is unwound when a step fails.
    #[serde(default)]
    pub rollback: Rollback,
    /// What is done, 1 to 10,000 steps. A list runs in order unless steps name what they need.
    #[schemars(length(min = 1, max = 10_000))]
    pub steps: Vec<Step>,
    /// 0 (last) to 9 (first), within the tenant.
    #[serde(default = "defaults::priority")]
    #[schemars(range(min = 0, max = 9))]
    pub priority: u8,
    /// When the plan must be over; past it nothing forward starts, and it is rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DateTime<Utc>>,
    /// `live`, or `dry`: the whole way, but no effects and no spend.
    #[serde(default)]
    pub mode: Mode,
    /// At most 64 free labels, for searching, with names of 1 to 100 characters.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// What to do with an outcome that nobody can tell.
    #[serde(default)]
    pub on_unknown: OnUnknown,
}

impl PlanDocument {
    /// The plan version this document is.
    #[must_use]
    pub fn key(&self) -> PlanKey {
        PlanKey::new(self.plan_id, self.plan_version)
    }

    /// What all steps and their undos may cost together, 0 to 2^53 − 1 (more saturates).
    #[must_use]
    pub fn max_cost(&self) -> i64 {
        self.steps
            .iter()
            .map(|step| step.max_cost.saturating_add(step.undo_max_cost()))
            .fold(0_i64, |sum, cost| sum.saturating_add(cost).min(MAX))
    }
}

/// Where the idea came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Insight {
    /// The insight's id in the producer's system.
    #[schemars(length(min = 1, max = 200))]
    pub id: String,
    /// Its version.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub version: i32,
}

/// Whether a plan acts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Acts.
    #[default]
    Live,
    /// Goes the whole way without effects or spend.
    Dry,
}

impl Mode {
    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Dry => "dry",
        }
    }
}

/// What to do with a step whose outcome the connector cannot tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Wait for an operator.
    #[default]
    Wait,
    /// Take the step as sent and failed, and roll back.
    Rollback,
}

/// How a plan is unwound.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Who starts it, and with which compensations.
    #[serde(default, rename = "type")]
    pub kind: RollbackKind,
    /// How much is undone.
    #[serde(default)]
    pub scope: RollbackScope,
    /// For `compensating`: the plan's own list, run in order instead of the steps' own compensations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<RollbackStep>,
}

/// Who starts a rollback, and with which compensations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RollbackKind {
    /// At once.
    #[default]
    Automatic,
    /// The plan pauses until an operator says.
    Manual,
    /// At once, by the plan's own list.
    Compensating,
}

impl RollbackKind {
    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Manual => "manual",
            Self::Compensating => "compensating",
        }
    }
}

/// How much a rollback undoes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RollbackScope {
    /// Everything that completed, newest first, and the failed step.
    #[default]
    Plan,
    /// Only the failed step.
    Step,
}

impl RollbackScope {
    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Step => "step",
        }
    }
}

/// One step of the plan's own rollback list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackStep {
    /// Unique among the rollback's and the plan's steps.
    pub key: StepKey,
    /// The outside system.
    #[schemars(length(min = 1, max = 100))]
    pub connector: String,
    /// The action.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$"))]
    pub action: String,
    /// Its parameters.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// The most it may cost.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub max_cost: i64,
    /// How it is tried again.
    #[serde(default)]
    pub retry: Retry,
}

/// One step: an action through a connector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Unique within the plan.
    pub key: StepKey,
    /// The outside system, by the name of its connector.
    #[schemars(length(min = 1, max = 100))]
    pub connector: String,
    /// The action, as the outside system names it; for `mux` the routing key, which may be any but `probe`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$"))]
    pub action: String,
    /// The action's parameters. `{"$from": "<step>", "path": "<pointer>"}` takes a result of an ancestor.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// The keys of the steps that must have completed; absent, the step before; `[]`, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Vec<StepKey>>,
    /// The most one attempt may cost, in the smallest unit of the budget's currency.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub max_cost: i64,
    /// How long one attempt may take, in milliseconds, 1 to 86,400,000.
    #[serde(default = "defaults::timeout_ms")]
    #[schemars(range(min = 1, max = 86_400_000))]
    pub timeout_ms: u64,
    /// The step does not start before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<DateTime<Utc>>,
    /// How a failed attempt is tried again.
    #[serde(default)]
    pub retry: Retry,
    /// Predicates that must hold before the step starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub preconditions: Vec<String>,
    /// Predicates that must hold after it answered, else it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub postconditions: Vec<String>,
    /// How it is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<Compensation>,
    /// It cannot be undone, and the plan says so.
    #[serde(default)]
    pub irreversible: bool,
}

impl Step {
    /// What the undo may cost, 0 where there is none.
    #[must_use]
    pub fn undo_max_cost(&self) -> i64 {
        self.compensation.as_ref().map_or(0, |undo| undo.max_cost)
    }
}

/// How a step is undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compensation {
    /// The action.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$"))]
    pub action: String,
    /// Its parameters; may take the step's own result.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// The outside system; the step's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub connector: Option<String>,
    /// The most it may cost.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub max_cost: i64,
    /// How it is tried again.
    #[serde(default)]
    pub retry: Retry,
}

/// How something is tried again: exponential backoff with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// The most attempts, the first included, 1 to 100.
    #[serde(default = "defaults::max_attempts")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: u32,
    /// The bound of the first wait, in milliseconds.
    #[serde(default = "defaults::initial_ms")]
    #[schemars(range(min = 0, max = 86_400_000))]
    pub initial_ms: u64,
    /// The bound of every wait, in milliseconds.
    #[serde(default = "defaults::max_ms")]
    #[schemars(range(min = 0, max = 86_400_000))]
    pub max_ms: u64,
    /// What each wait's bound is of the one before, 1 to 10.
    #[serde(default = "defaults::factor")]
    #[schemars(range(min = 1, max = 10))]
    pub factor: f64,
    /// No further attempt is due later than this after the first began, in milliseconds, 1 to 2,592,000,000; one that is
    /// under way then has its own `timeout_ms`. Absent, the number of attempts is the only bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000_000_i64))]
    pub within_ms: Option<u64>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: defaults::max_attempts(),
            initial_ms: defaults::initial_ms(),
            max_ms: defaults::max_ms(),
            factor: defaults::factor(),
            within_ms: None,
        }
    }
}

/// The contract's defaults, in one place for types and schema.
mod defaults {
    pub(super) const fn priority() -> u8 {
        4
    }
    pub(super) const fn timeout_ms() -> u64 {
        30_000
    }
    pub(super) const fn max_attempts() -> u32 {
        3
    }
    pub(super) const fn initial_ms() -> u64 {
        200
    }
    pub(super) const fn max_ms() -> u64 {
        30_000
    }
    pub(super) const fn factor() -> f64 {
        2.0
    }
}
