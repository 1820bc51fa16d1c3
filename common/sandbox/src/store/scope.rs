//! Which plans a report is about.

use serde::Deserialize;
use uuid::Uuid;

/// All plans, one, or one version of one.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Scope {
    /// The plan.
    pub(crate) plan_id: Option<Uuid>,
    /// Its version.
    pub(crate) plan_version: Option<i32>,
}

impl Scope {
    /// Whether the report is about this version.
    pub(crate) fn holds(self, version: i32) -> bool {
        self.plan_version.is_none_or(|wanted| wanted == version)
    }
}
