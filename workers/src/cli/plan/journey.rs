//! The ways of submitted plans, as `dat.events` tells them; pure.

use std::fmt;

use dat_plan::event::EventKind;
use dat_plan::{Fault, PlanKey, PlanState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::file::PlanFile;

/// The plans that are followed.
#[derive(Debug, Default)]
pub(super) struct Journeys(Vec<Journey>);

#[derive(Debug)]
struct Journey {
    file: String,
    /// The submission's; a refusal names nothing else.
    message_id: String,
    plan: Option<PlanKey>,
    /// Where it came to rest.
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Completed,
    Otherwise,
}

/// One thing that happened on the way, as it is said.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Step {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(flatten)]
    plan: Option<PlanKey>,
    message_id: String,
    /// `submitted`, `refused`, or the plan's state.
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<Fault>,
}

/// What is read of an event.
#[derive(Debug, Deserialize)]
struct Heard {
    time: Option<String>,
    data: HeardData,
}

#[derive(Debug, Deserialize)]
struct HeardData {
    plan_id: Option<Uuid>,
    plan_version: Option<i32>,
    message_id: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    faults: Vec<Fault>,
}

/// What of a document says which plan it is, whatever else is wrong with it.
#[derive(Debug, Deserialize)]
struct Named {
    plan_id: Uuid,
    plan_version: i32,
}

impl Journeys {
    /// Follows a submission from here.
    pub(super) fn start(&mut self, file: &PlanFile, message_id: &str) -> Step {
        let plan = serde_json::from_slice::<Named>(&file.body)
            .ok()
            .map(|named| PlanKey::new(named.plan_id, named.plan_version));
        let journey = Journey { file: file.name.clone(), message_id: message_id.to_owned(), plan, end: None };
        let step = journey.step("submitted");
        self.0.push(journey);
        step
    }

    /// Takes an event; gives what it says of a plan that is followed.
    pub(super) fn hear(&mut self, routing_key: &str, body: &[u8]) -> Option<Step> {
        let kind = routing_key.parse().ok()?;
        let Heard { time, data } = serde_json::from_slice(body).ok()?;
        let (state, end) = match kind {
            EventKind::Plan(state @ PlanState::Completed) => (state.as_str(), Some(End::Completed)),
            // A plan that is stuck goes on when an operator says how: nothing more to wait for here.
            EventKind::Plan(state) if state.is_end() || state == PlanState::Stuck => {
                (state.as_str(), Some(End::Otherwise))
            }
            EventKind::Plan(state) => (state.as_str(), None),
            _ => ("refused", Some(End::Otherwise)),
        };
        let plan = data.plan_id.zip(data.plan_version).map(|(id, version)| PlanKey::new(id, version));
        let is_meant = |journey: &Journey| match kind {
            EventKind::SubmissionRejected => data.message_id.as_ref() == Some(&journey.message_id),
            EventKind::Plan(_) => plan.is_some() && journey.plan == plan,
            _ => false,
        };
        // A plan that was submitted twice is one plan.
        let mut said = None;
        for journey in self.0.iter_mut().filter(|journey| is_meant(journey)) {
            journey.end = journey.end.or(end);
            said.get_or_insert_with(|| journey.step(state));
        }
        Some(Step { time, reason: data.reason, faults: data.faults, ..said? })
    }

    /// The files whose plans are still on their way.
    pub(super) fn open(&self) -> Vec<&str> {
        self.0.iter().filter(|j| j.end.is_none()).map(|j| j.file.as_str()).collect()
    }

    /// Whether every plan completed.
    pub(super) fn all_completed(&self) -> bool {
        self.0.iter().all(|journey| journey.end == Some(End::Completed))
    }
}

impl Journey {
    fn step(&self, state: &str) -> Step {
        Step {
            file: self.file.clone(),
            time: None,
            plan: self.plan,
            message_id: self.message_id.clone(),
            state: state.to_owned(),
            reason: None,
            faults: Vec::new(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.plan {
            Some(plan) => write!(f, "{plan}  {}", self.state)?,
            None => write!(f, "{}  {}", self.file, self.state)?,
        }
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        self.faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PLAN: &str = "0199d3a4-7c1e-7b1a-9c44-0a3f5d0c7421";

    fn started() -> Journeys {
        let body = json!({"plan_id": PLAN, "plan_version": 2, "steps": "wrong"}).to_string().into_bytes();
        let mut journeys = Journeys::default();
        let step = journeys.start(&PlanFile { name: "launch.json".to_owned(), body }, "m1");
        assert_eq!(step.to_string(), format!("{PLAN}/2  submitted"));
        journeys
    }

    fn event(data: &serde_json::Value) -> Vec<u8> {
        json!({"time": "2026-11-22T00:00:00Z", "data": data}).to_string().into_bytes()
    }

    #[test]
    fn a_plan_is_followed_to_its_end_and_no_other_is() {
        let mut journeys = started();
        let mine = json!({"plan_id": PLAN, "plan_version": 2, "tenant": "acme"});
        let other = json!({"plan_id": PLAN, "plan_version": 1, "tenant": "acme"});
        assert!(journeys.hear("plan.completed", &event(&other)).is_none());
        assert_eq!(journeys.open(), ["launch.json"]);
        assert!(journeys.hear("plan.executing", &event(&mine)).is_some());
        assert!(!journeys.all_completed());
        assert!(journeys.hear("plan.completed", &event(&mine)).is_some());
        assert!(journeys.open().is_empty() && journeys.all_completed());
    }

    #[test]
    fn a_refusal_is_known_by_its_message_and_is_no_completion() {
        let mut journeys = started();
        let faults = json!([{"pointer": "/steps", "code": "wrong_type", "message": "a list is expected"}]);
        let refusal = |id: &str| event(&json!({"message_id": id, "faults": faults}));
        assert!(journeys.hear("submission.rejected", &refusal("m0")).is_none());
        let said = journeys.hear("submission.rejected", &refusal("m1")).map(|step| step.to_string());
        assert_eq!(
            said.as_deref(),
            Some(format!("{PLAN}/2  refused\n  /steps: a list is expected").as_str())
        );
        assert!(journeys.open().is_empty() && !journeys.all_completed());
    }
}
