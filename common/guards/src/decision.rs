//! Decisions: what the constraint engine answers, with every rule that was violated.

use chrono::{DateTime, Utc};
use dat_plan::document::Enforcement;
use serde::{Deserialize, Serialize};

/// What a decision comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is violated.
    Pass,
    /// Only soft rules are: go on, warn, flag.
    Warn,
    /// A hard rule is: do not act. [`Decision::wait_until`] tells whether a moment will change that.
    Deny,
}

/// One violated rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The constraint's id; for a condition `preconditions/0`, `postconditions/2`, ….
    pub constraint: String,
    /// What the violation does.
    pub enforcement: Enforcement,
    /// What is violated and by which value, in one sentence of at most 300 characters.
    pub reason: String,
    /// The moment from which it is no longer violated, where that is known: not a refusal but a wait. Hard rules only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<DateTime<Utc>>,
    /// Whether this plan version can never pass it: the document itself violates it, or its time is over.
    pub lasting: bool,
}

/// A decision and its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What it comes to.
    pub verdict: Verdict,
    /// Every violated rule, not only the first, in the order of the rules.
    #[serde(default)]
    pub violations: Vec<Violation>,
}

impl Default for Decision {
    /// Nothing is violated.
    fn default() -> Self {
        Self::from_violations(Vec::new())
    }
}

impl Decision {
    /// The decision that violations come to.
    #[must_use]
    pub fn from_violations(violations: Vec<Violation>) -> Self {
        let verdict = violations
            .iter()
            .map(|violation| match violation.enforcement {
                Enforcement::Hard => Verdict::Deny,
                Enforcement::Soft => Verdict::Warn,
            })
            .max()
            .unwrap_or(Verdict::Pass);
        Self { verdict, violations }
    }

    /// Both decisions as one: what either violates is violated.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.violations.extend(other.violations);
        Self::from_violations(self.violations)
    }

    /// The moment to ask again, where waiting is all that is needed: every hard violation names one; the latest.
    #[must_use]
    pub fn wait_until(&self) -> Option<DateTime<Utc>> {
        let mut latest = None;
        for violation in self.hard() {
            latest = latest.max(Some(violation.retry_at?));
        }
        latest
    }

    /// Whether this plan version can never pass: a hard rule is violated for good.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        self.hard().any(|violation| violation.lasting)
    }

    fn hard(&self) -> impl Iterator<Item = &Violation> {
        self.violations.iter().filter(|violation| violation.enforcement == Enforcement::Hard)
    }
}
