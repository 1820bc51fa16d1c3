//! Every invalid document is refused with exactly its faults, is kept as it came, and stands in nobody's way.

use std::collections::BTreeSet;

use dat_plan::PlanState;
use dat_tests::{Announcement, DeadLetter, Fleet, PlanDraft, StepDraft, Submission};
use dat_topology::Stage;
use serde_json::{Value, json};

use crate::documents::Documents;

/// The most that a document may have.
const MOST_BYTES: usize = 4 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_documents_are_refused_with_every_fault_and_block_nothing() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    // One plan is in the middle of its way while all of this comes.
    fleet.sandbox().hold("test.slow").await;
    let slow = StepDraft::priced("slow", 10).set("action", "test.slow");
    let before = PlanDraft::new("before").step(slow).step(StepDraft::priced("then", 10)).document();
    let before = producer.submit(&before).await;
    fleet.sandbox().wait_for_held(1).await;
    let untouched = fleet.plan(before).await.summary;

    let folders =
        [Some(("own", Documents::own_invalid())), Documents::shared_invalid().map(|found| ("shared", found))];
    let mut sent = Vec::new();
    for (folder, documents) in folders.into_iter().flatten() {
        let expected = documents.expected();
        assert_eq!(
            documents.names(),
            expected.keys().cloned().collect(),
            "each document has its faults listed"
        );
        for (name, pointers) in expected {
            sent.push((format!("{folder}/{name}"), documents.bytes(&name), pointers));
        }
    }
    // It names the plan that runs, which must not feel it.
    let named = json!({"plan_id": before.plan_id, "plan_version": before.plan_version, "tenant": "acme"});
    let missing = ["/name", "/budget", "/steps"].map(str::to_owned).into();
    sent.push(("of the running plan".to_owned(), named.to_string().into_bytes(), missing));
    sent.push(("too large".to_owned(), vec![b' '; MOST_BYTES + 1], [String::new()].into()));
    for (id, body, _) in &sent {
        producer.submit_raw(Submission { body: body.clone(), message_id: Some(id.clone()) }).await;
    }
    let after = producer.submit(&PlanDraft::in_order("after", 2).document()).await;
    assert_eq!(producer.wait_for_end(after).await.state, PlanState::Completed);

    let mut letters = Vec::new();
    for _ in &sent {
        letters.push(producer.dead_letter(Stage::PlanSubmitted).await);
    }
    for (id, body, pointers) in &sent {
        let is_it = |event: &Announcement| {
            event.kind == "submission.rejected" && event.data["message_id"] == id.as_str()
        };
        let answer = producer.wait_for(&format!("the refusal of {id}"), is_it).await;
        let faults = answer.data["faults"].as_array().expect("a list of faults");
        let found: BTreeSet<String> = faults.iter().map(|fault| text(&fault["pointer"])).collect();
        assert_eq!(found, *pointers, "{id}: {faults:#?}");
        assert!(faults.iter().all(|fault| !text(&fault["message"]).is_empty()), "{id}: {faults:#?}");
        let letter = letters.iter().find(|letter| letter.message_id.as_ref() == Some(id));
        parked_as_it_came(letter.unwrap_or_else(|| panic!("{id} is not parked")), body, faults);
    }

    let summary = fleet.plan(before).await.summary;
    assert_eq!((summary.state, summary.sequence), (PlanState::Executing, untouched.sequence));
    fleet.sandbox().release().await;
    assert_eq!(producer.wait_for_end(before).await.state, PlanState::Completed);
    assert_eq!(producer.dead_letters(Stage::PlanSubmitted).await, 0, "nothing is parked twice");
    fleet.check_everything().await;
}

/// The message, its reason, and the first 20 faults.
fn parked_as_it_came(letter: &DeadLetter, body: &[u8], faults: &[Value]) {
    assert_eq!(letter.body, body);
    assert!(!letter.reason.is_empty());
    let first: Vec<Value> = faults.iter().take(20).cloned().collect();
    assert_eq!(letter.faults, Value::Array(first));
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}
