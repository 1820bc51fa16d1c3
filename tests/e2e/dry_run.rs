//! `mode: "dry"`: a plan goes the whole way, and nothing happens.

use dat_plan::{PlanKey, PlanState, StepState};
use dat_tests::{Fleet, PlanDraft, StepDraft};
use serde_json::{Value, json};

/// What a live plan of these steps would do in MUX, spend, fail at, and take as input.
fn draft(name: &str) -> PlanDraft {
    let lists = StepDraft::priced("list", 30).set("retry", json!({"max_attempts": 2}));
    let orders = StepDraft::new("order", &json!({"outcome": "error", "cost": 50}))
        .set("parameters", json!({"listing": {"$from": "list", "path": "/listing_id"}, "quantity": 3}))
        .set("preconditions", json!(["step.parameters.quantity < 10"]))
        .set("retry", json!({"max_attempts": 1}));
    PlanDraft::new(name).set("mode", "dry").step(lists).step(orders)
}

/// Nothing of it reached MUX, the ledger, or FLO.
async fn nothing_happened(fleet: &Fleet, plan: PlanKey) {
    let sandbox = fleet.sandbox();
    assert_eq!(sandbox.requests(plan).await, []);
    assert_eq!(sandbox.effects(plan).await, []);
    assert_eq!(sandbox.flo_events(plan).await, []);
    let view = fleet.plan(plan).await;
    assert_eq!((view.summary.spent, view.summary.reserved), (0, 0));
    let accounts = fleet.store().accounts(None, Some(plan.plan_id)).await.expect("the database answers");
    assert!(
        accounts.iter().all(|view| (view.account.settled, view.account.reserved) == (0, 0)),
        "{accounts:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_goes_the_whole_way_without_effects_or_spend() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let rule =
        json!({"id": "few", "enforcement": "soft", "kind": "quantity", "parameter": "quantity", "max": 2});
    let document = draft("dry").budget(60).set("constraints", json!([rule])).document();
    let plan = producer.submit(&document).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let way = [
        PlanState::Draft,
        PlanState::SubmittedForApproval,
        PlanState::Approved,
        PlanState::Staged,
        PlanState::Executing,
        PlanState::Completed,
    ];
    assert_eq!(end.way(), way, "{}", end.story());
    for kind in ["step.ready", "step.running", "step.completed"] {
        assert_eq!(end.steps(kind), ["list", "order"], "{kind}\n{}", end.story());
    }
    assert!(end.events.iter().all(|event| event.data["mode"] == "dry"), "{:#?}", end.events);
    // The rule is decided as ever, at admission and before the step, and the budget says what would not fit.
    let soft: Vec<(&Value, Option<&str>)> = end
        .events
        .iter()
        .filter(|event| event.kind == "constraint.violated")
        .map(|event| (&event.data["violation"]["constraint"], event.step.as_deref()))
        .collect();
    let few = json!("few");
    let expected = [(&few, None), (&few, Some("order")), (&json!("budget"), Some("order"))];
    assert_eq!(soft, expected, "{}", end.story());
    let short = end.events.iter().find(|event| event.data["violation"]["constraint"] == "budget");
    let reason = short.and_then(|event| event.data["reason"].as_str()).unwrap_or_default();
    assert_eq!(reason, "up to this step the plan may cost 80 usd, 20 more than is left of its budget of 60");
    let view = fleet.plan(plan).await;
    let units: Vec<(&str, StepState, Option<&Value>)> =
        view.steps.iter().map(|unit| (unit.key.as_str(), unit.state, unit.result.as_ref())).collect();
    let nothing = json!({});
    let done = |key| (key, StepState::Completed, Some(&nothing));
    assert_eq!(units, [done("list"), done("order")]);
    let said = view.steps[1].detail.as_deref().unwrap_or_default();
    assert!(said.contains("it would publish test.act") && said.contains("/listing_id of list"), "{said}");
    // The end tells what it is worth.
    let told = &end.events.last().expect("an end").data;
    let cost = json!({"least": 0, "most": 80, "irreversible": 50, "with_undos": 80, "with_retries": 110});
    assert_eq!(told["cost"], cost, "{told}");
    assert_eq!((&told["irreversible"], &told["approvals_needed"]), (&json!(["order"]), &json!(["ggp"])));
    assert_eq!(told["spent"], 0);
    let shown = fleet.dat(&["plan", "show", &plan.plan_id.to_string()]).await;
    assert!(shown.contains("live it costs 0 to 80 usd, 80 with every undo, 110 with every retry"), "{shown}");
    nothing_happened(&fleet, plan).await;
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_that_a_rule_stops_has_nothing_to_undo() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let rule = json!({"id": "few", "enforcement": "hard", "kind": "predicate",
        "require": "step.key != 'order' || step.parameters.quantity < 3"});
    let manual = json!({"type": "manual"});
    let document = draft("stopped").set("constraints", json!([rule])).set("rollback", manual).document();
    let plan = producer.submit(&document).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    assert_eq!(end.count("undo.ready"), 0, "{}", end.story());
    let states: Vec<StepState> = fleet.plan(plan).await.steps.iter().map(|unit| unit.state).collect();
    assert_eq!(states, [StepState::Completed, StepState::Failed]);
    assert_eq!(end.events.last().expect("an end").data["cost"]["most"], 80);
    nothing_happened(&fleet, plan).await;
    fleet.check_everything().await;
}

/// What a dry run can know of an answer it asks, and what it cannot it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_asks_postconditions_of_answers_that_are_known_and_names_the_others() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let echo = |key: &str, parameters: Value| {
        StepDraft::new(key, &json!({})).set("connector", "echo").set("parameters", parameters)
    };
    let asks = |step: StepDraft| step.set("postconditions", json!(["results.known.size == 3"]));
    let known = asks(echo("known", json!({"size": 3})));
    let follows = echo("follows", json!({"of": {"$from": "known", "path": "/size"}}));
    let lists = StepDraft::new("lists", &json!({})).set("postconditions", json!(["results.lists.size == 3"]));
    let takes = echo("takes", json!({"size": {"$from": "lists", "path": "/size"}}));
    let takes = takes.set("postconditions", json!(["results.takes.size == 3"]));
    let draft = PlanDraft::new("known and not").set("mode", "dry");
    let plan = producer.submit(&draft.step(known).step(follows).step(lists).step(takes).document()).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let view = fleet.plan(plan).await;
    let said: Vec<&str> = view.steps.iter().map(|step| step.detail.as_deref().unwrap_or_default()).collect();
    assert!(said[0].ends_with("; its postconditions would hold"), "{said:#?}");
    assert_eq!(view.steps[1].result, Some(json!({"of": 3})), "what is known is taken further");
    assert!(!said[1].contains("postconditions"), "{said:#?}");
    assert!(said[2].ends_with("; its postconditions are not asked: its answer is not known"), "{said:#?}");
    assert!(said[3].contains("/size of lists") && said[3].contains("are not asked"), "{said:#?}");
    let decided = end.events.iter().find(|event| event.is("step.completed", "known")).expect("it completed");
    assert_eq!(decided.data["decision"]["moment"], "answer", "{decided:?}");
    nothing_happened(&fleet, plan).await;

    let breaks = asks(echo("known", json!({"size": 4})));
    let plan = producer.submit(&PlanDraft::new("breaks").set("mode", "dry").step(breaks).document()).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Aborted, "{}", end.story());
    let detail = fleet.plan(plan).await.steps[0].detail.clone().unwrap_or_default();
    assert!(detail.contains("its answer would not do"), "{detail}");
    nothing_happened(&fleet, plan).await;
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_its_tenant_could_not_pay() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let limit =
        ["budget", "set", "--tenant", "acme", "--currency", "usd", "--period", "year", "--amount", "70"];
    fleet.dat(&[&limit[..], &["--actor", "ann", "--reason", "a test"]].concat()).await;
    let plan = producer.submit(&draft("too dear for its tenant").document()).await;
    let end = producer.wait_for_end(plan).await;
    assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    let short: Vec<(Option<&str>, &str)> = end
        .events
        .iter()
        .filter(|event| event.data["violation"]["constraint"] == "budget")
        .map(|event| (event.step.as_deref(), event.data["reason"].as_str().unwrap_or_default()))
        .collect();
    let said =
        "up to this step the plan may cost 80 usd, 10 more than is left of tenant acme's for this year of 70";
    assert_eq!(short, [(Some("order"), said)], "{}", end.story());
    nothing_happened(&fleet, plan).await;
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_beside_live_plans_leaves_their_budgets_and_mux_alone() {
    let fleet = Fleet::standard().await;
    let producer = fleet.producer().await;
    let limit =
        ["budget", "set", "--tenant", "acme", "--currency", "usd", "--period", "year", "--amount", "40"];
    fleet.dat(&[&limit[..], &["--actor", "ann", "--reason", "a test"]].concat()).await;
    let dry = producer.submit(&draft("dry").document()).await;
    let live = producer.submit(&PlanDraft::new("live").step(StepDraft::priced("s0", 40)).document()).await;
    for end in producer.wait_for_ends(&[dry, live]).await {
        assert_eq!(end.state, PlanState::Completed, "{}", end.story());
    }
    nothing_happened(&fleet, dry).await;
    assert_eq!(fleet.plan(live).await.summary.spent, 40);
    assert_eq!(fleet.sandbox().mux_summary(dry).await.probes, 0);
    fleet.check_everything().await;
}
