//! What the fleet announces on `dat.events`, as a producer reads it.

use std::fmt;

use dat_plan::{PlanKey, PlanState};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

/// One lifecycle event.
#[derive(Debug, Clone, PartialEq)]
pub struct Announcement {
    /// The id, the same however often it comes.
    pub id: String,
    /// The plan version, or [`PlanKey::CONTROL`].
    pub plan: PlanKey,
    /// The routing key, e.g. `plan.completed`.
    pub kind: String,
    /// Its place in the plan version.
    pub sequence: i64,
    /// The step it is about.
    pub step: Option<String>,
    /// Everything it says.
    pub data: Value,
}

#[derive(Deserialize)]
struct Envelope {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    sequence: String,
    data: Value,
}

impl Announcement {
    /// Reads what came from the broker: an event, or a batch of them.
    pub(crate) fn read_all(body: &[u8]) -> Result<Vec<Self>, Box<dyn std::error::Error>> {
        match serde_json::from_slice(body)? {
            Value::Array(batch) => batch.into_iter().map(Self::read).collect(),
            one => Ok(vec![Self::read(one)?]),
        }
    }

    fn read(event: Value) -> Result<Self, Box<dyn std::error::Error>> {
        let envelope: Envelope = serde_json::from_value(event)?;
        let data = &envelope.data;
        let plan = match data.get("plan_id").and_then(Value::as_str) {
            Some(id) => PlanKey::new(
                id.parse::<Uuid>()?,
                data["plan_version"].as_i64().ok_or("no plan_version")?.try_into()?,
            ),
            None => PlanKey::CONTROL,
        };
        Ok(Self {
            plan,
            kind: envelope.kind.strip_prefix("dat.").ok_or("a type that is not DAT's")?.to_owned(),
            sequence: envelope.sequence.parse()?,
            step: data.get("step").and_then(Value::as_str).map(str::to_owned),
            id: envelope.id,
            data: envelope.data,
        })
    }

    /// The state of the plan that this announces, if it does.
    #[must_use]
    pub fn plan_state(&self) -> Option<PlanState> {
        self.kind.strip_prefix("plan.")?.parse().ok()
    }

    /// Whether the plan ends with this, or waits for an operator for ever.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.plan_state().is_some_and(|state| state.is_end() || state == PlanState::Stuck)
    }

    /// Whether this is of that kind, about that step.
    #[must_use]
    pub fn is(&self, kind: &str, step: &str) -> bool {
        self.kind == kind && self.step.as_deref() == Some(step)
    }
}

impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>4} {}", self.sequence, self.kind)?;
        if let Some(step) = &self.step {
            write!(f, " {step}")?;
        }
        match self.data.get("reason").and_then(Value::as_str) {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

/// How a plan ended, and what was announced on the way.
#[derive(Debug, Clone)]
pub struct EndState {
    /// `completed`, `rejected`, `aborted` or `stuck`.
    pub state: PlanState,
    /// Every event of the plan version, in order.
    pub events: Vec<Announcement>,
}

impl EndState {
    /// How many events of a kind there were.
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|event| event.kind == kind).count()
    }

    /// The steps that events of a kind are about, in order.
    #[must_use]
    pub fn steps(&self, kind: &str) -> Vec<&str> {
        self.events
            .iter()
            .filter(|event| event.kind == kind)
            .filter_map(|event| event.step.as_deref())
            .collect()
    }

    /// The states that the plan went through.
    #[must_use]
    pub fn way(&self) -> Vec<PlanState> {
        self.events.iter().filter_map(Announcement::plan_state).collect()
    }

    /// The whole story, a line an event.
    #[must_use]
    pub fn story(&self) -> String {
        let lines: Vec<String> = self.events.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }
}
