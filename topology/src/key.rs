//! Routing keys that bindings name, and that commands and doorbells are published with. The keys of events follow
//! from the events themselves and are not repeated here.

/// A plan document.
pub const PLAN_SUBMITTED: &str = "plan.submitted";
/// A verdict that approves.
pub const PLAN_APPROVED: &str = "plan.approved";
/// A verdict that rejects.
pub const PLAN_REJECTED: &str = "plan.rejected";
/// A verdict that takes an approval back.
pub const PLAN_REVOKED: &str = "plan.revoked";
/// A doorbell: a step may run.
pub const STEP_DISPATCH: &str = "step.dispatch";
/// A doorbell: an attempt failed.
pub const STEP_FAILED: &str = "step.failed";
/// An approval package for governance.
pub const PLAN_APPROVAL_REQUESTED: &str = "plan.approval_requested";
/// What one person says of a plan that governance asks people about.
pub const PLAN_APPROVAL: &str = "plan.approval";
/// Asks MUX what became of an action. Any other key of its exchange is the name of an action.
pub const PROBE: &str = "probe";
/// Several events in one message, for a consumer that reads them so.
pub const BATCH: &str = "batch";
/// Every key, in a binding to a topic exchange.
pub const ANY: &str = "#";
