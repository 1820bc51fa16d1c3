//! What a plan changes against an earlier version of it: a structural diff, for whoever approves it.
//!
//! Steps are compared by their keys, not their places; defaults are filled in and what a step needs is spelt out first,
//! so that what means the same is no change. Places within a step are RFC 6901 pointers from that step on.
//!
//! **Owns** that comparison, and its bounds. **May be called** by whoever makes an approval package. **Must never**
//! judge a change.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::document::PlanDocument;
use crate::hash::PlanHash;

/// The most changes, and the most steps added and removed, that are spelt out; of more only the number is told.
pub const SPELT_OUT: usize = 1_000;
/// The largest value that is spelt out, in bytes of JSON; of a larger one the hash is told.
pub const VALUE_BYTES: usize = 1_024;

/// What a plan changes against an earlier version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Which version it is compared with.
    pub since_version: i32,
    /// That version's hash.
    pub since_hash: String,
    /// Keys of steps that are new, in the plan's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps_added: Vec<String>,
    /// Keys of steps that are gone, in the earlier version's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps_removed: Vec<String>,
    /// What is otherwise in steps that both have, in the plan's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps_changed: Vec<StepRevision>,
    /// What is otherwise in the budget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budget: Vec<Change>,
    /// What is otherwise in the plan's own constraints, by their ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Change>,
    /// What is otherwise in how the plan is unwound, its steps' own compensations apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rollback: Vec<Change>,
    /// Whatever else is otherwise: name, deadline, priority, mode, labels, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other: Vec<Change>,
    /// How many changes there are besides those spelt out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
}

/// What is otherwise in one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRevision {
    /// The step's key.
    pub step: String,
    /// What is otherwise.
    pub changes: Vec<Change>,
}

/// One value that is otherwise. Absent where there is none; `{"sha256": …, "bytes": …}` where it is too large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// RFC 6901 pointer: from the step on, else from the plan on.
    pub pointer: String,
    /// What it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl Revision {
    /// Compares a plan with an earlier version of it, whose hash is given.
    #[must_use]
    pub fn between(earlier: &PlanDocument, earlier_hash: &PlanHash, plan: &PlanDocument) -> Self {
        let mut room = Room { left: SPELT_OUT, more: 0 };
        let (before, after) = (steps(earlier), steps(plan));
        let places = |steps: &[(String, Value)]| -> BTreeMap<String, usize> {
            steps.iter().enumerate().map(|(place, (key, _))| (key.clone(), place)).collect()
        };
        let (old, new) = (places(&before), places(&after));
        let mut steps_changed = Vec::new();
        for (key, step) in &after {
            let Some(earlier) = old.get(key).map(|place| &before[*place].1) else { continue };
            let mut changes = Vec::new();
            compare("", Some(earlier), Some(step), &mut changes, &mut room);
            if !changes.is_empty() {
                steps_changed.push(StepRevision { step: key.clone(), changes });
            }
        }
        let lacking = |steps: &[(String, Value)], in_other: &BTreeMap<String, usize>, room: &mut Room| {
            let keys = steps.iter().map(|(key, _)| key).filter(|key| !in_other.contains_key(*key));
            keys.filter(|_| room.take()).cloned().collect::<Vec<_>>()
        };
        let (steps_added, steps_removed) =
            (lacking(&after, &old, &mut room), lacking(&before, &new, &mut room));
        let (before, after) = (rest(earlier), rest(plan));
        let mut of = |names: &[&str]| {
            let mut changes = Vec::new();
            for name in names {
                let pointer = format!("/{}", escaped(name));
                compare(&pointer, before.get(*name), after.get(*name), &mut changes, &mut room);
            }
            changes
        };
        let (budget, constraints, rollback) = (of(&["budget"]), of(&["constraints"]), of(&["rollback"]));
        let mut others: Vec<&str> = before.keys().chain(after.keys()).map(String::as_str).collect();
        others.retain(|name| !matches!(*name, "budget" | "constraints" | "rollback"));
        others.sort_unstable();
        others.dedup();
        let other = of(&others);
        Self {
            since_version: earlier.plan_version,
            since_hash: earlier_hash.to_string(),
            steps_added,
            steps_removed,
            steps_changed,
            budget,
            constraints,
            rollback,
            other,
            more: room.more,
        }
    }

    /// Whether the two versions mean the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.more == 0
            && self.steps_added.is_empty()
            && self.steps_removed.is_empty()
            && self.steps_changed.is_empty()
            && [&self.budget, &self.constraints, &self.rollback, &self.other].iter().all(|c| c.is_empty())
    }
}

/// How much may still be spelt out, and how much was not.
struct Room {
    left: usize,
    more: usize,
}

impl Room {
    fn take(&mut self) -> bool {
        if self.left == 0 {
            self.more += 1;
            return false;
        }
        self.left -= 1;
        true
    }
}

/// The steps with their keys, what each needs spelt out.
fn steps(document: &PlanDocument) -> Vec<(String, Value)> {
    let mut before: Option<&str> = None;
    let mut steps = Vec::with_capacity(document.steps.len());
    for step in &document.steps {
        let mut value = json!(step);
        if step.needs.is_none() {
            value["needs"] = json!(before.into_iter().collect::<Vec<_>>());
        }
        before = Some(step.key.as_str());
        steps.push((step.key.0.clone(), value));
    }
    steps
}

/// Everything but the steps and what names the version; constraints by their ids.
fn rest(document: &PlanDocument) -> Map<String, Value> {
    let Value::Object(mut rest) = json!(document) else { return Map::new() };
    for name in ["steps", "plan_id", "plan_version", "tenant"] {
        rest.remove(name);
    }
    let by_id: Map<String, Value> =
        document.constraints.iter().map(|one| (one.id.clone(), json!(one))).collect();
    rest.insert("constraints".to_owned(), Value::Object(by_id));
    rest
}

/// A token of an RFC 6901 pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Compares two values; objects member by member, everything else as a whole.
fn compare(
    pointer: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    changes: &mut Vec<Change>,
    room: &mut Room,
) {
    match (before, after) {
        (before, after) if before == after => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let pointer = format!("{pointer}/{}", escaped(name));
                compare(&pointer, old.get(name), new.get(name), changes, room);
            }
        }
        (before, after) => {
            if room.take() {
                let (before, after) = (before.map(bounded), after.map(bounded));
                changes.push(Change { pointer: pointer.to_owned(), before, after });
            }
        }
    }
}

fn bounded(value: &Value) -> Value {
    let bytes = value.to_string().len();
    if bytes <= VALUE_BYTES {
        return whole(value);
    }
    let hash = PlanHash::of(value).map_or_else(|fault| fault.to_string(), |hash| hash.0);
    json!({"sha256": hash.trim_start_matches("sha256:"), "bytes": bytes})
}

/// A bound that is read as a fraction is shown as it was most likely written.
fn whole(value: &Value) -> Value {
    let number = value.as_f64().filter(|number| value.is_f64() && number.fract() == 0.0);
    match number.map(|number| format!("{number:.0}").parse::<i64>()) {
        Some(Ok(whole)) => json!(whole),
        _ => value.clone(),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(edit: impl Fn(&mut Value)) -> PlanDocument {
        let mut value = json!({
            "plan_id": uuid::Uuid::nil(), "plan_version": 1, "tenant": "acme", "name": "a test",
            "budget": {"amount": 100, "currency": "usd"},
            "constraints": [{"id": "n", "kind": "quantity", "enforcement": "hard", "parameter": "q", "max": 9}],
            "steps": [
                {"key": "a", "connector": "mux", "action": "x", "parameters": {"q": 1, "a/b": {"c": 2}},
                 "irreversible": true},
                {"key": "b", "connector": "mux", "action": "x", "compensation": {"action": "u"}},
                {"key": "c", "connector": "mux", "action": "x", "irreversible": true},
            ],
        });
        edit(&mut value);
        serde_json::from_value(value).expect("a plan")
    }

    fn revision(edit: impl Fn(&mut Value)) -> Revision {
        let hash = PlanHash(format!("sha256:{}", "0".repeat(64)));
        Revision::between(&plan(|_| ()), &hash, &plan(edit))
    }

    fn said(changes: &[Change]) -> Vec<String> {
        let text = |value: &Option<Value>| value.as_ref().map_or("-".to_owned(), ToString::to_string);
        changes.iter().map(|c| format!("{} {} {}", c.pointer, text(&c.before), text(&c.after))).collect()
    }

    #[test]
    fn what_means_the_same_is_no_change() {
        let same = revision(|plan| {
            plan["plan_version"] = json!(2);
            plan["priority"] = json!(4);
            plan["steps"][1]["needs"] = json!(["a"]);
            plan["steps"][0]["timeout_ms"] = json!(30_000);
        });
        assert!(same.is_empty(), "{same:?}");
        assert_eq!(same.since_version, 1);
    }

    #[test]
    fn steps_are_found_by_their_keys_with_the_place_and_both_values_of_each_change() {
        let changed = revision(|plan| {
            plan["steps"][0]["parameters"]["q"] = json!(2);
            plan["steps"][0]["parameters"]["a/b"] = json!({"d": 3});
            plan["steps"][1] = json!({"key": "d", "connector": "echo", "action": "y", "irreversible": true});
        });
        assert_eq!(
            (changed.steps_added.as_slice(), changed.steps_removed.as_slice()),
            (&["d".to_owned()][..], &["b".to_owned()][..])
        );
        let steps: Vec<_> =
            changed.steps_changed.iter().map(|step| (step.step.as_str(), said(&step.changes))).collect();
        let of = |changes: &[&str]| changes.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            steps,
            [
                ("a", of(&["/parameters/a~1b/c 2 -", "/parameters/a~1b/d - 3", "/parameters/q 1 2"])),
                ("c", of(&[r#"/needs ["b"] ["d"]"#])),
            ]
        );
    }

    #[test]
    fn budget_constraints_rollback_and_the_rest_are_told_apart() {
        let changed = revision(|plan| {
            plan["budget"]["amount"] = json!(200);
            plan["constraints"][0]["max"] = json!(10);
            plan["rollback"] = json!({"scope": "step"});
            plan["deadline"] = json!("2026-12-01T00:00:00Z");
            plan["labels"] = json!({"risk": "7"});
            plan["steps"][1]["compensation"]["max_cost"] = json!(5);
        });
        assert_eq!(said(&changed.budget), ["/budget/amount 100 200"]);
        assert_eq!(said(&changed.constraints), ["/constraints/n/max 9 10"]);
        assert_eq!(said(&changed.rollback), [r#"/rollback/scope "plan" "step""#]);
        assert_eq!(said(&changed.other), [r#"/deadline - "2026-12-01T00:00:00Z""#, r#"/labels/risk - "7""#]);
        assert_eq!(said(&changed.steps_changed[0].changes), ["/compensation/max_cost 0 5"]);
    }

    #[test]
    fn whatever_the_plan_what_is_spelt_out_is_bounded() {
        let changed = revision(|plan| {
            let step = |n: usize| json!({"key": format!("s{n}"), "connector": "mux", "action": "x", "irreversible": true});
            plan["steps"] = (0..10_000).map(step).collect();
            plan["name"] = json!("n".repeat(200));
            plan["insight"] = json!({"id": "i".repeat(200), "version": 1});
        });
        assert_eq!(changed.steps_added.len(), SPELT_OUT);
        assert!(changed.more > 9_000);
        let large = revision(|plan| plan["steps"][0]["parameters"]["q"] = json!("x".repeat(5_000)));
        let after = large.steps_changed[0].changes[0].after.clone().expect("it is there");
        assert_eq!(after["bytes"], json!(5_002));
        assert_eq!(after["sha256"].as_str().map(str::len), Some(64));
    }
}
