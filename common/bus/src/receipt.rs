//! What became of each message of a window. lapin hands a returned message to whichever confirm completes next, so
//! a return is attributed by what it says of itself, over the whole window.

use lapin::message::BasicReturnMessage;
use lapin::types::ShortString;
use lapin::{BasicProperties, Confirmation};

use crate::outgoing::Outgoing;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// The broker has taken responsibility for it.
    Confirmed,
    /// No queue takes it. Sending it again helps only after the bindings have changed.
    Returned {
        /// The broker's reason.
        reply_text: String,
    },
    /// The broker refused it, or it cannot be told whether it did: send it again.
    Nacked,
}

impl Receipt {
    /// Whether the broker has taken responsibility for the message.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        matches!(self, Self::Confirmed)
    }
}

/// What tells one message of a window from another, on its way out and when it comes back. One event goes to several
/// exchanges with the same message id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    message_id: Option<ShortString>,
    exchange: ShortString,
    routing_key: ShortString,
}

impl Mark {
    fn new(exchange: &ShortString, routing_key: &ShortString, properties: &BasicProperties) -> Self {
        Self {
            message_id: properties.message_id().clone(),
            exchange: exchange.clone(),
            routing_key: routing_key.clone(),
        }
    }
}

impl From<&Outgoing> for Mark {
    fn from(message: &Outgoing) -> Self {
        Self::new(&message.exchange, &message.routing_key, &message.properties)
    }
}

/// A message that came back.
#[derive(Debug)]
struct Return {
    mark: Mark,
    reply_text: String,
}

impl From<BasicReturnMessage> for Return {
    fn from(message: BasicReturnMessage) -> Self {
        let mark = Mark::new(&message.exchange, &message.routing_key, &message.properties);
        Self { mark, reply_text: message.reply_text.as_str().to_owned() }
    }
}

/// The receipts of a window, in the order of `marks`. All confirms of the window must be in: the broker sends a return
/// before the confirm of the same message, so by then all returns are in as well.
pub(crate) fn attribute(marks: &[Mark], confirmations: Vec<Confirmation>) -> Vec<Receipt> {
    let mut receipts = Vec::with_capacity(confirmations.len());
    let mut returns = Vec::new();
    for confirmation in confirmations {
        receipts.push(if confirmation.is_ack() { Receipt::Confirmed } else { Receipt::Nacked });
        returns.extend(confirmation.take_message().map(Return::from));
    }
    apply_returns(marks, &mut receipts, &returns);
    receipts
}

fn apply_returns(marks: &[Mark], receipts: &mut [Receipt], returns: &[Return]) {
    let came_back = |mark: &Mark| returns.iter().filter(|back| back.mark == *mark).count();
    // A return that matches nothing says that some message of this window was not delivered, and not which.
    let unknown = returns.iter().any(|back| !marks.contains(&back.mark));
    if unknown {
        receipts.fill(Receipt::Nacked);
    }
    for back in returns {
        let alike = marks.iter().filter(|mark| **mark == back.mark).count();
        // Of messages that look the same, either all came back, or it cannot be told which did.
        let all = came_back(&back.mark) >= alike;
        for (receipt, _) in receipts.iter_mut().zip(marks).filter(|(_, mark)| **mark == back.mark) {
            *receipt =
                if all { Receipt::Returned { reply_text: back.reply_text.clone() } } else { Receipt::Nacked };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(id: Option<&str>, key: &str) -> Mark {
        Mark { message_id: id.map(ShortString::from), exchange: "flo".into(), routing_key: key.into() }
    }

    fn back(id: Option<&str>, key: &str) -> Return {
        Return { mark: mark(id, key), reply_text: "NO_ROUTE".to_owned() }
    }

    fn receipts(marks: &[Mark], returns: &[Return]) -> Vec<Receipt> {
        let mut receipts = vec![Receipt::Confirmed; marks.len()];
        apply_returns(marks, &mut receipts, returns);
        receipts
    }

    fn returned() -> Receipt {
        Receipt::Returned { reply_text: "NO_ROUTE".to_owned() }
    }

    #[test]
    fn a_return_goes_to_its_message_whichever_confirm_carried_it() {
        let marks = [mark(Some("a"), "x"), mark(Some("b"), "x"), mark(Some("b"), "y")];
        assert_eq!(
            receipts(&marks, &[back(Some("b"), "x")]),
            [Receipt::Confirmed, returned(), Receipt::Confirmed]
        );
    }

    #[test]
    fn a_return_of_no_known_message_makes_the_window_suspect() {
        let marks = [mark(Some("a"), "x"), mark(Some("b"), "x")];
        assert_eq!(receipts(&marks, &[back(None, "z"), back(Some("b"), "x")]), [Receipt::Nacked, returned()]);
    }

    #[test]
    fn messages_that_look_the_same_share_their_doubt() {
        let marks = [mark(None, "x"), mark(None, "x"), mark(Some("b"), "x")];
        assert_eq!(
            receipts(&marks, &[back(None, "x")]),
            [Receipt::Nacked, Receipt::Nacked, Receipt::Confirmed]
        );
        assert_eq!(
            receipts(&marks, &[back(None, "x"), back(None, "x")]),
            [returned(), returned(), Receipt::Confirmed]
        );
    }
}
