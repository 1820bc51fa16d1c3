//! Events: what the append-only log records, where each goes, and its shape on the wire.
//!
//! An event is written in the transaction it describes. Events of one plan version form a gapless sequence and a hash
//! chain; the relay publishes them in that order. The id is the place in the log (`plan_id/version/sequence`), so that
//! it is the same however often the event is published.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::hash::{NoCanonicalForm, canonical};
use crate::ids::{PlanKey, UnknownWord};
use crate::state::{PlanState, StepState};

/// An operator's act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlAct {
    /// Nothing forward is claimed.
    Pause,
    /// It is again.
    Resume,
    /// End the plan, undoing what was done.
    Abort,
    /// No claim for this connector.
    DisableConnector,
    /// Claims again.
    EnableConnector,
    /// A limit was set.
    SetBudget,
    /// A constraint set was registered.
    SetConstraints,
    /// A tenant's share of the claims was set.
    SetWeight,
    /// A connector's breaker is held open: no claim for it.
    OpenBreaker,
    /// It is held closed, whatever it says by itself.
    CloseBreaker,
    /// It moves by itself again.
    FreeBreaker,
    /// An operator settled what nobody could tell, or what was stuck.
    Resolve,
    /// An act that takes two was asked for by the first of them.
    Request,
    /// It was said which acts take two.
    SetTwoPerson,
    /// A parked message was sent to its queue again.
    ReplayDead,
    /// A parked message was thrown away.
    DropDead,
}

impl ControlAct {
    /// The word of the contract, after `control.`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::DisableConnector => "disable_connector",
            Self::EnableConnector => "enable_connector",
            Self::SetBudget => "set_budget",
            Self::SetConstraints => "set_constraints",
            Self::SetWeight => "set_weight",
            Self::OpenBreaker => "open_breaker",
            Self::CloseBreaker => "close_breaker",
            Self::FreeBreaker => "free_breaker",
            Self::Resolve => "resolve",
            Self::Request => "request",
            Self::SetTwoPerson => "set_two_person",
            Self::ReplayDead => "replay_dead",
            Self::DropDead => "drop_dead",
        }
    }

    const ALL: [Self; 16] = [
        Self::Pause,
        Self::Resume,
        Self::Abort,
        Self::DisableConnector,
        Self::EnableConnector,
        Self::SetBudget,
        Self::SetConstraints,
        Self::SetWeight,
        Self::OpenBreaker,
        Self::CloseBreaker,
        Self::FreeBreaker,
        Self::Resolve,
        Self::Request,
        Self::SetTwoPerson,
        Self::ReplayDead,
        Self::DropDead,
    ];
}

impl std::str::FromStr for ControlAct {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|act| act.as_str() == word)
            .ok_or_else(|| UnknownWord { kind: "operator's act", word: word.to_owned() })
    }
}

/// What happened. The word is the routing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A plan came to a state: `plan.<state>`.
    Plan(PlanState),
    /// A step came to a state: `step.<state>`.
    Step(StepState),
    /// An undo came to a state: `undo.<state>`. The step it undoes has its own `step.compensating` and what follows.
    Undo(StepState),
    /// Governance is asked: `plan.approval_requested`.
    ApprovalRequested,
    /// A revocation was bound: `plan.revoked`, with the verdict. What it makes of the plan are events of their own.
    Revoked,
    /// Rows of a plan do not say what was approved, and nothing of it is claimed: `seal.broken`.
    SealBroken,
    /// Room was taken in the budget: `spend.reserved`.
    SpendReserved,
    /// Money was spent: `spend.incurred`.
    SpendIncurred,
    /// Reserved room was given back: `spend.released`.
    SpendReleased,
    /// Money came back: `refund.issued`.
    RefundIssued,
    /// More was spent than was reserved: `budget.overrun`.
    BudgetOverrun,
    /// A step does not fit the budget, for now or for good: `budget.refused`.
    BudgetRefused,
    /// A rule does not hold: `constraint.violated`.
    ConstraintViolated,
    /// A submission was refused: `submission.rejected`.
    SubmissionRejected,
    /// A message was parked that is no submission: `message.parked`.
    MessageParked,
    /// Redis lost what it held: `runtime.lost`. No total is touched by it; token windows are closed.
    RuntimeLost,
    /// What Redis lost was rebuilt from the ledger: `runtime.rebuilt`. Token windows are open.
    RuntimeRebuilt,
    /// An answer came when its lease was lost and something else was on record: `anomaly.late_answer`. It changes
    /// nothing.
    LateAnswer,
    /// What grew in the log was sealed: `audit.checkpoint`. Its data is the checkpoint.
    Checkpoint,
    /// An operator acted: `control.<act>`.
    Control(ControlAct),
}

/// A place where an event goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// The financial ledger.
    Flo,
    /// The portfolio tracker.
    Pte,
    /// Whoever follows lifecycles.
    Events,
    /// Governance.
    Ggp,
}

impl EventKind {
    /// Every kind that there is.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let units = StepState::ALL.iter().flat_map(|state| [Self::Step(*state), Self::Undo(*state)]);
        let plans = PlanState::ALL.iter().map(|state| Self::Plan(*state));
        let single = [
            Self::ApprovalRequested,
            Self::Revoked,
            Self::SealBroken,
            Self::SpendReserved,
            Self::SpendIncurred,
            Self::SpendReleased,
            Self::RefundIssued,
            Self::BudgetOverrun,
            Self::BudgetRefused,
            Self::ConstraintViolated,
            Self::SubmissionRejected,
            Self::MessageParked,
            Self::RuntimeLost,
            Self::RuntimeRebuilt,
            Self::LateAnswer,
            Self::Checkpoint,
        ];
        plans.chain(units).chain(single).chain(ControlAct::ALL.map(Self::Control)).collect()
    }

    /// The routing key; with `dat.` before it, the `CloudEvents` type.
    #[must_use]
    pub fn routing_key(self) -> String {
        match self {
            Self::Plan(state) => format!("plan.{state}"),
            Self::Step(state) => format!("step.{state}"),
            Self::Undo(state) => format!("undo.{state}"),
            Self::ApprovalRequested => "plan.approval_requested".to_owned(),
            Self::Revoked => "plan.revoked".to_owned(),
            Self::SealBroken => "seal.broken".to_owned(),
            Self::SpendReserved => "spend.reserved".to_owned(),
            Self::SpendIncurred => "spend.incurred".to_owned(),
            Self::SpendReleased => "spend.released".to_owned(),
            Self::RefundIssued => "refund.issued".to_owned(),
            Self::BudgetOverrun => "budget.overrun".to_owned(),
            Self::BudgetRefused => "budget.refused".to_owned(),
            Self::ConstraintViolated => "constraint.violated".to_owned(),
            Self::SubmissionRejected => "submission.rejected".to_owned(),
            Self::MessageParked => "message.parked".to_owned(),
            Self::RuntimeLost => "runtime.lost".to_owned(),
            Self::RuntimeRebuilt => "runtime.rebuilt".to_owned(),
            Self::LateAnswer => "anomaly.late_answer".to_owned(),
            Self::Checkpoint => "audit.checkpoint".to_owned(),
            Self::Control(act) => format!("control.{}", act.as_str()),
        }
    }

    /// Where it is published. Every event goes somewhere; none goes to two consumers that would count it twice.
    #[must_use]
    pub const fn destinations(self) -> &'static [Destination] {
        match self {
            Self::SpendReserved | Self::SpendIncurred | Self::SpendReleased | Self::RefundIssued => {
                &[Destination::Flo]
            }
            Self::ApprovalRequested => &[Destination::Ggp],
            Self::Plan(PlanState::Completed | PlanState::Aborted)
            | Self::Step(StepState::Completed | StepState::Failed | StepState::RolledBack) => {
                &[Destination::Pte, Destination::Events]
            }
            Self::Plan(_)
            | Self::Step(_)
            | Self::Undo(_)
            | Self::Revoked
            | Self::SealBroken
            | Self::BudgetOverrun
            | Self::BudgetRefused
            | Self::ConstraintViolated
            | Self::SubmissionRejected
            | Self::MessageParked
            | Self::RuntimeLost
            | Self::RuntimeRebuilt
            | Self::LateAnswer
            | Self::Checkpoint
            | Self::Control(_) => &[Destination::Events],
        }
    }
}

impl std::str::FromStr for EventKind {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let unknown = || UnknownWord { kind: "event", word: word.to_owned() };
        let (family, rest) = word.split_once('.').ok_or_else(unknown)?;
        Ok(match (family, rest) {
            ("plan", "approval_requested") => Self::ApprovalRequested,
            ("plan", "revoked") => Self::Revoked,
            ("seal", "broken") => Self::SealBroken,
            ("plan", state) => Self::Plan(state.parse()?),
            ("step", state) => Self::Step(state.parse()?),
            ("undo", state) => Self::Undo(state.parse()?),
            ("spend", "reserved") => Self::SpendReserved,
            ("spend", "incurred") => Self::SpendIncurred,
            ("spend", "released") => Self::SpendReleased,
            ("refund", "issued") => Self::RefundIssued,
            ("budget", "overrun") => Self::BudgetOverrun,
            ("budget", "refused") => Self::BudgetRefused,
            ("constraint", "violated") => Self::ConstraintViolated,
            ("submission", "rejected") => Self::SubmissionRejected,
            ("message", "parked") => Self::MessageParked,
            ("runtime", "lost") => Self::RuntimeLost,
            ("runtime", "rebuilt") => Self::RuntimeRebuilt,
            ("anomaly", "late_answer") => Self::LateAnswer,
            ("audit", "checkpoint") => Self::Checkpoint,
            ("control", act) => Self::Control(act.parse().map_err(|_| unknown())?),
            _ => return Err(unknown()),
        })
    }
}

/// An event that is about to be written: everything but its place.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The plan version, or [`PlanKey::CONTROL`].
    pub plan: PlanKey,
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: DateTime<Utc>,
    /// Whose plan it is; empty for the control stream.
    pub tenant: String,
    /// The step it is about.
    pub step: Option<String>,
    /// The attempt it is about, from 1.
    pub attempt: Option<i32>,
    /// The rest of `data`.
    pub data: Map<String, Value>,
}

impl NewEvent {
    /// An event about a whole plan.
    #[must_use]
    pub fn of_plan(plan: PlanKey, tenant: &str, kind: EventKind, at: DateTime<Utc>) -> Self {
        Self { plan, kind, at, tenant: tenant.to_owned(), step: None, attempt: None, data: Map::new() }
    }

    /// The same event about one step of it.
    #[must_use]
    pub fn step(mut self, step: &str, attempt: i32) -> Self {
        self.step = Some(step.to_owned());
        self.attempt = Some(attempt);
        self
    }

    /// The same event with one more field of `data`.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.data.insert(field.to_owned(), value.into());
        self
    }

    /// The same event with a `reason`, where there is one.
    #[must_use]
    pub fn because(self, reason: &str) -> Self {
        if reason.is_empty() { self } else { self.with("reason", reason) }
    }

    /// `data` as it is logged and published: the fields every event has, and its own.
    #[must_use]
    pub fn full_data(&self) -> Map<String, Value> {
        let mut data = self.data.clone();
        if !self.plan.is_control() {
            data.insert("plan_id".to_owned(), json!(self.plan.plan_id));
            data.insert("plan_version".to_owned(), json!(self.plan.plan_version));
            data.insert("tenant".to_owned(), json!(self.tenant));
        }
        if let Some(step) = &self.step {
            data.insert("step".to_owned(), json!(step));
        }
        if let Some(attempt) = self.attempt {
            data.insert("attempt".to_owned(), json!(attempt));
        }
        data
    }
}

/// An event at its place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedEvent {
    /// The stream.
    pub plan: PlanKey,
    /// Its place, from 1, without a gap.
    pub sequence: i64,
    /// The routing key.
    pub kind: String,
    /// When.
    pub at: DateTime<Utc>,
    /// What is published as `data`.
    pub data: Value,
}

impl LoggedEvent {
    /// The id on the wire: `message_id`, and the `CloudEvents` `id`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.plan, self.sequence)
    }

    /// The `CloudEvents` 1.0 envelope.
    #[must_use]
    pub fn envelope(&self) -> Value {
        json!(self.wrapped(None))
    }

    /// The envelope as text, with the W3C trace context as an attribute where one is given (`CloudEvents`' distributed
    /// tracing extension).
    #[must_use]
    pub fn envelope_text(&self, traceparent: Option<&str>) -> String {
        // Text of a value that is JSON already, under keys that are texts: there is nothing that could fail.
        serde_json::to_string(&self.wrapped(traceparent)).unwrap_or_default()
    }

    fn wrapped<'a>(&'a self, traceparent: Option<&'a str>) -> Envelope<'a> {
        let subject =
            if self.plan.is_control() { "control".to_owned() } else { self.plan.plan_id.to_string() };
        Envelope {
            data: &self.data,
            datacontenttype: "application/json",
            id: self.id(),
            sequence: self.sequence.to_string(),
            source: "dat",
            specversion: "1.0",
            subject,
            time: self.at.to_rfc3339_opts(SecondsFormat::Micros, true),
            traceparent,
            kind: format!("dat.{}", self.kind),
        }
    }

    /// The hash that chains this event to the one before it: SHA-256 over the earlier hash and the RFC 8785 form of
    /// the envelope. The first event of a stream is chained to 32 zero bytes.
    pub fn chained(&self, previous: &[u8]) -> Result<[u8; 32], NoCanonicalForm> {
        let mut hasher = Sha256::new();
        hasher.update(previous);
        hasher.update(canonical(&self.wrapped(None))?);
        Ok(hasher.finalize().into())
    }
}

/// An event as it is written, around data that is not copied. In the order of the names, as a JSON value has it.
#[derive(Serialize)]
struct Envelope<'a> {
    data: &'a Value,
    datacontenttype: &'static str,
    id: String,
    sequence: String,
    source: &'static str,
    specversion: &'static str,
    subject: String,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(rename = "type")]
    kind: String,
}

/// What the first event of a stream is chained to.
pub const CHAIN_START: [u8; 32] = [0; 32];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_routing_key_reads_back() {
        for kind in EventKind::all() {
            assert_eq!(kind.routing_key().parse(), Ok(kind));
        }
    }

    #[test]
    fn an_envelope_is_the_same_as_text_and_as_a_value() {
        let event = LoggedEvent {
            plan: PlanKey::new(uuid::Uuid::from_u128(7), 2),
            sequence: 9,
            kind: "step.completed".to_owned(),
            at: DateTime::UNIX_EPOCH,
            data: json!({"z": 1, "a": {"y": [1.5, null], "b": "\u{e9}"}}),
        };
        assert_eq!(event.envelope_text(None), event.envelope().to_string());
        let traced: Value = serde_json::from_str(&event.envelope_text(Some("00-ab-cd-01"))).expect("JSON");
        let mut meant = event.envelope();
        meant["traceparent"] = json!("00-ab-cd-01");
        assert_eq!(traced, meant);
    }

    #[test]
    fn the_chain_depends_on_every_field_and_on_what_came_before() {
        let event = LoggedEvent {
            plan: PlanKey::CONTROL,
            sequence: 1,
            kind: "control.pause".to_owned(),
            at: DateTime::UNIX_EPOCH,
            data: json!({"actor": "ann"}),
        };
        let hash = event.chained(&CHAIN_START).expect("canonical");
        assert_ne!(hash, event.chained(&[1; 32]).expect("canonical"));
        let other = LoggedEvent { data: json!({"actor": "bob"}), ..event.clone() };
        assert_ne!(hash, other.chained(&CHAIN_START).expect("canonical"));
        let moved = LoggedEvent { sequence: 2, ..event };
        assert_ne!(hash, moved.chained(&CHAIN_START).expect("canonical"));
    }
}
