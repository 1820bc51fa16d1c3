//! Servers of the test's own that are killed, stopped or short of memory amid plans, and come back.
//!
//! So that plans are amid a step when it happens, MUX holds their requests till then.

use std::time::Duration;

use dat_tests::{
    Fleet, FleetOptions, PrivatePostgres, PrivateRabbitMq, PrivateRedis, Producer, Stack, eventually,
};
use dat_topology::Stage;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{is_ready, nothing_is_dead, plans};
use crate::crowd::{self, Crowd, MORE_THAN_ONE};
use crate::redis_loss;

/// How long Redis is away.
const AWAY: Duration = Duration::from_secs(10);

async fn fleet_on(stack: Stack) -> Fleet {
    let options = FleetOptions { stack: Some(stack), settings: crowd::settings(), ..FleetOptions::default() };
    Fleet::start(options).await
}

/// Submits plans, and waits until some have ended and MUX holds requests of others, from every worker.
async fn amid_plans(fleet: &Fleet, producer: &Producer, crowd: &mut Crowd) {
    crowd.submit(producer, plans()).await;
    crowd::wait_for_ended(producer, plans() / 5).await;
    fleet.sandbox().hold("*").await;
    fleet.sandbox().wait_for_held(MORE_THAN_ONE).await;
}

/// Waits until every worker says something of itself under a pointer, and is ready or not.
async fn tells(fleet: &mut Fleet, ready: bool, pointer: &str, wanted: impl Fn(&Value) -> bool) {
    for worker in 0..2 {
        let is_wanted = |(status, body): &(u16, String)| {
            let body: Value = serde_json::from_str(body).expect("JSON");
            (*status == 200) == ready && body["ready"] == ready && body.pointer(pointer).is_some_and(&wanted)
        };
        fleet.worker(worker).get_until("/readyz", is_wanted).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_short_of_memory_then_killed_amid_50_plans_costs_nothing() {
    let mut broker = PrivateRabbitMq::start().await;
    let mut fleet = fleet_on(broker.in_place_of(&Stack::from_env())).await;
    let mut crowd = Crowd::default();
    short_of_memory(&broker, &mut fleet, &mut crowd).await;
    killed(&mut broker, &mut fleet, &mut crowd).await;
}

/// Waits until so many submissions are not acknowledged.
async fn unsettled(fleet: &Fleet, wanted: u64) {
    let what = format!("{wanted} submissions are unsettled");
    eventually(what, async || match fleet.realm().unsettled(Stage::PlanSubmitted) {
        Ok(seen) if seen == wanted => Ok(()),
        other => Err(other),
    })
    .await;
}

async fn short_of_memory(broker: &PrivateRabbitMq, fleet: &mut Fleet, crowd: &mut Crowd) {
    let producer = fleet.producer().await;
    amid_plans(fleet, &producer, crowd).await;
    // What is submitted now is still in the queue when the alarm is raised.
    for worker in 0..2 {
        fleet.worker(worker).stop().await;
    }
    crowd.submit(&producer, plans()).await;
    let submitted = u64::try_from(plans()).unwrap_or(u64::MAX);
    unsettled(fleet, submitted).await;
    broker.set_memory_alarm(true).await;
    for worker in 0..2 {
        fleet.worker(worker).cont().await;
    }
    fleet.sandbox().release().await;
    // Publishers are blocked, and say so; deliveries and acknowledgements go on.
    tells(fleet, false, "/broker/blocked", |blocked| blocked == true).await;
    eventually("every plan is registered", async || {
        let registered = fleet.store().recent_plans(false, i64::MAX).await.expect("the database answers");
        if registered.len() == crowd.plans().len() { Ok(()) } else { Err(registered.len()) }
    })
    .await;
    unsettled(fleet, 0).await;
    broker.set_memory_alarm(false).await;
    tells(fleet, true, "/broker/blocked", |blocked| blocked == false).await;
    crowd.check(fleet, &producer).await;
    nothing_is_dead(fleet).await;
}

async fn killed(broker: &mut PrivateRabbitMq, fleet: &mut Fleet, crowd: &mut Crowd) {
    let producer = fleet.producer().await;
    amid_plans(fleet, &producer, crowd).await;
    broker.kill().await;
    fleet.sandbox().release().await;
    tells(fleet, false, "/broker/publishing", |state| state == "connecting").await;
    tells(fleet, false, "/broker/consuming", |state| state == "connecting").await;
    broker.restart().await;
    is_ready(fleet, true).await;
    // The events of what went on meanwhile were not heard.
    let producer = fleet.producer().await;
    crowd.submit(&producer, plans() / 5).await;
    crowd.check_rows(fleet).await;
    nothing_is_dead(fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_killed_amid_50_plans_costs_nothing() {
    let mut postgres = PrivatePostgres::start().await;
    let mut fleet = fleet_on(Stack { database_url: postgres.url(), ..Stack::from_env() }).await;
    let producer = fleet.producer().await;
    let mut crowd = Crowd::default();
    amid_plans(&fleet, &producer, &mut crowd).await;
    postgres.kill().await;
    fleet.sandbox().release().await;
    // These wait in the queue: what cannot be committed is not acknowledged.
    crowd.submit(&producer, plans()).await;
    tells(&mut fleet, false, "/database", |state| state != "up").await;
    postgres.restart().await;
    tells(&mut fleet, true, "/database", |state| state == "up").await;
    fleet.reconnect();
    crowd.check(&fleet, &producer).await;
    nothing_is_dead(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_stopped_then_killed_for_ten_seconds_amid_50_plans_costs_nothing() {
    let mut redis = PrivateRedis::start().await;
    let mut fleet = redis_loss::fleet(&redis).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let mut crowd = Crowd::default();
    for killed in [false, true] {
        amid_plans(&fleet, &producer, &mut crowd).await;
        if killed {
            redis.kill().await;
        } else {
            redis.stop();
        }
        sandbox.release().await;
        // Money goes on without it; token windows are closed till it is back. That is no reason to take no work.
        crowd.submit(&producer, plans() / 5).await;
        crowd.submit_tokens(&producer, plans() / 5).await;
        tells(&mut fleet, true, "/redis", |state| state != "up").await;
        // How long it is away is what is tried: nothing signals it.
        sleep(AWAY).await;
        if killed {
            redis.restart().await;
        } else {
            redis.go_on();
        }
        tells(&mut fleet, true, "/redis", |state| *state == json!("up")).await;
        crowd.check(&fleet, &producer).await;
    }
    nothing_is_dead(&fleet).await;
}
