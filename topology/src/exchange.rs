//! Exchanges.

use serde::Serialize;

/// The exchanges of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exchange {
    /// Plans and verdicts, to DAT.
    Plans,
    /// Doorbells between DAT's own stages.
    Steps,
    /// Requests for approval, to governance.
    Ggp,
    /// Actions and probes, to the market integration.
    Mux,
    /// Financial events, to the ledger.
    Flo,
    /// Performance events, to the portfolio tracker.
    Pte,
    /// Lifecycle events, to whoever binds a queue.
    Events,
    /// Hints that a control row was written, to every worker.
    Control,
    /// Parked messages. The routing key is the full name of the queue that a message came from, namespace included:
    /// a queue's `x-dead-letter-routing-key` is per queue, and two fleets on one broker stay apart.
    Dead,
}

impl Exchange {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Plans,
        Self::Steps,
        Self::Ggp,
        Self::Mux,
        Self::Flo,
        Self::Pte,
        Self::Events,
        Self::Control,
        Self::Dead,
    ];

    pub(crate) fn base_name(self) -> &'static str {
        match self {
            Self::Plans => "dat.plans",
            Self::Steps => "dat.steps",
            Self::Ggp => "ggp",
            Self::Mux => "mux",
            Self::Flo => "flo",
            Self::Pte => "pte",
            Self::Events => "dat.events",
            Self::Control => "dat.control",
            Self::Dead => "dat.dead",
        }
    }

    pub(crate) fn kind(self) -> ExchangeKind {
        match self {
            Self::Control => ExchangeKind::Fanout,
            _ => ExchangeKind::Topic,
        }
    }
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeKind {
    /// By patterns over the words of the routing key.
    Topic,
    /// To every queue that is bound.
    Fanout,
}

impl ExchangeKind {
    /// Its name in AMQP.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Fanout => "fanout",
        }
    }
}

impl From<ExchangeKind> for lapin::ExchangeKind {
    fn from(kind: ExchangeKind) -> Self {
        match kind {
            ExchangeKind::Topic => Self::Topic,
            ExchangeKind::Fanout => Self::Fanout,
        }
    }
}

/// An exchange as it is declared: durable, not deleted with its last binding, without arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExchangeSpec {
    /// Its name, namespace included.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeKind,
}

impl ExchangeSpec {
    /// Its name, namespace included.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}
