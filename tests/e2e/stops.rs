//! Stops amid a thousand waiting steps: once one is committed no claim that begins later succeeds, and what is let go on
//! comes to its end.

use chrono::{DateTime, Utc};
use dat_plan::approval::Outcome;
use dat_plan::clock::SystemClock;
use dat_plan::{Clock as _, PlanKey, PlanState};
use dat_tests::{Fleet, PlanDraft, Producer, SandboxClient, StepDraft};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

/// Steps side by side, each of a few milliseconds.
fn wide(name: &str) -> serde_json::Value {
    let sandbox = json!({"cost": 1, "delay_ms": 20});
    (0..1_000)
        .fold(PlanDraft::new(name), |plan, n| {
            plan.step(StepDraft::new(&format!("s{n}"), &sandbox).needs(&[]))
        })
        .document()
}

async fn started(producer: &Producer, name: &str) -> PlanKey {
    let plan = producer.submit(&wide(name)).await;
    producer.wait_for("it has begun", |event| event.plan == plan && event.kind == "step.completed").await;
    plan
}

/// When the last forward attempt of a plan was claimed: a worker notes the moment before its claim begins.
async fn last_claim(fleet: &Fleet, plan: PlanKey) -> DateTime<Utc> {
    let mut database =
        PgConnection::connect(&fleet.realm().database_url).await.expect("the database answers");
    sqlx::query_scalar("SELECT max(started_at) FROM step_attempt WHERE plan_id = $1 AND kind = 'action'")
        .bind(plan.plan_id)
        .fetch_one(&mut database)
        .await
        .expect("attempts")
}

/// The moment of the row, as the database has it, and that nothing was claimed after it; what ran comes to its end.
async fn holds(fleet: &Fleet, plan: PlanKey, committed: DateTime<Utc>) {
    dat_tests::eventually("what ran has ended", async || {
        let view = fleet.plan(plan).await;
        let running = view.steps.iter().filter(|step| step.state == dat_plan::StepState::Running).count();
        if running == 0 { Ok(()) } else { Err(running) }
    })
    .await;
    let last = last_claim(fleet, plan).await;
    assert!(last <= committed, "claimed at {last}, after the stop of {committed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_pause_is_committed_nothing_is_claimed_and_after_resume_all_of_it_ends() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let plan = started(&producer, "paused").await;
    for (stop, go) in [
        (vec!["control", "pause"], vec!["control", "resume"]),
        (vec!["control", "connector", "disable", "mux"], vec!["control", "connector", "enable", "mux"]),
    ] {
        let act = |words: &[&'static str]| [words, &["--actor", "ann", "--reason", "a look"]].concat();
        fleet.dat(&act(&stop)).await;
        holds(&fleet, plan, SystemClock.now()).await;
        let before = fleet.plan(plan).await.summary.steps_done;
        assert!(before < 1_000, "it was over before it was stopped");
        fleet.dat(&act(&go)).await;
        dat_tests::eventually("it goes on", async || {
            let done = fleet.plan(plan).await.summary.steps_done;
            if done > before { Ok(()) } else { Err(done) }
        })
        .await;
    }
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{:?}", end.way());
    assert_eq!(end.count("step.completed"), 1_000);
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_abort_or_a_revoked_approval_nothing_is_claimed_and_what_ran_is_unwound() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let aborted = started(&producer, "aborted").await;
    fleet
        .dat(&["plan", "abort", &aborted.plan_id.to_string(), "--actor", "ann", "--reason", "not needed"])
        .await;
    holds(&fleet, aborted, SystemClock.now()).await;
    let revoked = started(&producer, "revoked").await;
    fleet.sandbox().decide(&SandboxClient::decision(revoked, Outcome::Revoked)).await;
    let bound = |event: &dat_tests::Announcement| event.plan == revoked && event.kind == "plan.rolling_back";
    producer.wait_for("it is revoked", bound).await;
    holds(&fleet, revoked, SystemClock.now()).await;
    for end in producer.wait_for_ends(&[aborted, revoked]).await {
        assert_eq!(end.state, PlanState::Aborted, "{:?}", end.way());
        assert!(end.count("step.completed") < 1_000, "it was over before it was stopped");
    }
    fleet.check_everything().await;
}
