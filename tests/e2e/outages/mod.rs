//! Servers that go away amid plans: nothing is lost, nothing happens twice, nothing is dead-lettered by it, and the fleet
//! is well again by itself. Here connections are cut or fall silent; in `servers` whole servers end. (Redis that loses
//! everything is in `redis_loss`.)

mod servers;

use dat_tests::{Fleet, FleetOptions, Proxy, Way, WorkerOptions};
use dat_topology::Stage;

use crate::crowd::{self, Crowd};

/// Plans that run while the server is away, and as many before: 50, or `DAT_TEST_OUTAGE_PLANS`.
fn plans() -> usize {
    std::env::var("DAT_TEST_OUTAGE_PLANS").map_or(50, |plans| plans.parse().expect("DAT_TEST_OUTAGE_PLANS"))
}

/// Two workers that reach one server by way of a proxy.
async fn fleet_behind(variable: &str, address: impl Fn(&Fleet) -> String) -> (Fleet, Proxy) {
    let options = FleetOptions { workers: 0, settings: crowd::settings(), ..FleetOptions::default() };
    let mut fleet = Fleet::start(options).await;
    let proxy = Proxy::before(&address(&fleet)).await;
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    // As short as it can be without giving up statements that only take long on a busy machine.
    let environment = vec![setting(variable, proxy.url()), setting("DAT_WORKER__STATEMENT_MS", "2000")];
    for _ in 0..2 {
        let options = WorkerOptions { environment: environment.clone(), ..WorkerOptions::default() };
        fleet.spawn_worker(&options).await;
    }
    (fleet, proxy)
}

async fn is_ready(fleet: &mut Fleet, ready: bool) {
    for worker in 0..2 {
        fleet.worker(worker).get_until("/readyz", |(status, _)| (*status == 200) == ready).await;
    }
}

async fn nothing_is_dead(fleet: &Fleet) {
    let producer = fleet.producer().await;
    for stage in [
        Stage::PlanSubmitted,
        Stage::PlanApproved,
        Stage::PlanRejected,
        Stage::StepDispatch,
        Stage::StepFailed,
    ] {
        assert_eq!(producer.dead_letters(stage).await, 0, "{stage} has dead letters");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_falls_silent_amid_50_plans_is_left_and_found_again() {
    let (mut fleet, proxy) = fleet_behind("AMQP_URL", |fleet| fleet.realm().amqp_url.clone()).await;
    let producer = fleet.producer().await;
    let mut crowd = Crowd::default();
    crowd.submit(&producer, plans()).await;
    crowd::wait_for_ended(&producer, plans() / 5).await;
    proxy.hold(Way::ToClient);
    proxy.hold(Way::ToServer);
    crowd.submit(&producer, plans()).await;
    // Nobody says that it is gone: a heartbeat that does not come does.
    is_ready(&mut fleet, false).await;
    proxy.resume(Way::ToClient);
    proxy.resume(Way::ToServer);
    proxy.cut();
    is_ready(&mut fleet, true).await;
    crowd.check(&fleet, &producer).await;
    nothing_is_dead(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_cuts_every_connection_amid_50_plans_costs_nothing() {
    let (fleet, proxy) = fleet_behind("AMQP_URL", |fleet| fleet.realm().amqp_url.clone()).await;
    cut_again_and_again(&fleet, &proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cuts_every_connection_amid_50_plans_costs_nothing() {
    let (fleet, proxy) =
        fleet_behind("DATABASE_URL", |fleet| fleet.realm().worker_database_url.clone()).await;
    cut_again_and_again(&fleet, &proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_falls_silent_and_ends_no_connection_amid_50_plans_is_asked_on_new_ones() {
    let (fleet, proxy) =
        fleet_behind("DATABASE_URL", |fleet| fleet.realm().worker_database_url.clone()).await;
    let producer = fleet.producer().await;
    let mut crowd = Crowd::default();
    crowd.submit(&producer, plans()).await;
    for fifths in 1..4 {
        crowd::wait_for_ended(&producer, plans() * fifths / 5).await;
        // Nobody says that it is gone, and nobody ever does: what waits for an answer waits for its own limit.
        proxy.strand();
    }
    crowd.check(&fleet, &producer).await;
    nothing_is_dead(&fleet).await;
}

async fn cut_again_and_again(fleet: &Fleet, proxy: &Proxy) {
    let producer = fleet.producer().await;
    let mut crowd = Crowd::default();
    crowd.submit(&producer, plans()).await;
    for fifths in 0..5 {
        crowd::wait_for_ended(&producer, (plans() * fifths / 5).max(1)).await;
        proxy.cut();
    }
    crowd.check(fleet, &producer).await;
    nothing_is_dead(fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_falls_silent_amid_50_plans_only_puts_limits_into_each_process() {
    let (fleet, proxy) = fleet_behind("REDIS_URL", |fleet| fleet.realm().redis_url.clone()).await;
    let producer = fleet.producer().await;
    let mut crowd = Crowd::default();
    crowd.submit(&producer, plans()).await;
    crowd::wait_for_ended(&producer, plans() / 5).await;
    proxy.hold(Way::ToClient);
    crowd.submit(&producer, plans()).await;
    crowd::wait_for_ended(&producer, plans() + plans() / 2).await;
    proxy.resume(Way::ToClient);
    crowd.check(&fleet, &producer).await;
    nothing_is_dead(&fleet).await;
}
