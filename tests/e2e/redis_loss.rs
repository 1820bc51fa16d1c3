//! Redis loses everything, or is away: nothing of that is lost, spent twice or let through.

use dat_plan::{PlanKey, PlanState};
use dat_tests::{
    Fleet, FleetOptions, PlanDraft, PrivateRedis, Producer, StepDraft, WorkerOptions, eventually,
};
use redis::AsyncCommands as _;
use serde_json::json;

use crate::crowd::{self, Crowd, MORE_THAN_ONE};

/// Limits that nothing here reaches, so that every step asks for its turn and its window.
const LIMITS: &str = "
[[rate]]
connector = \"mux\"
count = 1000
period_ms = 1000
burst = 1000

[[token_window]]
connector = \"mux\"
period = \"hour\"
limit = 1000000
";

/// Two workers whose Redis is theirs alone.
pub(crate) async fn fleet(redis: &PrivateRedis) -> Fleet {
    let environment = vec![("REDIS_URL".to_owned(), redis.url())];
    let worker = WorkerOptions { environment, ..WorkerOptions::default() };
    let settings = format!("{}{LIMITS}", crowd::settings());
    Fleet::start(FleetOptions { worker, settings, ..FleetOptions::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_flushed_and_restarted_empty_amid_200_plans_costs_nothing() {
    let mut redis = PrivateRedis::start().await;
    let fleet = fleet(&redis).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let mut crowd = Crowd::default();
    for _ in 0..3 {
        sandbox.hold("*").await;
        crowd.submit(&producer, 30).await;
        crowd.submit_tokens(&producer, 10).await;
        sandbox.wait_for_held(MORE_THAN_ONE).await;
        redis.flush().await;
        sandbox.release().await;
    }
    crowd::wait_for_ended(&producer, 120).await;
    redis.kill().await;
    // Money goes on by the rows, and rates by each worker's own; nobody can say what the token windows hold.
    let mut tokens = Crowd::default();
    tokens.submit_tokens(&producer, 40).await;
    crowd.submit(&producer, 40).await;
    crowd::wait_for_ended(&producer, 160).await;
    for plan in tokens.plans() {
        assert_eq!(sandbox.requests(plan).await, [], "tokens were used while nobody counted them");
    }
    redis.restart().await;
    crowd::wait_for_ended(&producer, 200).await;
    crowd.append(tokens);
    crowd.check(&fleet, &producer).await;
}

/// A plan of one step that may use 100 tokens and uses 60.
pub(crate) async fn submit_call(producer: &Producer, name: &str) -> PlanKey {
    let step = StepDraft::new("call", &json!({"cost": 60})).set("max_cost", 100);
    let budget = json!({"amount": 100, "currency": "token"});
    producer.submit(&PlanDraft::new(name).set("budget", budget).step(step).document()).await
}

/// What every window of the present era together has counted; however often it turned meanwhile.
pub(crate) async fn counted(redis: &PrivateRedis, fleet: &Fleet) -> redis::RedisResult<i64> {
    let mut connection = redis.connection().await?;
    let namespace = fleet.realm().namespace.as_deref().unwrap_or("dat");
    let marker: String =
        connection.get::<_, Option<String>>(format!("{namespace}:windows")).await?.unwrap_or_default();
    let era = marker.split(' ').next().unwrap_or_default();
    let pattern = format!("{namespace}:window:*:{era}");
    let mut keys = Vec::new();
    let mut found = connection.scan_match::<_, String>(pattern).await?;
    while let Some(key) = found.next_item().await {
        keys.push(key?);
    }
    drop(found);
    let mut sum = 0;
    for key in keys {
        sum += connection.get::<_, i64>(key).await?;
    }
    Ok(sum)
}

pub(crate) async fn wait_until_counted(redis: &PrivateRedis, fleet: &Fleet, tokens: i64) {
    eventually(format_args!("the windows count {tokens}"), async || match counted(redis, fleet).await {
        Ok(sum) if sum == tokens => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_windows_are_closed_while_lost_and_rebuilt_from_the_ledger() {
    let mut redis = PrivateRedis::start().await;
    let fleet = fleet(&redis).await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let first = submit_call(&producer, "before the loss").await;
    assert_eq!(producer.wait_for_end(first).await.state, PlanState::Completed);
    wait_until_counted(&redis, &fleet, 60).await;

    redis.flush().await;
    let second = submit_call(&producer, "after a flush").await;
    assert_eq!(producer.wait_for_end(second).await.state, PlanState::Completed);
    wait_until_counted(&redis, &fleet, 120).await;

    redis.kill().await;
    let waiting = submit_call(&producer, "while Redis is away").await;
    let money = producer.submit(&PlanDraft::in_order("money", 2).document()).await;
    assert_eq!(producer.wait_for_end(money).await.state, PlanState::Completed);
    eventually("the call waits for Redis", async || {
        let seen = fleet.plan(waiting).await.summary.reason;
        match &seen {
            Some(reason) if reason.contains("token windows cannot be asked: Redis is away") => Ok(()),
            _ => Err(seen),
        }
    })
    .await;
    assert_eq!(sandbox.requests(waiting).await, []);

    redis.restart().await;
    assert_eq!(producer.wait_for_end(waiting).await.state, PlanState::Completed);
    wait_until_counted(&redis, &fleet, 180).await;
    fleet.check_everything().await;
}
