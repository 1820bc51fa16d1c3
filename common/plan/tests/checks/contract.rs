//! The contract, field by field: defaults, bounds, the hash, the report.

use dat_plan::document::{Mode, OnUnknown, PlanDocument, Retry, Rollback, RollbackKind, RollbackScope, Rule};
use dat_plan::{FaultCode, check};
use serde_json::{Value, json};

use super::{document, edited, faults, own, read, submit};

fn checked(document: &Value) -> check::Checked {
    submit(document.to_string().as_bytes()).unwrap_or_else(|faults| panic!("{faults:?}"))
}

#[test]
fn what_is_left_out_has_the_default_of_the_contract() {
    let plan = checked(&document("defaults.json")).document;
    assert_eq!((plan.priority, plan.mode, plan.on_unknown), (4, Mode::Live, OnUnknown::Wait));
    assert_eq!((plan.deadline, plan.insight, plan.labels.len(), plan.constraints.len()), (None, None, 0, 0));
    let rollback = Rollback { kind: RollbackKind::Automatic, scope: RollbackScope::Plan, steps: vec![] };
    assert_eq!(plan.rollback, rollback);
    let retry = Retry { max_attempts: 3, initial_ms: 200, max_ms: 30_000, factor: 2.0, within_ms: None };
    for step in &plan.steps {
        assert_eq!(
            (step.needs.as_ref(), step.max_cost, step.timeout_ms, step.not_before),
            (None, 0, 30_000, None)
        );
        assert_eq!((step.parameters.len(), step.retry), (0, retry));
        assert_eq!((step.preconditions.len(), step.postconditions.len()), (0, 0));
    }
    let undo = plan.steps[0].compensation.as_ref();
    let undo = undo.map(|undo| (undo.parameters.len(), undo.connector.as_ref(), undo.max_cost, undo.retry));
    assert_eq!(undo, Some((0, None, 0, retry)));
    assert_eq!((plan.steps[0].irreversible, plan.steps[1].irreversible), (false, true));
}

#[test]
fn a_checked_document_reads_back_from_what_it_writes() {
    let plan = checked(&document("every-field.json")).document;
    let again = serde_json::to_value(&plan).and_then(serde_json::from_value::<PlanDocument>);
    assert_eq!(again.ok(), Some(plan));
}

#[test]
fn a_constraint_keeps_its_kind_and_its_bounds() {
    let plan = checked(&document("every-field.json")).document;
    let rules: Vec<&Rule> = plan.constraints.iter().map(|constraint| &constraint.rule).collect();
    assert!(matches!(rules[0], Rule::TimeWindow { not_before: Some(_), not_after: Some(_) }));
    assert!(matches!(rules[1], Rule::TimeWindow { not_before: Some(_), not_after: None }));
    let quantity = Rule::Quantity { parameter: "quantity".to_owned(), min: Some(-0.5), max: Some(100.0) };
    assert_eq!(rules[2], &quantity);
    assert!(matches!(rules[3], Rule::Predicate { require } if require == "budget.spent * 5 < budget.amount"));
}

/// `python3 -c "import json,hashlib,sys; print(hashlib.sha256(json.dumps(json.load(sys.stdin), sort_keys=True,
/// separators=(',',':')).encode()).hexdigest())" < tests/plans/defaults.json`, which is RFC 8785 for ASCII and integers.
#[test]
fn the_hash_is_what_another_language_computes() {
    let plan = submit(&read(&own("defaults.json"))).unwrap_or_else(|faults| panic!("{faults:?}"));
    assert_eq!(plan.hash.as_str(), "sha256:c72a6d479ac2d130a7ee6e76ea88aa1520c1a1a1bb4baaf919959aaef4ad05a3");
}

#[test]
fn the_hash_is_of_the_document_as_submitted_without_defaults_filled_in() {
    let bare = document("defaults.json");
    let explicit = edited(&bare, "/priority", Some(json!(4)));
    let (bare, explicit) = (checked(&bare), checked(&explicit));
    assert_eq!(bare.document, explicit.document);
    assert_ne!(bare.hash, explicit.hash);
    assert_eq!(bare.value, document("defaults.json"));
}

/// Each value is refused at its own place, and nothing else is said.
#[test]
fn every_bound_is_kept_at_its_own_place() {
    use FaultCode as F;
    let long = |chars: usize| json!("x".repeat(chars));
    let cases = [
        ("/plan_id", json!("{0199d3a4-7c1e-7b1a-9c44-0a3f5d0c7421}"), F::OutOfRange),
        ("/plan_id", json!("0199d3a47c1e7b1a9c440a3f5d0c7421"), F::OutOfRange),
        ("/plan_id", json!(7), F::WrongType),
        ("/plan_version", json!(2_147_483_648_u32), F::OutOfRange),
        ("/plan_version", json!("1"), F::WrongType),
        ("/tenant", json!("a b"), F::OutOfRange),
        ("/tenant", json!(""), F::OutOfRange),
        ("/tenant", long(201), F::OutOfRange),
        ("/name", json!(""), F::OutOfRange),
        ("/name", long(201), F::TooLarge),
        ("/insight/version", json!(-1), F::OutOfRange),
        ("/insight/id", json!(""), F::OutOfRange),
        ("/budget", json!(100), F::WrongType),
        ("/budget/amount", json!(-1), F::OutOfRange),
        ("/budget/amount", json!(9_007_199_254_740_992_i64), F::OutOfRange),
        ("/budget/amount", json!(100.0), F::WrongType),
        ("/budget/amount", json!("100"), F::WrongType),
        ("/budget/amount", json!(null), F::WrongType),
        ("/budget/currency", json!("USD"), F::OutOfRange),
        ("/budget/currency", json!("a".repeat(17)), F::OutOfRange),
        ("/budget/cents", json!(1), F::UnknownField),
        ("/priority", json!(-1), F::OutOfRange),
        ("/deadline", json!("2026-11-22"), F::OutOfRange),
        ("/deadline", json!("2026-11-22T00:00:00"), F::OutOfRange),
        ("/deadline", json!("2026-11-22T00:00:00+0100"), F::OutOfRange),
        ("/deadline", json!("+10000-01-01T00:00:00Z"), F::OutOfRange),
        ("/deadline", json!(1_700_000_000), F::WrongType),
        ("/mode", json!("Live"), F::UnknownValue),
        ("/on_unknown", json!(null), F::WrongType),
        ("/labels", json!([]), F::WrongType),
        ("/labels/team", long(201), F::TooLarge),
        ("/constraints", json!({}), F::WrongType),
        ("/constraints/0/max", json!(1), F::UnknownField),
        ("/constraints/2/max", json!(-1), F::OutOfRange),
        ("/constraints/3/require", long(2_049), F::TooLarge),
        ("/constraints/3/max", json!(1), F::UnknownField),
        ("/rollback", json!("automatic"), F::WrongType),
        ("/rollback/scope", json!("all"), F::UnknownValue),
        ("/rollback/steps", json!([]), F::Missing),
        ("/rollback/when", json!("now"), F::UnknownField),
        ("/steps", json!({}), F::WrongType),
        ("/steps", json!([]), F::Missing),
        ("/steps/0/connector", json!("telepathy"), F::UnknownConnector),
        ("/steps/0/compensation/connector", json!("telepathy"), F::UnknownConnector),
        ("/steps/0/compensation/undo", json!(1), F::UnknownField),
        ("/steps/0/action", json!("probe"), F::OutOfRange),
        ("/steps/0/action", json!(".x"), F::OutOfRange),
        ("/steps/0/action", long(201), F::OutOfRange),
        ("/steps/0/parameters", json!(null), F::WrongType),
        ("/steps/0/max_cost", json!(-5), F::OutOfRange),
        ("/steps/0/max_cost", json!(0.5), F::WrongType),
        ("/steps/0/timeout_ms", json!(0), F::OutOfRange),
        ("/steps/0/timeout_ms", json!(86_400_001), F::OutOfRange),
        ("/steps/0/not_before", json!("now"), F::OutOfRange),
        ("/steps/0/retry/max_attempts", json!(0), F::OutOfRange),
        ("/steps/0/retry/max_attempts", json!(101), F::OutOfRange),
        ("/steps/0/retry/initial_ms", json!(-1), F::OutOfRange),
        ("/steps/0/retry/max_ms", json!(86_400_001), F::OutOfRange),
        ("/steps/0/retry/within_ms", json!(0), F::OutOfRange),
        ("/steps/0/retry/within_ms", json!(2_592_000_001_i64), F::OutOfRange),
        ("/steps/0/retry/factor", json!(0.9), F::OutOfRange),
        ("/steps/0/retry/factor", json!(11), F::OutOfRange),
        ("/steps/0/retry/jitter", json!("full"), F::UnknownField),
        ("/steps/0/preconditions/0", json!("budgett.spent < 1"), F::BadPredicate),
        ("/steps/0/postconditions/1", json!("budget.spent + 1"), F::BadPredicate),
        ("/steps/0/postconditions", json!("budget.spent < 1"), F::WrongType),
        ("/steps/0/max_costs", json!(1), F::UnknownField),
        ("/steps/2/needs", json!("a"), F::WrongType),
        ("/steps/2/needs/1", json!("b"), F::Duplicate),
        ("/steps/2/needs/1", json!(1), F::WrongType),
    ];
    let valid = document("every-field.json");
    assert_eq!(faults(&valid), []);
    for (place, value, code) in cases {
        let mut found = faults(&edited(&valid, place, Some(value.clone())));
        // Without `a` among its needs, or with needs of another type, `c` may not take a result of `a` either.
        found.retain(|(pointer, _)| pointer != "/steps/2/parameters/$from");
        assert_eq!(found, [(place.to_owned(), code)], "{place} = {value}");
    }
}

#[test]
fn every_required_field_is_missed_at_its_own_place() {
    let valid = document("every-field.json");
    let required = [
        "/plan_id",
        "/plan_version",
        "/tenant",
        "/name",
        "/insight/id",
        "/insight/version",
        "/budget",
        "/budget/amount",
        "/budget/currency",
        "/constraints/0/id",
        "/constraints/0/enforcement",
        "/constraints/0/kind",
        "/constraints/2/parameter",
        "/constraints/3/require",
        "/rollback/steps",
        "/rollback/steps/0/key",
        "/rollback/steps/0/connector",
        "/rollback/steps/0/action",
        "/steps/0/connector",
        "/steps/0/action",
        "/steps/0/compensation/action",
    ];
    for place in required {
        assert_eq!(faults(&edited(&valid, place, None)), [(place.to_owned(), FaultCode::Missing)]);
    }
    let no_key = faults(&edited(&document("defaults.json"), "/steps/0/key", None));
    assert_eq!(no_key, [("/steps/0/key".to_owned(), FaultCode::Missing)]);
    let no_steps = faults(&edited(&document("defaults.json"), "/steps", None));
    assert_eq!(no_steps, [("/steps".to_owned(), FaultCode::Missing)]);
}

#[test]
fn a_step_has_one_way_back_or_says_that_it_has_none() {
    let plan = document("defaults.json");
    let both = edited(&plan, "/steps/0/irreversible", Some(json!(true)));
    assert_eq!(faults(&both), [("/steps/0".to_owned(), FaultCode::NoWayBack)]);
    let neither = edited(&plan, "/steps/1/irreversible", Some(json!(false)));
    assert_eq!(faults(&neither), [("/steps/1".to_owned(), FaultCode::NoWayBack)]);
    let neither = edited(&plan, "/steps/1/irreversible", None);
    assert_eq!(faults(&neither), [("/steps/1".to_owned(), FaultCode::NoWayBack)]);
    let unreadable = edited(&plan, "/steps/1/irreversible", Some(json!(1)));
    assert_eq!(faults(&unreadable), [("/steps/1/irreversible".to_owned(), FaultCode::WrongType)]);
}

#[test]
fn an_undo_by_the_reserved_action_is_refused_where_mux_would_take_it_for_a_probe() {
    let probe = Some(json!("probe"));
    let plan = document("defaults.json");
    let inherited = edited(&plan, "/steps/0/compensation/action", probe.clone());
    assert_eq!(faults(&inherited), [("/steps/0/compensation/action".to_owned(), FaultCode::OutOfRange)]);
    let elsewhere = edited(&inherited, "/steps/0/compensation/connector", Some(json!("echo")));
    assert_eq!(faults(&elsewhere), []);
}

#[test]
fn a_rollback_list_belongs_to_the_type_that_runs_it() {
    let plan = document("every-field.json");
    let at = |code| vec![("/rollback/steps".to_owned(), code)];
    assert_eq!(faults(&edited(&plan, "/rollback/type", Some(json!("manual")))), at(FaultCode::UnknownField));
    assert_eq!(faults(&edited(&plan, "/rollback/type", None)), at(FaultCode::UnknownField));
    let empty = json!({"type": "automatic", "steps": []});
    assert_eq!(faults(&edited(&plan, "/rollback", Some(empty))), []);
}

#[test]
fn the_report_counts_and_warns() {
    let plan = edited(&document("defaults.json"), "/steps/0/max_cost", Some(json!(100)));
    let plan = edited(&plan, "/steps/0/compensation/max_cost", Some(json!(20)));
    let report = checked(&plan).readiness;
    assert_eq!((report.steps, report.max_cost, report.reversible), (2, 120, 1));
    assert_eq!(report.irreversible, ["second"]);
    assert_eq!(report.warnings.len(), 1);
    assert!(report.warnings[0].contains("120 usd"), "{}", report.warnings[0]);
    assert!(report.warnings[0].ends_with("the budget is enforced as it runs"), "{}", report.warnings[0]);

    let within = edited(&plan, "/budget/amount", Some(json!(120)));
    assert_eq!(checked(&within).readiness.warnings, [""; 0]);

    let more = json!({"key": "third", "connector": "mux", "action": "x.do", "irreversible": true});
    let behind = edited(&within, "/steps/2", Some(more));
    let warnings = checked(&behind).readiness.warnings;
    assert_eq!(warnings, ["cannot be undone if a later step fails: second"]);
    let scoped = edited(&behind, "/rollback", Some(json!({"scope": "step"})));
    assert_eq!(checked(&scoped).readiness.warnings, [""; 0], "only the failed step is undone");
}
