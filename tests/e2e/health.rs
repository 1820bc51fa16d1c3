//! Workers as an operator sees them.

use dat_plan::PlanState;
use dat_tests::{Fleet, PlanDraft};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_goes_the_whole_way() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let plan = producer.submit(&PlanDraft::in_order("three", 3).document()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    fleet.check_everything().await;
}
