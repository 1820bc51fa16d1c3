//! Approvers' rules: what the sandbox GGP says of a package, without anybody or by how many.
//!
//! A file of rules, TOML or JSON. The first whose condition is true decides: a CEL expression over `request`, which is the
//! approval package (`package` is a reserved word of CEL).
//!
//! ```toml
//! [[rule]]
//! when = "request.cost.with_undos <= 10000 && request.rollback_coverage.uncovered == 0"
//! then = "approve"
//!
//! [[rule]]
//! when = "request.tenant == 'test'"
//! then = "reject"
//! reason = "not for real"
//!
//! [[rule]]
//! when = "true"
//! then = "people"
//! quorum = 2
//! ```
//!
//! No rule, no approval: what none is about is rejected. So is what one cannot be evaluated for: a condition that was
//! passed over might have been the one that says no. A field that may be absent is asked for by `has(request.submitter)`.
//!
//! **Owns** these rules. **May be called** by the sandbox GGP. **Must never** be what DAT decides by: DAT never approves.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use cel::common::ast::IdedExpr;
use cel::{Context, Env, Value};
use dat_plan::approval::ApprovalPackage;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// The longest condition, in bytes.
const CONDITION_BYTES: usize = 2_048;
/// The deepest nesting of brackets: the parser takes much stack for each.
const BRACKETS: u16 = 12;
/// The most people that a rule asks for.
const QUORUM: u32 = 100;

/// A file of rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleBook {
    /// The rules, the first that matches decides.
    pub rule: Vec<RuleSetting>,
}

/// One rule as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSetting {
    /// A CEL expression over `request`.
    pub when: String,
    /// What then.
    pub then: Then,
    /// Of `people`: how many, 1 to 100.
    #[serde(default)]
    pub quorum: Option<u32>,
    /// Of `approve` and `reject`: why, for people.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Approve it.
    Approve,
    /// Reject it.
    Reject,
    /// Ask for people.
    People,
}

/// Why a file of rules is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule}: {why}")]
pub struct BadRule {
    /// Which, from 1.
    pub rule: usize,
    /// Why.
    pub why: String,
}

/// What is said of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// Approved, perhaps with a reason.
    Approve(Option<String>),
    /// Rejected, with a reason.
    Reject(String),
    /// So many people are asked.
    People(u32),
}

/// Rules, ready to be asked.
#[derive(Clone)]
pub struct Rules {
    environment: Arc<Env>,
    rules: Arc<[(Arc<IdedExpr>, RuleSetting)]>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rules.iter().map(|(_, rule)| rule)).finish()
    }
}

impl Rules {
    /// Checks and compiles rules.
    pub fn compile(book: RuleBook) -> Result<Self, BadRule> {
        let environment = Arc::new(Env::stdlib().with_optional_support(false));
        let mut rules = Vec::with_capacity(book.rule.len());
        for (place, rule) in book.rule.into_iter().enumerate() {
            let bad = |why: String| BadRule { rule: place + 1, why };
            match (rule.then, rule.quorum) {
                (Then::People, Some(1..=QUORUM)) | (Then::Approve | Then::Reject, None) => {}
                (Then::People, _) => return Err(bad(format!("'people' needs a quorum of 1 to {QUORUM}"))),
                _ => return Err(bad("only 'people' has a quorum".to_owned())),
            }
            if rule.when.is_empty() || rule.when.len() > CONDITION_BYTES {
                return Err(bad(format!("its condition has 1 to {CONDITION_BYTES} bytes")));
            }
            let parser = environment.parser().max_recursion_depth(BRACKETS);
            let parsed = parser.parse_with_source_info(&rule.when);
            let (expression, _) = parsed.map_err(|errors| bad(format!("its condition: {errors}")))?;
            rules.push((Arc::new(expression), rule));
        }
        Ok(Self { environment, rules: rules.into() })
    }

    /// What the first rule that matches says.
    pub(crate) fn judge(&self, package: &ApprovalPackage) -> Ruling {
        let package = match serde_json::to_value(package) {
            Ok(package) => value(&package),
            Err(error) => return Ruling::Reject(format!("the package cannot be judged: {error}")),
        };
        let mut context = Context::with_env(Arc::clone(&self.environment));
        context.add_variable_from_value("request", package);
        for (place, (expression, rule)) in self.rules.iter().enumerate() {
            let place = place + 1;
            match Value::resolve(expression, &context) {
                Ok(Value::Bool(false)) => {}
                Ok(Value::Bool(true)) => {
                    return match rule.then {
                        Then::Approve => Ruling::Approve(rule.reason.clone()),
                        Then::Reject => {
                            Ruling::Reject(rule.reason.clone().unwrap_or_else(|| format!("by rule {place}")))
                        }
                        Then::People => Ruling::People(rule.quorum.unwrap_or(1)),
                    };
                }
                Ok(other) => {
                    let kind = other.type_of();
                    return Ruling::Reject(format!("rule {place} is {kind}, neither true nor false"));
                }
                Err(error) => return Ruling::Reject(format!("rule {place} cannot be evaluated: {error}")),
            }
        }
        Ruling::Reject("no rule is about it".to_owned())
    }
}

/// JSON as CEL sees it: a whole number is an int however large it could be, so that all of them compare.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => {
            number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap_or(f64::NAN)), Value::Int)
        }
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::List(Arc::new(items.iter().map(value).collect())),
        Json::Object(members) => {
            let members: HashMap<String, Value> =
                members.iter().map(|(name, member)| (name.clone(), value(member))).collect();
            Value::from(members)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn package(labels: &Json) -> ApprovalPackage {
        serde_json::from_value(json!({
            "plan_id": Uuid::max(), "plan_version": 3, "tenant": "acme", "plan_hash": "sha256:1",
            "constraint_set_hash": "sha256:2", "plan": {"labels": labels, "steps": [{"max_cost": 7}]},
            "cost": {"least": 0, "most": 7, "irreversible": 0, "with_undos": 9, "with_retries": 27},
            "readiness": {"steps": 1, "max_cost": 5, "reversible": 1, "irreversible": [], "warnings": []}
        }))
        .expect("a package")
    }

    fn rules(rules: &Json) -> Result<Rules, BadRule> {
        Rules::compile(serde_json::from_value(json!({"rule": rules})).expect("a book"))
    }

    fn ruling(written: &Json) -> Ruling {
        rules(written).expect("rules").judge(&package(&json!({"risk": "3"})))
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let people = json!({"when": "true", "then": "people", "quorum": 2});
        let cheap =
            |most: i64| json!({"when": format!("request.cost.with_undos <= {most}"), "then": "approve"});
        let no = json!({"when": "request.plan.labels.risk == '3' && request.plan.steps.exists(s, s.max_cost > 6)",
                        "then": "reject", "reason": "too much"});
        assert_eq!(ruling(&json!([cheap(9), no, people])), Ruling::Approve(None));
        assert_eq!(ruling(&json!([cheap(8), no, people])), Ruling::Reject("too much".to_owned()));
        assert_eq!(ruling(&json!([cheap(8), people, no])), Ruling::People(2));
    }

    #[test]
    fn what_no_rule_is_about_or_one_fails_for_is_rejected() {
        let fails = |when: &str| {
            let ruling =
                ruling(&json!([{"when": when, "then": "reject"}, {"when": "true", "then": "approve"}]));
            let Ruling::Reject(why) = ruling else { panic!("{when}: {ruling:?}") };
            why
        };
        assert!(
            fails("request.submitter == 'eve'").contains("cannot be evaluated"),
            "a field that is absent"
        );
        assert!(fails("nobody.knows").contains("cannot be evaluated"));
        assert!(fails("request.tenant").contains("neither true nor false"));
        let asked = json!([{"when": "has(request.submitter)", "then": "reject"}, {"when": "true", "then": "approve"}]);
        assert_eq!(ruling(&asked), Ruling::Approve(None));
        let none = json!([{"when": "false", "then": "approve"}]);
        assert_eq!(ruling(&none), Ruling::Reject("no rule is about it".to_owned()));
    }

    #[test]
    fn a_rule_that_can_never_be_followed_stops_the_start() {
        let why = |rule: Json| {
            let good = json!({"when": "true", "then": "approve"});
            let bad = rules(&json!([good, rule])).expect_err("it is no good");
            assert_eq!(bad.rule, 2);
            bad.why
        };
        assert!(why(json!({"when": "a &&", "then": "approve"})).contains("its condition"));
        assert!(why(json!({"when": "", "then": "approve"})).contains("bytes"));
        for quorum in [json!(null), json!(0), json!(101)] {
            assert!(why(json!({"when": "true", "then": "people", "quorum": quorum})).contains("quorum"));
        }
        assert!(why(json!({"when": "true", "then": "approve", "quorum": 2})).contains("only 'people'"));
        let deep = format!("{}1{} == 1", "(".repeat(40), ")".repeat(40));
        assert!(why(json!({"when": deep, "then": "approve"})).contains("its condition"));
    }
}
