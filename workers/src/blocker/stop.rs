//! What operators have stopped, as a reason and a remedy.

use dat_store::Stop;

use super::Facts;
use crate::moments::moment;

impl Facts<'_> {
    /// The widest stop that holds the plan, or its steps of one connector.
    pub(super) fn stop(&self, connector: Option<&str>) -> Option<&Stop> {
        let plan = &self.view.summary;
        let id = plan.plan.plan_id.to_string();
        let find =
            |scope: &str, subject: &str| self.stops.iter().find(|s| s.scope == scope && s.subject == subject);
        find("fleet", "")
            .or_else(|| find("tenant", &plan.tenant))
            .or_else(|| find("plan", &id))
            .or_else(|| connector.and_then(|name| find("connector", name).or_else(|| find("breaker", name))))
    }
}

/// Who stopped it, when and why.
pub(super) fn said(stop: &Stop) -> String {
    let what = match (stop.scope.as_str(), stop.subject.as_str()) {
        ("fleet", _) => "the fleet is paused".to_owned(),
        ("plan", _) => "the plan is paused".to_owned(),
        ("connector", name) => format!("connector {name} is disabled"),
        ("breaker", name) => format!("the breaker of connector {name} is forced open"),
        (scope, subject) => format!("{scope} {subject} is paused"),
    };
    format!("{what} by {} since {}: {}", stop.actor, moment(stop.since), stop.reason)
}

/// The command that lifts it.
pub(super) fn lifted_by(stop: &Stop) -> String {
    let subject = &stop.subject;
    let command = match stop.scope.as_str() {
        "fleet" => "resume".to_owned(),
        "connector" => format!("connector enable {subject}"),
        "breaker" => format!("connector auto {subject}"),
        scope => format!("resume --{scope} {subject}"),
    };
    format!("'dat control {command} --reason …'")
}
