//! Who acts, and why: what every act of an operator carries into its events.

use dat_plan::event::NewEvent;

/// An operator's act: who, why, and who confirmed it where it takes two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operator {
    /// Who acts.
    pub(crate) actor: String,
    /// Why.
    pub(crate) reason: String,
    /// The second person, where the act takes two.
    pub(crate) second: Option<Second>,
}

/// Who confirmed an act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Second {
    /// What was confirmed.
    pub(crate) request: i64,
    /// Who confirmed it.
    pub(crate) actor: String,
    /// Why.
    pub(crate) reason: String,
}

impl Operator {
    /// One who acts alone.
    pub(crate) fn alone(actor: &str, reason: &str) -> Self {
        Self { actor: actor.to_owned(), reason: reason.to_owned(), second: None }
    }

    /// The event of the act, with everyone who answers for it.
    pub(crate) fn sign(&self, event: NewEvent) -> NewEvent {
        let event = event.with("actor", self.actor.as_str()).because(&self.reason);
        match &self.second {
            None => event,
            Some(second) => event
                .with("request", second.request)
                .with("confirmed_by", second.actor.as_str())
                .with("confirmed_because", second.reason.as_str()),
        }
    }

    /// The people, for a sentence.
    pub(crate) fn names(&self) -> String {
        match &self.second {
            None => self.actor.clone(),
            Some(second) => format!("{} and {}", self.actor, second.actor),
        }
    }
}
