//! Rate limits and tenants' budgets: what exceeds them waits, says for what, and holds nothing meanwhile.

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::{PlanKey, PlanState};
use dat_tests::{Fleet, FleetOptions, PlanDraft, Producer, StepDraft, eventually};
use serde_json::{Value, json};

use crate::crowd;

async fn fleet(limits: &str) -> Fleet {
    let settings = format!("{}{limits}", crowd::settings());
    Fleet::start(FleetOptions { settings, ..FleetOptions::default() }).await
}

/// A plan of one step with this action, that costs 100.
async fn submit(producer: &Producer, name: &str, action: &str) -> PlanKey {
    let step = StepDraft::new("s0", &json!({"cost": 100})).set("action", action);
    producer.submit(&PlanDraft::new(name).step(step).document()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_holds_over_the_fleet() {
    let fleet = fleet("[[rate]]\nconnector = \"mux\"\ncount = 20\nperiod_ms = 1000\nburst = 5\n").await;
    let producer = fleet.producer().await;
    let mut plans = Vec::new();
    for number in 0..60 {
        plans.push(submit(&producer, &format!("rate {number}"), "test.act").await);
    }
    let mut started: Vec<DateTime<Utc>> = Vec::new();
    for (plan, end) in plans.iter().zip(producer.wait_for_ends(&plans).await) {
        assert_eq!(end.state, PlanState::Completed, "{}", end.story());
        started.extend(fleet.plan(*plan).await.attempts.iter().map(|attempt| attempt.started_at));
    }
    assert_eq!(started.len(), 60);
    started.sort();
    // The claims that the rows record follow the schedule: 20 a second, and a burst of 5. A slot serves for as long as a
    // burst takes, so another 5 may come late into a window; and a worker that stood still between its turn and its
    // claim, on a busy machine, brings up to as many of a batch. Without a limit nearly all 60 start in one second.
    let most = 20 + 5 + 5 + 5;
    for (n, from) in started.iter().enumerate() {
        let within = started[n..].iter().filter(|at| **at - *from < TimeDelta::seconds(1)).count();
        assert!(within <= most, "{within} started within a second from {from}: {started:#?}");
    }
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_over_its_rate_waits_with_the_reason_and_holds_no_slot() {
    let mut fleet =
        fleet("[[rate]]\naction = \"test.rare\"\ncount = 1\nperiod_ms = 3600000\nburst = 1\n").await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let first = submit(&producer, "the one of this hour", "test.rare").await;
    assert_eq!(producer.wait_for_end(first).await.state, PlanState::Completed);
    let second = submit(&producer, "one too many", "test.rare").await;
    let reason = "the rate limit of */test.rare is 1 calls in 3600000 ms";
    eventually("the step waits for its turn", async || {
        let view = fleet.plan(second).await;
        let waits = view.steps.iter().any(|step| step.wait_reason.as_deref() == Some(reason));
        if waits { Ok(()) } else { Err(view) }
    })
    .await;
    let said = fleet.dat(&["plan", "explain", &second.plan_id.to_string()]).await;
    assert!(said.contains(reason), "{said}");
    assert_eq!(sandbox.requests(second).await, []);
    // Other work is not held up, and once it is done nothing runs.
    let other = submit(&producer, "something else", "test.act").await;
    assert_eq!(producer.wait_for_end(other).await.state, PlanState::Completed);
    for number in 0..2 {
        let worker = fleet.worker(number);
        eventually("no slot is held", async || match worker.metric("dat_worker_slots_busy").await {
            0.0 => Ok(()),
            busy => Err(busy),
        })
        .await;
    }
    fleet.dat(&["plan", "abort", &second.plan_id.to_string(), "--reason", "not this hour"]).await;
    assert_eq!(producer.wait_for_end(second).await.state, PlanState::Aborted);
    fleet.check_everything().await;
}

/// Sets what `acme` may spend in a year. Not a day: it might turn while the test runs.
async fn allow(fleet: &Fleet, amount: &str) {
    let limit =
        ["budget", "set", "--tenant", "acme", "--currency", "usd", "--period", "year", "--amount", amount];
    fleet.dat(&[&limit[..], &["--actor", "ann", "--reason", "a test"]].concat()).await;
}

async fn account(fleet: &Fleet) -> (i64, i64, i64) {
    let shown = fleet.dat(&["budget", "show", "--tenant", "acme", "--output", "json"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap_or_else(|error| panic!("{error}: {shown}"));
    let account = &shown["accounts"][0]["account"];
    let figure = |name: &str| account[name].as_i64().unwrap_or_else(|| panic!("no {name}: {shown}"));
    (figure("limit"), figure("settled"), figure("reserved"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_over_their_tenants_budget_wait_until_it_is_raised() {
    let fleet = fleet("").await;
    let producer = fleet.producer().await;
    allow(&fleet, "500").await;
    let set = producer.wait_for("the limit is announced", |event| event.kind == "control.set_budget").await;
    assert_eq!((&set.data["actor"], &set.data["reason"]), (&json!("ann"), &json!("a test")), "{set:?}");
    let mut plans = Vec::new();
    for number in 0..10 {
        plans.push(submit(&producer, &format!("of ten {number}"), "test.act").await);
    }
    crowd::wait_for_ended(&producer, 5).await;
    let waiting = eventually("five plans wait for the tenant's budget", async || {
        let waiting: Vec<PlanKey> = producer
            .heard()
            .iter()
            .filter(|event| event.kind == "budget.refused")
            .map(|event| event.plan)
            .filter(|plan| !producer.heard().iter().any(|event| event.plan == *plan && event.is_end()))
            .collect();
        if waiting.len() == 5 { Ok(waiting) } else { Err(producer.heard()) }
    })
    .await;
    let view = fleet.plan(waiting[0]).await;
    let reason = view.steps[0].wait_reason.clone().unwrap_or_default();
    assert!(reason.starts_with("budget: that of tenant acme for this year is 100 usd short"), "{reason}");
    let said = fleet.dat(&["plan", "explain", &waiting[0].plan_id.to_string()]).await;
    assert!(said.contains(&reason), "{said}");
    assert_eq!(account(&fleet).await, (500, 500, 0));
    allow(&fleet, "1000").await;
    for end in producer.wait_for_ends(&plans).await {
        assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    }
    assert_eq!(account(&fleet).await, (1_000, 1_000, 0));
    fleet.check_everything().await;
}
