//! Events in batches, to consumers that are set to read them: every event, in each plan's order, and FLO nets the same.

use std::collections::BTreeMap;

use dat_plan::{PlanKey, PlanState};
use dat_tests::{Fleet, FleetOptions, PlanDraft, StepDraft};
use serde_json::json;

use crate::crowd;

const BATCHED: &str = "[events]\nbatched = [\"flo\", \"pte\", \"dat.events\"]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_that_read_batches_hear_every_event_in_its_plans_order() {
    let settings = format!("{}{BATCHED}", crowd::settings());
    let fleet = Fleet::start(FleetOptions { settings, ..FleetOptions::default() }).await;
    let producer = fleet.producer().await;
    let mut plans = Vec::new();
    for number in 0..12 {
        let draft = (0..4).fold(PlanDraft::new(&format!("batched {number}")), |plan, n| {
            plan.step(StepDraft::new(&format!("s{n}"), &json!({"cost": 1})))
        });
        plans.push(producer.submit(&draft.document()).await);
    }
    for plan in &plans {
        assert_eq!(producer.wait_for_end(*plan).await.state, PlanState::Completed);
    }
    let heard = producer.heard();
    let mut last: BTreeMap<PlanKey, i64> = BTreeMap::new();
    for event in &heard {
        let before = last.insert(event.plan, event.sequence).unwrap_or(0);
        assert!(before < event.sequence, "{event} came after {before}");
    }
    for plan in &plans {
        let of = |kind: &str| heard.iter().filter(|e| e.plan == *plan && e.kind == kind).count();
        assert_eq!((of("step.running"), of("step.completed"), of("plan.completed")), (4, 4, 1), "{plan}");
    }
    assert!(producer.messages() < heard.len(), "{} messages for {} events", producer.messages(), heard.len());
    fleet.check_everything().await;
}
