//! Ids: which plan version, which step of it, which unit of work.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One version of one plan: the key that leads every row, and the unit that is approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct PlanKey {
    /// The plan's id; it belongs to one tenant for ever.
    pub plan_id: Uuid,
    /// The version, from 1.
    pub plan_version: i32,
}

impl PlanKey {
    /// Names one version of one plan.
    #[must_use]
    pub const fn new(plan_id: Uuid, plan_version: i32) -> Self {
        Self { plan_id, plan_version }
    }

    /// The stream of events that concern no plan: operator acts, refused submissions, checkpoints.
    pub const CONTROL: Self = Self { plan_id: Uuid::nil(), plan_version: 0 };

    /// Whether this is the control stream and not a plan.
    #[must_use]
    pub fn is_control(&self) -> bool {
        *self == Self::CONTROL
    }
}

impl fmt::Display for PlanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_control() {
            return f.write_str("control");
        }
        write!(f, "{}/{}", self.plan_id, self.plan_version)
    }
}

/// A step's key: unique within its plan version, 1 to 100 characters of `[A-Za-z0-9._-]`, from a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct StepKey(#[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"))] pub String);

impl StepKey {
    /// Whether a text can be a step's key. The idempotency key joins ids with `/`, so a key holds none.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        text.len() <= 100
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of work a unit is: a step's action, or the undoing of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitKind {
    /// The step's own action.
    Action,
    /// The compensation of a step, or a step of the plan's own `rollback.steps`.
    Undo,
}

impl UnitKind {
    /// The word stored in rows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Undo => "undo",
        }
    }
}

impl std::str::FromStr for UnitKind {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "action" => Ok(Self::Action),
            "undo" => Ok(Self::Undo),
            _ => Err(UnknownWord { kind: "unit kind", word: word.to_owned() }),
        }
    }
}

/// A word that no state or kind of this version of DAT has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{word}' is not a known {kind}; was this written by a newer version of DAT?")]
pub struct UnknownWord {
    /// What was being read.
    pub kind: &'static str,
    /// The word found.
    pub word: String,
}

/// One unit of work: what is claimed under a lease, tried, and settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnitKey {
    /// The plan version it belongs to.
    pub plan: PlanKey,
    /// Action or undo.
    pub kind: UnitKind,
    /// The place of the step in the document; for an undo, of the step undone. `rollback.steps` follow after the last.
    pub index: i32,
}

/// The key under which an outside system applies an action at most once.
///
/// `plan_id/version/step/n`, or `plan_id/version/step/undo/n`. The same across retries; `n` rises only after a seal,
/// or after a definite no-effect answer from a connector that replays errors by key.
#[must_use]
pub fn idempotency_key(plan: PlanKey, kind: UnitKind, step: &str, n: i32) -> String {
    match kind {
        UnitKind::Action => format!("{plan}/{step}/{n}"),
        UnitKind::Undo => format!("{plan}/{step}/undo/{n}"),
    }
}
