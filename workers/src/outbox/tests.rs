use std::str::FromStr as _;

use chrono::DateTime;
use dat_plan::PlanKey;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

fn events(plan: u128, kinds: &[&str]) -> Vec<LoggedEvent> {
    let event = |(sequence, kind): (i64, &&str)| LoggedEvent {
        plan: PlanKey::new(Uuid::from_u128(plan), 1),
        sequence,
        kind: (*kind).to_owned(),
        at: DateTime::from_str("2026-11-25T10:00:00Z").unwrap(),
        data: json!({"step": "s"}),
    };
    (1..).zip(kinds).map(event).collect()
}

fn outbox(batched: &[Destination], streams: &[Vec<LoggedEvent>]) -> (Outbox, Vec<Message>) {
    let streams = streams.iter().map(|events| ("00-ab-cd-01", events.as_slice()));
    let mut outbox =
        Outbox::new(&Topology::new(None), &batched.iter().copied().collect::<BTreeSet<_>>(), streams);
    let messages = outbox.take();
    (outbox, messages)
}

/// What a message carries: the exchange, and the ids of its events.
fn carried(message: &Message) -> (String, Vec<String>) {
    let body: Value = serde_json::from_slice(&message.body).unwrap();
    let members = if let Value::Array(members) = body { members } else { vec![body] };
    (message.exchange.clone(), members.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect())
}

const STEP: [&str; 3] = ["step.running", "spend.incurred", "step.completed"];

#[test]
fn an_event_is_a_message_to_each_destination_where_nothing_else_is_said() {
    let (outbox, messages) = outbox(&[], &[events(1, &STEP)]);
    let keys: Vec<(&str, &str)> =
        messages.iter().map(|m| (m.exchange.as_str(), m.routing_key.as_str())).collect();
    let meant = [
        ("dat.events", "step.running"),
        ("flo", "spend.incurred"),
        ("pte", "step.completed"),
        ("dat.events", "step.completed"),
    ];
    for one in meant {
        assert!(keys.contains(&one), "{one:?} of {keys:?}");
    }
    assert!(messages.iter().all(|message| message.content_type == ONE));
    let receipts = vec![Receipt::Confirmed; messages.len()];
    assert_eq!(outbox.confirmed(0, 3, &receipts), 3);
    assert_eq!(outbox.confirmed(0, 3, &receipts[..1]), 1, "what has no receipt is not confirmed");
}

#[test]
fn a_batch_keeps_the_order_of_each_stream_and_says_what_headers_say() {
    let all = [Destination::Flo, Destination::Pte, Destination::Events];
    let (_, messages) = outbox(&all, &[events(1, &STEP), events(2, &STEP)]);
    assert_eq!(messages.len(), 3, "one a destination");
    for message in &messages {
        assert_eq!((message.routing_key.as_str(), message.content_type.as_str()), (key::BATCH, SEVERAL));
        let members: Vec<Value> = serde_json::from_slice(&message.body).unwrap();
        assert!(members.iter().all(|event| event["traceparent"] == "00-ab-cd-01"));
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for event in &members {
            let (subject, sequence) =
                (event["subject"].as_str().unwrap(), event["sequence"].as_str().unwrap());
            let sequence: u64 = sequence.parse().unwrap();
            assert!(last.insert(subject.to_owned(), sequence).is_none_or(|before| before < sequence));
        }
    }
    let flo = messages.iter().map(carried).find(|(exchange, _)| exchange == "flo").unwrap();
    assert_eq!(flo.1.len(), 2, "each plan's spend");
}

#[test]
fn governance_is_asked_by_messages_of_their_own() {
    let all = [Destination::Flo, Destination::Pte, Destination::Events];
    let (_, messages) = outbox(&all, &[events(1, &["plan.approval_requested"])]);
    assert!(messages.iter().any(|m| m.exchange == "ggp" && m.routing_key == "plan.approval_requested"));
}

#[test]
fn an_event_counts_when_all_its_messages_were_taken() {
    let (outbox, messages) = outbox(&[Destination::Events], &[events(1, &STEP), events(2, &STEP)]);
    let mut receipts = vec![Receipt::Confirmed; messages.len()];
    let lost = messages.iter().position(|m| carried(m).0 == "flo" && carried(m).1[0].contains("0002/1/2"));
    receipts[lost.expect("the second plan's spend")] = Receipt::Nacked;
    assert_eq!((outbox.confirmed(0, 3, &receipts), outbox.confirmed(1, 3, &receipts)), (3, 1));
    let batch = messages.iter().position(|m| m.routing_key == key::BATCH).unwrap();
    let mut receipts = vec![Receipt::Confirmed; messages.len()];
    receipts[batch] = Receipt::Nacked;
    assert_eq!(outbox.confirmed(0, 3, &receipts), 0, "a batch that was not taken is sent again whole");
}

#[test]
fn a_batch_is_bounded_in_events_and_bytes() {
    let many = vec!["step.running"; EVENTS + 1];
    let (_, messages) = outbox(&[Destination::Events], &[events(1, &many)]);
    let sizes: Vec<usize> = messages.iter().map(|m| carried(m).1.len()).collect();
    assert_eq!(sizes, [EVENTS, 1]);
    let mut large = events(1, &["step.completed"; 3]);
    for event in &mut large {
        event.data = json!({"result": "x".repeat(BYTES / 2)});
    }
    let (_, messages) = outbox(&[Destination::Events, Destination::Pte], &[large]);
    assert!(messages.len() >= 4, "{}", messages.len());
    assert!(messages.iter().all(|m| m.body.len() < BYTES + 1024));
}
