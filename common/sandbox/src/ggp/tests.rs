//! What GGP says to packages and to people.

use serde_json::json;
use uuid::Uuid;

use super::*;

fn package(labels: &Value) -> ApprovalPackage {
    let plan = json!({"plan_id": Uuid::max(), "plan_version": 3, "tenant": "acme",
                      "budget": {"amount": 500, "currency": "usd"}, "labels": labels});
    let plan_hash = PlanHash::of(&plan).expect("canonical").0;
    serde_json::from_value(json!({
        "plan_id": Uuid::max(), "plan_version": 3, "tenant": "acme", "plan_hash": plan_hash,
        "constraint_set_hash": PlanHash::of(&json!([])).expect("canonical"), "plan": plan,
        "readiness": {"steps": 1, "max_cost": 5, "reversible": 1, "irreversible": [], "warnings": []}
    }))
    .expect("a package")
}

fn held(package: ApprovalPackage) -> Package {
    Package::asked("e".to_owned(), None, package)
}

fn told(outcome: Outcome) -> Decision {
    Decision {
        plan_id: Uuid::max(),
        plan_version: 3,
        outcome,
        reason: Some("because".to_owned()),
        budget: Some(Amount { amount: 7, currency: Currency("usd".to_owned()) }),
        constraints: None,
        expires_at: None,
        wait_ms: 0,
    }
}

#[test]
fn the_mode_decides_and_a_label_overrides_it() {
    let outcome = |labels, mode| judge(&package(&labels), mode).map(|verdict| verdict.outcome);
    assert_eq!(outcome(json!({}), GgpMode::Approve), Some(Outcome::Approved));
    assert_eq!(outcome(json!({}), GgpMode::Reject), Some(Outcome::Rejected));
    assert_eq!(outcome(json!({}), GgpMode::Wait), None);
    assert_eq!(outcome(json!({"sandbox.ggp": "approve"}), GgpMode::Reject), Some(Outcome::Approved));
    assert_eq!(outcome(json!({"sandbox.ggp": "reject"}), GgpMode::Approve), Some(Outcome::Rejected));
    assert_eq!(outcome(json!({"sandbox.ggp": "wait"}), GgpMode::Approve), None);
    assert_eq!(outcome(json!({"sandbox.ggp": "maybe"}), GgpMode::Approve), Some(Outcome::Rejected));
}

#[test]
fn a_label_gives_a_tighter_budget() {
    let approved = judge(&package(&json!({"sandbox.budget": "120"})), GgpMode::Approve).expect("judged");
    assert_eq!(approved.budget, Some(Amount { amount: 120, currency: Currency("usd".to_owned()) }));
    let vague = judge(&package(&json!({"sandbox.budget": "some"})), GgpMode::Approve).expect("judged");
    assert_eq!(vague.outcome, Outcome::Rejected);
}

#[test]
fn the_same_package_gets_the_same_verdict() {
    let asked = package(&json!({}));
    assert_eq!(judge(&asked, GgpMode::Approve), judge(&asked, GgpMode::Approve));
}

#[test]
fn a_plan_of_another_hash_is_not_approved() {
    let mut forged = package(&json!({}));
    forged.plan["budget"]["amount"] = json!(501);
    let verdict = judge(&forged, GgpMode::Approve).expect("judged");
    assert_eq!(verdict.outcome, Outcome::Rejected);
    assert_eq!(verdict.plan_hash.0, forged.plan_hash);
    assert!(verdict.reason.is_some_and(|why| why.contains("hash")));
    let refused = decide(&held(forged.clone()), &told(Outcome::Approved));
    assert!(matches!(refused, Err(Objection::OtherHash { .. })));
    assert!(decide(&held(forged), &told(Outcome::Revoked)).is_ok());
}

#[test]
fn a_package_about_another_plan_is_not_approved() {
    let mut swapped = package(&json!({}));
    swapped.plan_version = 4;
    assert!(matches!(sound(&swapped), Err(Objection::OtherPlan { .. })));
    assert_eq!(judge(&swapped, GgpMode::Approve).map(|v| v.outcome), Some(Outcome::Rejected));
}

#[test]
fn what_was_decided_once_stands() {
    let mut package = held(package(&json!({"sandbox.ggp": "wait"})));
    let first = decide(&package, &told(Outcome::Approved)).expect("decided");
    assert_eq!(first.budget.as_ref().map(|budget| budget.amount), Some(7));
    package.verdicts.push(first.clone());
    let wider = Decision { budget: None, ..told(Outcome::Approved) };
    assert_eq!(decide(&package, &wider), Ok(first.clone()));
    let revoked = decide(&package, &told(Outcome::Revoked)).expect("decided");
    assert_ne!(revoked.decision_id, first.decision_id);
}

#[test]
fn a_package_whose_rules_are_not_those_that_it_names_is_not_approved() {
    let document = json!({"format": 1, "constraints": []});
    let hash = PlanHash::of(&document).expect("canonical");
    let head = json!({"scope": "fleet", "version": 1, "hash": hash});
    let mut shown = package(&json!({}));
    shown.constraint_set_hash = PlanHash::of(&json!([head])).expect("canonical").0;
    let mut set = head;
    set["document"] = document;
    shown.constraint_sets = vec![serde_json::from_value(set).expect("a set")];
    assert_eq!(sound(&shown), Ok(()));
    let mut altered = shown.clone();
    altered.constraint_sets[0].document["constraints"] = json!([1]);
    assert!(matches!(sound(&altered), Err(Objection::OtherRules(_))));
    let mut hidden = shown;
    hidden.constraint_sets.clear();
    assert!(matches!(sound(&hidden), Err(Objection::OtherRules(_))));
}
