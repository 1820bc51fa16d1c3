//! Publishing plan documents, until the broker has confirmed each.

use std::time::Duration;

use dat_bus::{Message, PublishError, Publisher, Receipt};

use crate::contract;
use crate::failure::Failure;

/// How long to wait before publishing again what was not confirmed.
const PAUSE: Duration = Duration::from_millis(100);

/// The message that submits a plan. It is named after the plan, so that a refusal of the message names the plan.
pub(crate) fn message(exchange: String, plan: &str, body: Vec<u8>, timestamp_s: u64) -> Message {
    Message::json(exchange, contract::PLAN_SUBMITTED, body)
        .message_id(plan)
        .correlation_id(plan)
        .kind(contract::PLAN_SUBMITTED)
        .timestamp_s(timestamp_s)
}

/// Publishes a window of messages and, as long as the broker is away, publishes again: a plan that is submitted twice
/// is registered once. Says how many messages it sent again.
pub(crate) async fn publish(publisher: Publisher, mut window: Vec<Message>) -> Result<usize, Failure> {
    let mut again = 0;
    loop {
        match publisher.publish_all(window.clone()).await {
            Ok(receipts) => window = unconfirmed(window, receipts)?,
            Err(permanent @ (PublishError::Refused(_) | PublishError::Malformed(_))) => {
                return Err(permanent.into());
            }
            Err(PublishError::Unavailable | PublishError::TimedOut | PublishError::Blocked) => {}
        }
        if window.is_empty() {
            return Ok(again);
        }
        again += window.len();
        tokio::time::sleep(PAUSE).await;
        publisher.ready().await;
    }
}

/// The messages of a window that the broker did not take.
fn unconfirmed(window: Vec<Message>, receipts: Vec<Receipt>) -> Result<Vec<Message>, Failure> {
    let mut left = Vec::new();
    for (message, receipt) in window.into_iter().zip(receipts) {
        match receipt {
            Receipt::Confirmed => {}
            Receipt::Nacked => left.push(message),
            Receipt::Returned { reply_text } => return Err(Failure::Unroutable(reply_text)),
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Vec<Message> {
        ["a", "b", "c"].map(|plan| message("dat.plans".to_owned(), plan, b"{}".to_vec(), 0)).to_vec()
    }

    #[test]
    fn what_was_nacked_is_left() {
        let receipts = vec![Receipt::Confirmed, Receipt::Nacked, Receipt::Confirmed];
        let left = unconfirmed(window(), receipts).expect("all routed");
        assert_eq!(left, window()[1..2]);
    }

    #[test]
    fn what_came_back_ends_the_run() {
        let returned = Receipt::Returned { reply_text: "NO_ROUTE".to_owned() };
        let failure = unconfirmed(window(), vec![Receipt::Confirmed, returned, Receipt::Confirmed]);
        assert!(matches!(failure, Err(Failure::Unroutable(text)) if text == "NO_ROUTE"));
    }
}
