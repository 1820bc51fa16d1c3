//! The names of DAT's contract that a producer needs, written down here as an outsider's own.

/// Where plans are submitted.
const PLANS: &str = "dat.plans";
/// Where lifecycle events come from.
const EVENTS: &str = "dat.events";

/// The routing key of a plan document.
pub(crate) const PLAN_SUBMITTED: &str = "plan.submitted";
/// What the `type` of an event has before its routing key.
pub(crate) const TYPE_PREFIX: &str = "dat.";
/// A verdict was bound to the plan.
pub(crate) const PLAN_APPROVED: &str = "plan.approved";
/// Every step completed.
pub(crate) const PLAN_COMPLETED: &str = "plan.completed";
/// The plan ended without completing.
pub(crate) const PLAN_ABORTED: &str = "plan.aborted";
/// Governance said no.
pub(crate) const PLAN_REJECTED: &str = "plan.rejected";
/// The rollback cannot finish.
pub(crate) const PLAN_STUCK: &str = "plan.stuck";
/// A step is done.
pub(crate) const STEP_COMPLETED: &str = "step.completed";
/// A document was refused.
pub(crate) const SUBMISSION_REJECTED: &str = "submission.rejected";

/// Several events in one message, where the fleet is set so.
pub(crate) const BATCH: &str = "batch";

/// The events that a run counts. The others of `plan.*` are not asked for: on one machine with the fleet, taking them
/// would slow down what is measured.
const FOLLOWED: [&str; 8] = [
    PLAN_APPROVED,
    PLAN_COMPLETED,
    PLAN_ABORTED,
    PLAN_REJECTED,
    PLAN_STUCK,
    STEP_COMPLETED,
    SUBMISSION_REJECTED,
    BATCH,
];

/// The exchanges of one fleet. Its namespace prefixes them; routing keys stay as they are.
#[derive(Debug, Clone)]
pub(crate) struct Exchanges {
    prefix: String,
}

impl Exchanges {
    /// Those of a namespace; an empty one is none.
    pub(crate) fn new(namespace: Option<&str>) -> Self {
        let prefix = match namespace {
            None | Some("") => String::new(),
            Some(namespace) => format!("{namespace}."),
        };
        Self { prefix }
    }

    /// Where plans are submitted.
    pub(crate) fn plans(&self) -> String {
        format!("{}{PLANS}", self.prefix)
    }

    /// What to bind a queue to, by exchange and routing key, to hear all that is counted.
    pub(crate) fn followed(&self) -> Vec<(String, String)> {
        FOLLOWED.iter().map(|key| (format!("{}{EVENTS}", self.prefix), (*key).to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_prefixes_exchanges_and_no_routing_key() {
        let exchanges = Exchanges::new(Some("blue"));
        assert_eq!(exchanges.plans(), "blue.dat.plans");
        assert!(exchanges.followed().contains(&("blue.dat.events".to_owned(), "plan.completed".to_owned())));
        assert_eq!(Exchanges::new(Some("")).plans(), Exchanges::new(None).plans());
    }
}
