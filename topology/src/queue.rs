//! Queues.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::exchange::Exchange;
use crate::key;

/// How often a work queue delivers a message before it parks it. Explicit, because RabbitMQ 3.10 knows no limit by
/// default and 4.x has 20. What counts is a delivery that was handed back or whose channel was lost, so a message that
/// kills its worker is parked after 20 of them. An outage must not use the limit up: a stage whose database is away
/// keeps its deliveries unsettled and asks for no more.
pub const DELIVERY_LIMIT: i64 = 20;

/// For queues that park or that are not DAT's: in effect none. Looking at a parked message hands it back, which
/// counts, and 4.x would drop it after 20 looks if nothing were said.
const NO_DELIVERY_LIMIT: i64 = 1_000_000;

/// The stages that take work from a queue, each named after its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Plan documents.
    PlanSubmitted,
    /// Verdicts that approve.
    PlanApproved,
    /// Verdicts that reject or revoke.
    PlanRejected,
    /// Doorbells for steps that may run.
    StepDispatch,
    /// Doorbells for attempts that failed.
    StepFailed,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::PlanSubmitted, Self::PlanApproved, Self::PlanRejected, Self::StepDispatch, Self::StepFailed];

    /// The name of its queue without a namespace, which is also the name of the stage in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlanSubmitted => "plan.submitted",
            Self::PlanApproved => "plan.approved",
            Self::PlanRejected => "plan.rejected",
            Self::StepDispatch => "step.dispatch",
            Self::StepFailed => "step.failed",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Stage {
    type Err = UnknownStage;

    fn from_str(name: &str) -> Result<Self, UnknownStage> {
        Self::ALL
            .into_iter()
            .find(|stage| stage.as_str() == name)
            .ok_or_else(|| UnknownStage(name.to_owned()))
    }
}

/// No stage has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no queue {0}: it is one of plan.submitted, plan.approved, plan.rejected, step.dispatch, step.failed"
)]
pub struct UnknownStage(String);

/// The queues of the systems around DAT. The sandbox declares them, in production the systems themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outside {
    /// Governance: approval packages.
    GgpRequests,
    /// Governance: what people say of them, an addition to the contract (`dat_plan::quorum`).
    GgpApprovals,
    /// Market integration: actions and probes.
    MuxActions,
    /// Ledger: financial events.
    FloEvents,
    /// Portfolio tracker: performance events.
    PteEvents,
}

/// The queues of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    /// What a stage takes work from.
    Work(Stage),
    /// Where a stage's work is parked.
    Dead(Stage),
    /// What another system takes from.
    Outside(Outside),
}

impl From<Stage> for Queue {
    fn from(stage: Stage) -> Self {
        Self::Work(stage)
    }
}

impl From<Outside> for Queue {
    fn from(outside: Outside) -> Self {
        Self::Outside(outside)
    }
}

impl Queue {
    /// DAT's own.
    pub const ALL: [Self; 10] = [
        Self::Work(Stage::PlanSubmitted),
        Self::Work(Stage::PlanApproved),
        Self::Work(Stage::PlanRejected),
        Self::Work(Stage::StepDispatch),
        Self::Work(Stage::StepFailed),
        Self::Dead(Stage::PlanSubmitted),
        Self::Dead(Stage::PlanApproved),
        Self::Dead(Stage::PlanRejected),
        Self::Dead(Stage::StepDispatch),
        Self::Dead(Stage::StepFailed),
    ];

    /// Those of the systems around DAT.
    pub const OUTSIDE: [Self; 5] = [
        Self::Outside(Outside::GgpRequests),
        Self::Outside(Outside::GgpApprovals),
        Self::Outside(Outside::MuxActions),
        Self::Outside(Outside::FloEvents),
        Self::Outside(Outside::PteEvents),
    ];

    pub(crate) fn base_name(self) -> String {
        match self {
            Self::Work(stage) => stage.as_str().to_owned(),
            Self::Dead(stage) => format!("{stage}.dead"),
            Self::Outside(Outside::GgpRequests) => "ggp.requests".to_owned(),
            Self::Outside(Outside::GgpApprovals) => "ggp.approvals".to_owned(),
            Self::Outside(Outside::MuxActions) => "mux.actions".to_owned(),
            Self::Outside(Outside::FloEvents) => "flo.events".to_owned(),
            Self::Outside(Outside::PteEvents) => "pte.events".to_owned(),
        }
    }

    /// The bindings of a queue that is bound by fixed keys. A dead queue is not: its key is its work queue's name.
    pub(crate) fn sources(self) -> &'static [(Exchange, &'static str)] {
        match self {
            Self::Work(Stage::PlanSubmitted) => &[(Exchange::Plans, key::PLAN_SUBMITTED)],
            Self::Work(Stage::PlanApproved) => &[(Exchange::Plans, key::PLAN_APPROVED)],
            Self::Work(Stage::PlanRejected) => {
                &[(Exchange::Plans, key::PLAN_REJECTED), (Exchange::Plans, key::PLAN_REVOKED)]
            }
            Self::Work(Stage::StepDispatch) => &[(Exchange::Steps, key::STEP_DISPATCH)],
            Self::Work(Stage::StepFailed) => &[(Exchange::Steps, key::STEP_FAILED)],
            Self::Dead(_) => &[],
            Self::Outside(Outside::GgpRequests) => &[(Exchange::Ggp, key::PLAN_APPROVAL_REQUESTED)],
            Self::Outside(Outside::GgpApprovals) => &[(Exchange::Ggp, key::PLAN_APPROVAL)],
            Self::Outside(Outside::MuxActions) => &[(Exchange::Mux, key::ANY)],
            Self::Outside(Outside::FloEvents) => &[(Exchange::Flo, key::ANY)],
            Self::Outside(Outside::PteEvents) => &[(Exchange::Pte, key::ANY)],
        }
    }
}

/// The value of a queue's argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Argument {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
}

impl From<&str> for Argument {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Argument {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// A queue as it is declared: durable, not exclusive, not deleted with its last consumer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueSpec {
    /// Its name, namespace included.
    pub name: String,
    /// Its arguments.
    pub arguments: BTreeMap<&'static str, Argument>,
}

impl QueueSpec {
    /// Its name, namespace included.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A queue whose messages are parked once they have used up their deliveries. At least once, so that a message is in
    /// one of the two queues at any time; the broker asks for `reject-publish` with that. No length limit: work that does
    /// not fit would be refused to its producer.
    pub(crate) fn work(name: String, dead_exchange: &str) -> Self {
        let arguments = BTreeMap::from([
            ("x-queue-type", Argument::from("quorum")),
            ("x-delivery-limit", Argument::from(DELIVERY_LIMIT)),
            ("x-dead-letter-exchange", Argument::from(dead_exchange)),
            ("x-dead-letter-routing-key", Argument::from(name.as_str())),
            ("x-dead-letter-strategy", Argument::from("at-least-once")),
            ("x-overflow", Argument::from("reject-publish")),
        ]);
        Self { name, arguments }
    }

    /// A queue that keeps its messages until they are acked.
    pub(crate) fn keeping(name: String) -> Self {
        let arguments = BTreeMap::from([
            ("x-queue-type", Argument::from("quorum")),
            ("x-delivery-limit", Argument::from(NO_DELIVERY_LIMIT)),
        ]);
        Self { name, arguments }
    }
}
