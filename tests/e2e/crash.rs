//! Workers that die: whatever they had in hand is taken up by others, once.

use dat_plan::PlanState;
use dat_tests::{Fleet, FleetOptions, PlanDraft, WorkerOptions};

use crate::crowd::{self, Crowd, MORE_THAN_ONE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_amid_200_plans_loses_no_effect_and_repeats_none() {
    let mut fleet = crowd::fleet(2).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let mut crowd = Crowd::default();
    crowd.submit(&producer, 100).await;
    crowd::wait_for_ended(&producer, 60).await;
    sandbox.hold("*").await;
    crowd.submit(&producer, 100).await;
    sandbox.wait_for_held(MORE_THAN_ONE).await;
    fleet.worker(0).kill().await;
    // What it had sent has its effect now, and nobody there to be told.
    sandbox.release().await;
    crowd.check(&fleet, &producer).await;
    let of_the_dead = "the lease of w0 ran out";
    assert!(
        producer.heard().iter().any(|event| event.data["reason"] == of_the_dead),
        "nothing was taken over, so nothing was tried"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_every_worker_was_killed_a_fresh_one_finishes_everything() {
    let mut fleet = crowd::fleet(2).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let mut crowd = Crowd::default();
    crowd.submit(&producer, 100).await;
    crowd::wait_for_ended(&producer, 60).await;
    sandbox.hold("*").await;
    crowd.submit(&producer, 100).await;
    sandbox.wait_for_held(MORE_THAN_ONE).await;
    fleet.worker(0).kill().await;
    fleet.worker(1).kill().await;
    fleet.spawn_worker(&WorkerOptions::default()).await;
    // Its probes seal what has had no effect, so that the requests of the dead, let go afterwards, are refused.
    let sealed = producer.wait_for("a probe seals a key", |event| {
        event.kind == "step.failed" && event.data["outcome"] == "lost"
    });
    sealed.await;
    sandbox.release().await;
    crowd.check(&fleet, &producer).await;
}

/// A worker that dies at a fault point, at its first passing, and another that comes after it.
async fn killed_at(point: &str) -> Vec<i32> {
    let options = FleetOptions { workers: 0, settings: crowd::settings(), ..FleetOptions::default() };
    let mut fleet = Fleet::start(options).await;
    let producer = fleet.producer().await;
    let fault = ("DAT_FAULT".to_owned(), format!("{point}:kill:1"));
    let doomed = WorkerOptions { environment: vec![fault], ..WorkerOptions::default() };
    fleet.spawn_worker(&doomed).await;
    let plan = producer.submit(&PlanDraft::in_order(point, 2).document()).await;
    fleet.worker(0).exit().await;
    fleet.spawn_worker(&WorkerOptions::default()).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    fleet.check_everything().await;
    let effects = fleet.sandbox().effects(plan).await;
    assert_eq!(effects.len(), 2, "{effects:#?}");
    effects.iter().map(|applied| applied.effect.attempt).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_before_it_sends_leaves_a_step_that_is_tried_again() {
    assert_eq!(killed_at("runner.send.before").await, [2, 1], "the attempts that had the effects");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_after_the_answer_leaves_an_effect_that_a_probe_finds() {
    assert_eq!(killed_at("runner.send.after").await, [1, 1], "the attempts that had the effects");
}
