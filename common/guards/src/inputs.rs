//! Inputs: the snapshot of everything that a decision looks at.
//!
//! Recorded with each decision, so that it can be made again offline with the same result.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dat_plan::{Currency, PlanDocument, StepKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Everything that a decision looks at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// The moment of the decision.
    pub now: DateTime<Utc>,
    /// The plan.
    pub plan: PlanFacts,
    /// Who pays.
    pub tenant: String,
    /// The step decided on; none when a plan is admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepFacts>,
    /// The plan's account before this step.
    pub budget: BudgetFacts,
    /// The results of completed steps by step key; a postcondition also sees the step's own. What no predicate reads
    /// may be left out (see [`crate::Reads`]).
    #[serde(default)]
    pub results: Map<String, Value>,
    /// What the claim transaction counted for the rules that count.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub counts: Counts,
}

/// What was counted, under the claim's locks, for the rules that count the step decided on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// How many attempts run or are unknown, by the key of a `concurrency` rule's counter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub running: BTreeMap<String, i64>,
    /// What is on the accounts of `spend` rules, by their key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spent: BTreeMap<String, Counted>,
    /// What this attempt would reserve: its action's `max_cost`, and its undo's where none is held yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub need: i64,
}

impl Counts {
    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is on the account of a `spend` rule, in the currency's smallest unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Settled, net of refunds.
    pub settled: i64,
    /// Held by open reservations.
    pub reserved: i64,
    /// The part of it that is held for undos until the plan's end; counted for a plan's own rules only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub undos: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A plan, as predicates see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanFacts {
    /// The plan's id.
    pub id: Uuid,
    /// The version, from 1.
    pub version: i32,
    /// Its name.
    pub name: String,
    /// 0 to 9.
    pub priority: u8,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How many steps it has, 1 to 10,000.
    pub steps: u32,
}

impl PlanFacts {
    /// The facts of a document.
    #[must_use]
    pub fn of(document: &PlanDocument) -> Self {
        Self {
            id: document.plan_id,
            version: document.plan_version,
            name: document.name.clone(),
            priority: document.priority,
            labels: document.labels.clone(),
            steps: u32::try_from(document.steps.len()).unwrap_or(u32::MAX),
        }
    }
}

/// A step, as predicates see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepFacts {
    /// Its key.
    pub key: StepKey,
    /// Its place in the document, from 0.
    pub index: i32,
    /// The attempt decided on, from 1.
    pub attempt: i32,
    /// Its connector.
    #[serde(default)]
    pub connector: String,
    /// Its action.
    #[serde(default)]
    pub action: String,
    /// Its parameters, references resolved.
    #[serde(default)]
    pub parameters: Map<String, Value>,
}

/// A plan's account, in the smallest unit of its currency; all 0 to 2^53 − 1 but `spent`, which refunds may turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetFacts {
    /// The limit that was approved.
    pub amount: i64,
    /// Settled, net of refunds, before this step.
    pub spent: i64,
    /// Held by reservations.
    pub reserved: i64,
    /// Of what.
    pub currency: Currency,
}
