//! Operators' constraint sets: what they stop stops at the next claim, what they count is counted over the fleet, and
//! every decision comes out the same when it is made again.

use dat_plan::{PlanState, StepState};
use dat_tests::{Fleet, PlanDraft, StepDraft, eventually};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// Registers rules, as an operator does.
async fn set(fleet: &Fleet, whose: &[&str], constraints: Value) -> String {
    let file = fleet.file("constraints.json", &json!({"format": 1, "constraints": constraints}).to_string());
    let act = ["--actor", "ann", "--reason", "a test"];
    fleet.dat(&[&["constraints", "set", &file][..], whose, &act].concat()).await
}

/// So many steps side by side.
fn wide(name: &str, steps: usize) -> PlanDraft {
    (0..steps)
        .fold(PlanDraft::new(name), |plan, n| plan.step(StepDraft::priced(&format!("s{n}"), 10).needs(&[])))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_run_at_once_over_the_fleet_than_a_rule_allows() {
    let fleet = Fleet::standard().await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    let rule =
        json!([{"id": "three", "enforcement": "hard", "kind": "concurrency", "action": "test.*", "max": 3}]);
    let said = set(&fleet, &["--fleet"], rule).await;
    assert!(said.starts_with("version 1 of the constraint set of the fleet applies"), "{said}");
    sandbox.hold("test.act").await;
    let mut plans = Vec::new();
    for number in 0..3 {
        plans.push(producer.submit(&wide(&format!("wide {number}"), 6).document()).await);
    }
    sandbox.wait_for_held(3).await;
    let waiting = eventually("the other steps wait, and say for what", async || {
        let mut reasons = Vec::new();
        for plan in &plans {
            for step in fleet.plan(*plan).await.steps {
                if step.state == StepState::Ready {
                    reasons.extend(step.wait_reason);
                }
            }
        }
        if reasons.len() == 15 { Ok(reasons) } else { Err(reasons) }
    })
    .await;
    let reason = "constraint fleet/three: at most 3 run at once, counted as fleet/three";
    assert!(waiting.iter().all(|said| said == reason), "{waiting:?}");
    sandbox.release().await;
    for end in producer.wait_for_ends(&plans).await {
        assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    }
    // By MUX's own count: a row's times are those at which a worker began to claim or settle, not of the commit.
    assert_eq!(sandbox.all_mux_summary().await.max_in_flight, 3);
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_set_while_a_plan_runs_binds_its_next_claim_and_the_plans_own_rules_stay() {
    let fleet = Fleet::standard().await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    sandbox.hold("test.act").await;
    let own =
        json!([{"id": "mine", "enforcement": "soft", "kind": "predicate", "require": "budget.spent < 5"}]);
    let plan = PlanDraft::in_order("running", 2).set("constraints", own).document();
    let plan = producer.submit(&plan).await;
    sandbox.wait_for_held(1).await;
    let allow = json!([{"id": "only", "enforcement": "hard", "kind": "capability",
                        "allow": [{"connector": "mux", "actions": ["other.*"]}]}]);
    set(&fleet, &["--tenant", "acme"], allow).await;
    sandbox.release().await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    let refused = end
        .events
        .iter()
        .rfind(|event| event.kind == "constraint.violated" && event.data["step"] == "s1")
        .unwrap_or_else(|| panic!("{}", end.story()));
    let decision = &refused.data["decision"];
    assert_eq!(decision["operator_sets"][0]["subject"], "acme", "{decision:#}");
    assert_eq!(decision["operator_sets"][0]["version"], 1);
    let violated: Vec<&str> = decision["violations"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|violation| violation["constraint"].as_str())
        .collect();
    assert_eq!(violated, ["mine", "tenant/only"]);
    let refused =
        fleet.plan(plan).await.steps.into_iter().find(|step| step.key == "s1").expect("there is s1");
    assert_eq!((refused.attempts, refused.state), (0, StepState::Failed), "nothing of it was sent");
    // Another tenant is not bound.
    let other = producer.submit(&PlanDraft::in_order("of bolt", 1).set("tenant", "bolt").document()).await;
    assert_eq!(producer.wait_for_end(other).await.state, PlanState::Completed);
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rule_lets_the_fleet_spend_holds_over_tenants_and_can_be_raised() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let rule = |max: i64| {
        json!([{"id": "cap", "enforcement": "hard", "kind": "spend", "period": "year", "currency": "usd",
                "connector": "mux", "max": max}])
    };
    set(&fleet, &["--fleet"], rule(50)).await;
    let mut plans = Vec::new();
    for tenant in ["acme", "bolt"] {
        plans.push(producer.submit(&wide("capped", 4).set("tenant", tenant).document()).await);
    }
    for plan in &plans {
        producer.wait_for("its steps exist", |e| e.plan == *plan && e.kind == "plan.executing").await;
    }
    eventually("five steps were paid for, and three wait", async || {
        let (mut done, mut waiting) = (0, 0);
        for plan in &plans {
            for step in fleet.plan(*plan).await.steps {
                done += usize::from(step.state == StepState::Completed);
                waiting += usize::from(step.wait_reason.is_some_and(|why| why.contains("fleet/cap")));
            }
        }
        if (done, waiting) == (5, 3) { Ok(()) } else { Err((done, waiting)) }
    })
    .await;
    let shown = fleet.dat(&["budget", "show", "--output", "json"]).await;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let cap = &shown["accounts"][0];
    assert_eq!((&cap["cap"], &cap["account"]["settled"]), (&json!("fleet/cap"), &json!(50)), "{shown:#}");
    set(&fleet, &["--fleet"], rule(100)).await;
    for end in producer.wait_for_ends(&plans).await {
        assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    }
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_that_a_rule_sets_is_one_schedule_for_all_tenants_and_says_its_name() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let rule = json!([{"id": "slow", "enforcement": "hard", "kind": "rate", "action": "test.rare", "count": 1,
                       "period_ms": 3_600_000}]);
    set(&fleet, &["--fleet"], rule).await;
    let plan = |tenant: &str| {
        let step = StepDraft::priced("s0", 10).set("action", "test.rare");
        PlanDraft::new("rare").set("tenant", tenant).step(step).document()
    };
    // The first claim after a set was registered finds it: whatever came before it is warm-up.
    let warm = producer.submit(&PlanDraft::in_order("warm", 1).document()).await;
    assert_eq!(producer.wait_for_end(warm).await.state, PlanState::Completed);
    let mut plans = Vec::new();
    for tenant in ["acme", "bolt"] {
        plans.push(producer.submit(&plan(tenant)).await);
    }
    for plan in &plans {
        producer.wait_for("its steps exist", |e| e.plan == *plan && e.kind == "plan.executing").await;
    }
    let waiting =
        eventually("one of two tenants has the turn, the other waits and says for what", async || {
            let (mut done, mut waiting) = (0, None);
            for plan in &plans {
                let step = fleet.plan(*plan).await.steps.remove(0);
                done += usize::from(step.state == StepState::Completed);
                if step.wait_reason.as_deref() == Some("constraint fleet/slow: 1 calls in 3600000 ms") {
                    waiting = Some(*plan);
                }
            }
            waiting.filter(|_| done == 1).ok_or(done)
        })
        .await;
    fleet.dat(&["plan", "abort", &waiting.plan_id.to_string(), "--reason", "not this hour"]).await;
    producer.wait_for_ends(&plans).await;
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_without_a_declared_score_or_with_too_high_a_one_is_never_admitted() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    set(&fleet, &["--fleet"], json!([{"id": "risk", "enforcement": "hard", "kind": "risk", "max": 0.5}]))
        .await;
    let plan = |name: &str, score: Option<&str>| {
        let draft = PlanDraft::in_order(name, 1);
        score.map_or(draft.clone(), |score| draft.label("risk", score)).document()
    };
    for (name, score, state) in [
        ("declared", Some("0.5"), PlanState::Completed),
        ("too high", Some("0.6"), PlanState::Aborted),
        ("undeclared", None, PlanState::Aborted),
    ] {
        let plan = producer.submit(&plan(name, score)).await;
        let end = producer.wait_for_end(plan).await;
        assert_eq!(end.state, state, "{}", end.story());
        let sent = fleet.sandbox().requests(plan).await.len();
        assert_eq!(sent, usize::from(state == PlanState::Completed));
    }
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_document_is_refused_with_every_fault_and_nothing_of_it_is_registered() {
    let fleet = Fleet::standard().await;
    let bad = json!({"format": 2, "constraints": [
        {"id": "a", "enforcement": "hard", "kind": "predicate", "require": "budgett.spent < 5"},
        {"id": "a", "enforcement": "hard", "kind": "spend", "period": "week", "currency": "USD", "max": -1},
        {"id": "fine", "enforcement": "hard", "kind": "concurrency", "max": 3}]});
    let file = fleet.file("bad.json", &bad.to_string());
    let refused = fleet
        .dat_refused(&["constraints", "set", &file, "--fleet", "--reason", "a test", "--actor", "ann"])
        .await;
    let pointers: Vec<&str> =
        refused.lines().skip(1).filter_map(|line| line.trim().split(": ").next()).collect();
    assert_eq!(
        pointers,
        [
            "/constraints/0/require",
            "/constraints/1/currency",
            "/constraints/1/id",
            "/constraints/1/max",
            "/constraints/1/period",
            "/format",
        ],
        "{refused}"
    );
    assert!(fleet.store().newest_constraint_sets().await.expect("it answers").is_empty());
    let shown = fleet.dat(&["constraints", "show"]).await;
    assert!(shown.starts_with("no constraint set is registered"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_tenants_are_set_all_of_them_or_none() {
    let fleet = Fleet::standard().await;
    let limit = |tenant: &str, amount: i64| json!({"tenant": tenant, "currency": "usd", "period": "month", "amount": amount});
    let act = ["--reason", "a test", "--actor", "ann"];
    let bad = json!({"format": 1, "limits": [limit("acme", 500), limit("bolt", -1)]});
    let file = fleet.file("bad.json", &bad.to_string());
    let refused = fleet.dat_refused(&[&["budget", "set", "--file", &file][..], &act].concat()).await;
    assert!(refused.contains("/limits/1/amount: "), "{refused}");
    assert!(fleet.store().limits().await.expect("it answers").is_empty(), "half of it is set");
    let good = json!({"format": 1, "limits": [limit("acme", 500), limit("bolt", 700)]});
    let file = fleet.file("good.json", &good.to_string());
    fleet.dat(&[&["budget", "set", "--file", &file][..], &act].concat()).await;
    let limits = fleet.store().limits().await.expect("it answers");
    let amounts: Vec<(&str, i64)> =
        limits.iter().map(|limit| (limit.tenant.as_str(), limit.amount)).collect();
    assert_eq!(amounts, [("acme", 500), ("bolt", 700)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_that_was_altered_is_named_by_the_recheck() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    set(
        &fleet,
        &["--fleet"],
        json!([{"id": "early", "enforcement": "hard", "kind": "time_window", "not_after": "2099-01-01T00:00:00Z"}]),
    )
    .await;
    let step = StepDraft::priced("s0", 10)
        .set("preconditions", json!(["step.attempt == 1"]))
        .set("postconditions", json!(["results.s0 != 7"]));
    let plan = producer.submit(&PlanDraft::new("decided").step(step).document()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Completed);
    fleet.check_everything().await;
    let said = fleet.dat(&["audit", "recheck", &plan.plan_id.to_string()]).await;
    assert_eq!(said.trim(), "3 decisions of 1 plans made again: each came out as it was recorded");
    // As somebody with all rights on the database would do it; the chain notices too, which is another matter.
    let mut connection = PgConnection::connect(&fleet.realm().database_url).await.expect("a connection");
    for (alter, undo, told) in [
        (
            "jsonb_set(data, '{decision,verdict}', '\"warn\"')",
            "jsonb_set(data, '{decision,verdict}', '\"pass\"')",
            "made again it is Pass",
        ),
        (
            "jsonb_set(data, '{decision,inputs,now}', '\"2100-01-01T00:00:00Z\"')",
            "jsonb_set(data, '{decision,inputs,now}', '\"2026-01-01T00:00:00Z\"')",
            "the time window ended at 2099-01-01",
        ),
        (
            "jsonb_set(data, '{decision,inputs,step,attempt}', '2')",
            "jsonb_set(data, '{decision,inputs,step,attempt}', '1')",
            "preconditions/0",
        ),
        (
            "jsonb_set(data, '{decision,operator_sets,0,hash}', '\"sha256:00\"')",
            "data",
            "which is not registered",
        ),
    ] {
        alter_running(&mut connection, alter).await;
        let said = fleet.dat_refused(&["audit", "recheck", &plan.plan_id.to_string()]).await;
        let unwrapped: String = said.split_whitespace().filter(|word| *word != "│" && *word != "┆").collect();
        let told: String = told.split_whitespace().collect();
        assert!(unwrapped.contains(&told), "{told} is not in {said}");
        assert!(said.contains("1 came out otherwise"), "{said}");
        alter_running(&mut connection, undo).await;
    }
    connection.close().await.expect("closed");
}

async fn alter_running(connection: &mut PgConnection, data: &str) {
    let statement = format!(
        "ALTER TABLE execution_event DISABLE TRIGGER USER;
         UPDATE execution_event SET data = {data} WHERE kind = 'step.running';
         ALTER TABLE execution_event ENABLE TRIGGER USER;"
    );
    connection.execute(AssertSqlSafe(statement)).await.expect("altered");
}
