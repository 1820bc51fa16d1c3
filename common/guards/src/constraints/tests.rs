use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::{Currency, PlanDocument, StepKey};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::conditions::{Conditions, When};
use crate::decision::Verdict;
use crate::inputs::{BudgetFacts, Counted, Counts, PlanFacts, StepFacts};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn inputs(now: i64, parameters: Value) -> Inputs {
    let Value::Object(parameters) = parameters else { panic!("parameters are an object") };
    Inputs {
        now: at(now),
        plan: PlanFacts {
            id: Uuid::nil(),
            version: 1,
            name: "p".to_owned(),
            priority: 4,
            labels: [].into(),
            steps: 2,
        },
        tenant: "acme".to_owned(),
        step: Some(StepFacts {
            key: StepKey("a".to_owned()),
            index: 0,
            attempt: 1,
            connector: "mux".to_owned(),
            action: "ads.enable".to_owned(),
            parameters,
        }),
        budget: BudgetFacts { amount: 100, spent: 40, reserved: 0, currency: Currency("usd".to_owned()) },
        results: serde_json::Map::new(),
        counts: Counts::default(),
    }
}

fn constraint(json: Value) -> Constraint {
    serde_json::from_value(json).unwrap()
}

fn set(constraints: &[Value]) -> ConstraintSet {
    let constraints: Vec<Constraint> = constraints.iter().cloned().map(constraint).collect();
    ConstraintSet::compile(&constraints).unwrap()
}

fn step(key: &str, parameters: &Value) -> Value {
    json!({"key": key, "connector": "mux", "action": "x", "parameters": parameters})
}

fn document(steps: &[Value]) -> PlanDocument {
    serde_json::from_value(json!({
        "plan_id": Uuid::nil(), "plan_version": 1, "tenant": "acme", "name": "p",
        "budget": {"amount": 100, "currency": "usd"}, "steps": steps,
    }))
    .unwrap()
}

fn window(enforcement: &str) -> Value {
    json!({"id": "w", "enforcement": enforcement, "kind": "time_window",
           "not_before": at(10), "not_after": at(20)})
}

fn quantity(enforcement: &str) -> Value {
    json!({"id": "q", "enforcement": enforcement, "kind": "quantity", "parameter": "n", "min": 1, "max": 100})
}

fn predicate(id: &str, enforcement: &str, require: &str) -> Value {
    json!({"id": id, "enforcement": enforcement, "kind": "predicate", "require": require})
}

#[test]
fn a_hard_window_waits_before_it_and_is_over_after_it() {
    let set = set(&[window("hard")]);
    for (now, verdict, wait, lasting) in [
        (9, Verdict::Deny, Some(at(10)), false),
        (10, Verdict::Pass, None, false),
        (19, Verdict::Pass, None, false),
        (20, Verdict::Deny, None, true),
    ] {
        for decision in
            [set.runtime(&inputs(now, json!({}))), set.admission(&inputs(now, json!({})), &document(&[]))]
        {
            let found = (decision.verdict, decision.wait_until(), decision.is_lasting());
            assert_eq!(found, (verdict, wait, lasting), "at {now}");
        }
    }
}

#[test]
fn a_soft_rule_warns_and_makes_nobody_wait() {
    let set = set(&[window("soft"), quantity("soft"), predicate("p", "soft", "budget.spent > 50")]);
    let decision = set.runtime(&inputs(0, json!({"n": 101})));
    assert_eq!((decision.verdict, decision.violations.len()), (Verdict::Warn, 3));
    assert_eq!((decision.wait_until(), decision.is_lasting()), (None, false));
    assert!(decision.violations.iter().all(|violation| violation.retry_at.is_none()));
}

#[test]
fn every_violated_rule_is_listed_and_waiting_does_not_mend_the_others() {
    let set = set(&[
        window("hard"),
        quantity("hard"),
        predicate("ok", "hard", "tenant == 'acme'"),
        predicate("p", "soft", "budget.spent * 5 < budget.amount"),
    ]);
    let decision = set.runtime(&inputs(0, json!({"n": 101})));
    let ids: Vec<&str> = decision.violations.iter().map(|violation| violation.constraint.as_str()).collect();
    assert_eq!((decision.verdict, ids), (Verdict::Deny, vec!["w", "q", "p"]));
    assert_eq!(decision.wait_until(), None, "the quantity does not change by waiting");
    let waits = set.runtime(&inputs(0, json!({"n": 100})));
    assert_eq!((waits.verdict, waits.wait_until()), (Verdict::Deny, Some(at(10))));
}

#[test]
fn a_quantity_is_a_number_within_bounds() {
    let set = set(&[quantity("hard")]);
    for (n, verdict) in [
        (json!(1), Verdict::Pass),
        (json!(100.0), Verdict::Pass),
        (json!(0.99), Verdict::Deny),
        (json!(101), Verdict::Deny),
        (json!("50"), Verdict::Deny),
        (json!(null), Verdict::Deny),
        (json!({"$from": "x", "path": ""}), Verdict::Deny),
    ] {
        assert_eq!(set.runtime(&inputs(0, json!({"n": n}))).verdict, verdict, "{n}");
    }
    assert_eq!(set.runtime(&inputs(0, json!({"other": 500}))).verdict, Verdict::Pass);
}

#[test]
fn admission_looks_at_every_step_but_not_at_what_is_not_known_yet() {
    let set = set(&[
        quantity("hard"),
        predicate("plan", "soft", "budget.amount > 1000"),
        predicate("step", "hard", "step.index > 5"),
        predicate("result", "hard", "results.a.ok"),
    ]);
    let fine = step("a", &json!({"n": 5}));
    let later = step("b", &json!({"n": {"$from": "a", "path": "/n"}}));
    let inputs = Inputs { step: None, ..inputs(0, json!({})) };
    let decision = set.admission(&inputs, &document(&[fine.clone(), later.clone()]));
    assert_eq!((decision.verdict, decision.violations.len()), (Verdict::Warn, 1));
    let steps = [fine, later, step("c", &json!({"n": 500})), step("d", &json!({"n": 0}))];
    let decision = set.admission(&inputs, &document(&steps));
    assert!(decision.is_lasting());
    assert_eq!(decision.violations[0].reason, "'n' of step 'c' is 500, more than 100, and 1 more");
}

#[test]
fn faults_are_all_found_with_their_place() {
    let constraints: Vec<Constraint> = [
        predicate("a", "hard", "budgett.spent < 5"),
        quantity("hard"),
        json!({"id": "b", "enforcement": "hard", "kind": "quantity", "parameter": "n"}),
        json!({"id": "c", "enforcement": "hard", "kind": "quantity", "parameter": "n", "min": 2, "max": 1}),
        json!({"id": "d", "enforcement": "hard", "kind": "time_window"}),
        json!({"id": "e", "enforcement": "hard", "kind": "time_window", "not_before": at(2), "not_after": at(2)}),
    ]
    .into_iter()
    .map(constraint)
    .collect();
    let faults = ConstraintSet::compile(&constraints).unwrap_err();
    assert_eq!(faults.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 2, 3, 4, 5]);
}

#[test]
fn conditions_always_bind_and_are_named_by_place() {
    let all = ["step.attempt == 1".to_owned(), "results.a.ok".to_owned(), "plan.steps > 2".to_owned()];
    let conditions = Conditions::compile(When::After, &all).unwrap();
    let decision = conditions.check(&inputs(0, json!({})));
    let found: Vec<_> = decision.violations.iter().map(|v| (v.constraint.as_str(), v.lasting)).collect();
    assert_eq!(found, [("postconditions/1", false), ("postconditions/2", true)]);
    assert_eq!(decision.verdict, Verdict::Deny);
    assert!(Conditions::compile(When::Before, &["1".to_owned()]).is_err());
}

#[test]
fn decisions_add_up() {
    let pass = Decision::from_violations(vec![]);
    assert_eq!(pass.verdict, Verdict::Pass);
    let warn = set(&[quantity("soft")]).runtime(&inputs(0, json!({"n": 0})));
    let deny = set(&[window("hard")]).runtime(&inputs(0, json!({})));
    let both = warn.and(deny).and(pass);
    assert_eq!((both.verdict, both.violations.len()), (Verdict::Deny, 2));
    let text = serde_json::to_string(&both).unwrap();
    assert_eq!(serde_json::from_str::<Decision>(&text).unwrap(), both);
}

fn counting(fields: &Value) -> Value {
    let mut rule = json!({"id": "x", "enforcement": "hard"});
    rule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    rule
}

/// The first counter's key of a list of one rule, for the step of [`inputs`].
fn key(origin: Origin, fields: &Value, parameters: Value) -> Option<String> {
    let rule = constraint(counting(fields));
    let set = ConstraintSet::compile_for(origin, &[rule]).unwrap();
    set.counters(&inputs(0, parameters)).into_iter().next().map(|counter| counter.key)
}

#[test]
fn what_is_counted_together_has_one_key_and_nothing_else_has_it() {
    let rule = |fields: Value| {
        let mut rule = json!({"kind": "concurrency", "max": 1});
        rule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        rule
    };
    let of = |origin, fields| key(origin, &rule(fields), json!({"account": "a/1"}));
    assert_eq!(of(Origin::Fleet, json!({})).unwrap(), "fleet/x");
    assert_eq!(of(Origin::Tenant, json!({})).unwrap(), "acme/tenant/x");
    let nil = Uuid::nil();
    assert_eq!(of(Origin::Plan, json!({})).unwrap(), format!("plan/{nil}/1/x"));
    assert_eq!(of(Origin::Fleet, json!({"per": "tenant"})).unwrap(), "fleet/x/tenant=\"acme\"");
    assert_eq!(of(Origin::Fleet, json!({"per": "action"})).unwrap(), "fleet/x/action=\"ads.enable\"");
    let by_value = of(Origin::Fleet, json!({"per": "connector", "parameter": "account"})).unwrap();
    assert_eq!(by_value, "fleet/x/connector=\"mux\"/\"account\"=\"a/1\"");
    assert_eq!(of(Origin::Fleet, json!({"parameter": "other"})), None, "a step without it is not counted");
    assert_eq!(of(Origin::Fleet, json!({"connector": "echo"})), None);
    assert_eq!(of(Origin::Fleet, json!({"action": "listing.*"})), None);
}

#[test]
fn a_step_waits_while_as_many_run_as_may_and_a_soft_rule_only_says_so() {
    let rule = |enforcement: &str| {
        set(&[json!({"id": "x", "enforcement": enforcement, "kind": "concurrency", "max": 2})])
    };
    let running = |count: i64| {
        let mut inputs = inputs(0, json!({}));
        inputs.counts.running.insert(format!("plan/{}/1/x", Uuid::nil()), count);
        inputs
    };
    assert_eq!(rule("hard").runtime(&inputs(0, json!({}))).verdict, Verdict::Pass);
    assert_eq!(rule("hard").runtime(&running(1)).verdict, Verdict::Pass);
    let full = rule("hard").runtime(&running(2));
    assert_eq!(full.verdict, Verdict::Deny);
    assert_eq!(full.wait_until(), Some(at(0) + TimeDelta::milliseconds(500)));
    assert_eq!(full.violations[0].reason, rule("hard").runtime(&running(3)).violations[0].reason);
    assert_eq!(rule("soft").runtime(&running(2)).verdict, Verdict::Warn);
    let admission = rule("hard").admission(&running(2), &document(&[]));
    assert_eq!(admission.verdict, Verdict::Pass, "what runs is counted when a step is claimed");
}

#[test]
fn a_spend_rule_waits_for_room_and_refuses_only_what_a_plan_can_never_spend() {
    let rule =
        |period: &str| counting(&json!({"kind": "spend", "period": period, "currency": "usd", "max": 100}));
    let with = |key: String, settled: i64, reserved: i64, undos: i64| {
        let mut inputs = inputs(0, json!({}));
        inputs.counts.need = 10;
        inputs.counts.spent.insert(key, Counted { settled, reserved, undos });
        inputs
    };
    let own = || format!("plan/{}/1/x", Uuid::nil());
    let plan = |period: &str, inputs: &Inputs| {
        let decision = set(&[rule(period)]).runtime(inputs);
        (decision.verdict, decision.wait_until().is_some(), decision.is_lasting())
    };
    assert_eq!(plan("total", &with(own(), 50, 40, 0)), (Verdict::Pass, false, false));
    assert_eq!(plan("total", &with(own(), 50, 41, 0)), (Verdict::Deny, true, false));
    assert_eq!(plan("total", &with(own(), 50, 41, 40)), (Verdict::Deny, true, false));
    assert_eq!(plan("total", &with(own(), 50, 41, 41)), (Verdict::Deny, false, true));
    assert_eq!(plan("day", &with(own(), 95, 0, 0)), (Verdict::Deny, true, false), "the day turns");
    let fleet = ConstraintSet::compile_for(Origin::Fleet, &[constraint(rule("total"))]).unwrap();
    let decision = fleet.runtime(&with("fleet/x".to_owned(), 95, 0, 0));
    assert_eq!(decision.violations[0].constraint, "fleet/x");
    assert!(decision.wait_until().is_some(), "an operator may raise it");
    // Another currency is not counted.
    let tokens = counting(&json!({"kind": "spend", "period": "day", "currency": "token", "max": 0}));
    assert_eq!(set(&[tokens]).runtime(&with(own(), 95, 0, 0)).verdict, Verdict::Pass);
}

#[test]
fn a_score_is_declared_and_within_its_threshold() {
    let set = set(&[json!({"id": "k", "enforcement": "hard", "kind": "risk", "max": 0.7})]);
    let declared = |score: Option<&str>| {
        let mut inputs = inputs(0, json!({}));
        inputs.plan.labels.extend(score.map(|score| ("risk".to_owned(), score.to_owned())));
        let decision = set.admission(&inputs, &document(&[]));
        assert_eq!(decision, set.runtime(&inputs));
        (decision.verdict, decision.is_lasting())
    };
    assert_eq!(declared(Some("0.7")), (Verdict::Pass, false));
    for score in [None, Some("0.71"), Some("low"), Some("NaN"), Some("")] {
        assert_eq!(declared(score), (Verdict::Deny, true), "{score:?}");
    }
}

#[test]
fn only_what_is_allowed_is_used_by_steps_and_undos_alike() {
    let set = set(&[json!({"id": "a", "enforcement": "hard", "kind": "capability",
                           "allow": [{"connector": "mux", "actions": ["ads.*", "x"]}]})]);
    let inputs = inputs(0, json!({}));
    assert_eq!(set.runtime(&inputs).verdict, Verdict::Pass);
    let mut other = inputs.clone();
    if let Some(step) = &mut other.step {
        step.action = "listing.create".to_owned();
    }
    assert!(set.runtime(&other).is_lasting());
    assert_eq!(set.admission(&inputs, &document(&[step("a", &json!({}))])).verdict, Verdict::Pass);
    let mut undone = step("b", &json!({}));
    undone["compensation"] = json!({"action": "x", "connector": "echo"});
    let decision = set.admission(&inputs, &document(&[step("a", &json!({})), undone]));
    assert_eq!(decision.violations[0].reason, "step 'b' uses 'x' of connector 'echo', which is not allowed");
}

#[test]
fn caps_and_rates_are_given_for_the_steps_that_they_count() {
    let rules: Vec<Constraint> = [
        counting(&json!({"kind": "spend", "period": "day", "currency": "usd", "max": 5, "connector": "mux"})),
        counting(&json!({"kind": "rate", "count": 5, "period_ms": 1000, "action": "ads.*", "per": "tenant"})),
    ]
    .map(constraint)
    .into();
    let set = ConstraintSet::compile_for(Origin::Fleet, &rules).unwrap();
    let place = StepPlace {
        tenant: "acme",
        plan: dat_plan::PlanKey::new(Uuid::nil(), 1),
        connector: "mux",
        action: "ads.enable",
    };
    let caps = set.caps(&place, "usd");
    assert_eq!((caps.len(), caps[0].key.as_str(), caps[0].hard), (1, "fleet/x", true));
    assert!(set.caps(&place, "eur").is_empty());
    assert!(set.caps(&StepPlace { connector: "echo", ..place }, "usd").is_empty());
    assert_eq!(set.rates(&place)[0].key, "fleet/x/tenant=\"acme\"");
    assert!(set.rates(&StepPlace { action: "listing.create", ..place }).is_empty());
}
