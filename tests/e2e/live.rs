//! Live plans: `dat plan watch` reads Redis, and the rows where Redis has nothing or is away.

use dat_plan::{PlanKey, PlanState};
use dat_tests::{Fleet, PlanDraft};
use redis::AsyncCommands as _;
use serde_json::{Value, json};

/// One look at a plan, by `dat plan watch`.
async fn watch(fleet: &Fleet, plan: PlanKey, flags: &[&str]) -> Value {
    let id = plan.plan_id.to_string();
    let shown = fleet.dat(&[&["plan", "watch", &id, "--once", "--output", "json"], flags].concat()).await;
    serde_json::from_str(&shown).unwrap_or_else(|error| panic!("{error}: {shown}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_reads_redis_and_refills_it_from_rows() {
    let fleet = Fleet::standard().await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    sandbox.hold("test.act").await;
    let plan = producer.submit(&PlanDraft::in_order("watched", 3).document()).await;
    sandbox.wait_for_held(1).await;
    let key = format!("{}:plan:{plan}", fleet.realm().namespace.as_deref().expect("it has one"));
    let mut redis = fleet.redis().await;

    // What only the rows know is what is shown once the keys are gone; and then Redis knows it again.
    fleet.realm().delete_keys().await.expect("Redis answers");
    let shown = watch(&fleet, plan, &[]).await;
    let running =
        json!({"state": "executing", "steps_done": 0, "steps_total": 3, "spent": 0, "reserved": 10});
    for (field, value) in running.as_object().expect("it is one") {
        assert_eq!(shown[field], *value, "{field} of {shown}");
    }
    let text: String = redis.hget(&key, "text").await.expect("the plan is in Redis again");
    assert_eq!(serde_json::from_str::<Value>(&text).expect("it is JSON"), shown);

    // What only Redis knows is shown too: the rows are not asked.
    let mut marked = shown.clone();
    marked["name"] = json!("as Redis has it");
    let _: () = redis.hset(&key, "text", marked.to_string()).await.expect("Redis answers");
    assert_eq!(watch(&fleet, plan, &[]).await["name"], "as Redis has it");

    // Nothing listens on port 1.
    let away = ["--redis-url", "redis://127.0.0.1:1/0"];
    assert_eq!(watch(&fleet, plan, &away).await, shown);

    sandbox.release().await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    fleet.realm().delete_keys().await.expect("Redis answers");
    let over = watch(&fleet, plan, &[]).await;
    assert_eq!(
        (&over["state"], &over["steps_done"], &over["spent"]),
        (&json!("completed"), &json!(3), &json!(30))
    );
    fleet.check_everything().await;
}
