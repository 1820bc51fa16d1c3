//! Constraints: what must hold for a plan to act. Closed types, the same in a plan, in a verdict and in an operator's set.
//!
//! **Owns** the shapes that the published JSON Schemas are generated from, which steps a rule is about, and by what it
//! counts. **May be called** by every crate. **Must never** decide: that is the constraint engine's (`dat-guards`), over
//! recorded inputs; nor look at a clock.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::amount::Currency;

/// What must hold for the plan to act.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("unevaluatedProperties" = false))]
pub struct Constraint {
    /// Unique within its list; events name it, with `fleet/` or `tenant/` before it where an operator set it.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"))]
    pub id: String,
    /// `hard` stops, rolls back and aborts, or waits where waiting helps; `soft` warns, flags and goes on.
    pub enforcement: Enforcement,
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
}

/// What a violation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// Stop, roll back, abort.
    Hard,
    /// Continue, warn, flag.
    Soft,
}

/// The rules a constraint can be.
///
/// `connector` and `action` select the steps that a rule is about; absent, every one. `action` is a name, or its
/// beginning and a `*`. A rule counts over the whole of what its list is for (the plan, the tenant, the fleet) unless
/// `per` says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Rule {
    /// Nothing starts before or after; at least one of the two is given.
    TimeWindow {
        /// The first moment, inclusive.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<DateTime<Utc>>,
        /// The last moment, exclusive.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_after: Option<DateTime<Utc>>,
    },
    /// A numeric parameter of any step that has it stays within bounds; at least one bound is given.
    Quantity {
        /// The parameter's name, at the top level of a step's `parameters`.
        #[schemars(length(min = 1, max = 200))]
        parameter: String,
        /// The least, inclusive.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<f64>,
        /// The most, inclusive.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<f64>,
    },
    /// So many calls in so long: a schedule (GCRA). It delays and refuses nothing, so it is always `hard`.
    Rate {
        /// Which connector's steps.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connector: Option<String>,
        /// Which actions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        action: Option<String>,
        /// What has the rate for itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        per: Option<Per>,
        /// So many calls.
        #[schemars(range(min = 1, max = 1_000_000))]
        count: u32,
        /// In so many milliseconds, evenly.
        #[schemars(range(min = 1, max = 86_400_000))]
        period_ms: u64,
        /// So many at once after a quiet time.
        #[serde(default = "one")]
        #[schemars(range(min = 1, max = 1_000_000))]
        burst: u32,
    },
    /// At most so many attempts at once; one whose outcome is unknown counts until it is settled. Others wait.
    Concurrency {
        /// Which connector's steps.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connector: Option<String>,
        /// Which actions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        action: Option<String>,
        /// What is counted for itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        per: Option<Per>,
        /// Counted for itself by each value of this parameter, at the top level of a step's `parameters`; the rule is
        /// not about a step without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 200))]
        parameter: Option<String>,
        /// The most at once.
        #[schemars(range(min = 1, max = 1_000_000))]
        max: u32,
    },
    /// At most so much is spent in each calendar period, or ever. Counted from the rule's first use on. A step that
    /// does not fit waits; it is refused only where a plan's own `total` can never hold it.
    Spend {
        /// Which connector's steps.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connector: Option<String>,
        /// Which actions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        action: Option<String>,
        /// What has the amount for itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        per: Option<Per>,
        /// In how long.
        period: SpendPeriod,
        /// Of what; steps of plans in other currencies are not counted.
        currency: Currency,
        /// The most, in the currency's smallest unit.
        #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
        max: i64,
    },
    /// The score that the plan declares of itself, as a number in one of its labels, is at most so much. A plan that
    /// declares none violates it.
    Risk {
        /// The label.
        #[serde(default = "risk")]
        #[schemars(length(min = 1, max = 100))]
        label: String,
        /// The highest score that passes, inclusive.
        max: f64,
    },
    /// Only these connectors and actions are used, by steps and by their undos.
    Capability {
        /// What is allowed, 1 to 256 entries.
        #[schemars(length(min = 1, max = 256))]
        allow: Vec<Allowed>,
    },
    /// A CEL expression that must be true before each step.
    Predicate {
        /// The expression, over `now`, `plan`, `tenant`, `step`, `budget`, `results`.
        #[schemars(length(min = 1, max = 2048))]
        require: String,
    },
}

const fn one() -> u32 {
    1
}

fn risk() -> String {
    "risk".to_owned()
}

/// What is counted for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Each tenant.
    Tenant,
    /// Each plan, all its versions.
    Plan,
    /// Each connector.
    Connector,
    /// Each action.
    Action,
}

/// In how long an amount may be spent. Calendar periods are in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpendPeriod {
    /// A day.
    Day,
    /// A month.
    Month,
    /// A year.
    Year,
    /// Ever.
    Total,
}

impl SpendPeriod {
    /// The word of the contract and of rows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Year => "year",
            Self::Total => "total",
        }
    }
}

/// A connector and those of its actions that may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// The connector.
    #[schemars(length(min = 1, max = 100))]
    pub connector: String,
    /// Its actions: names, or beginnings and a `*`. Absent, every one.
    #[serde(default = "any_action")]
    #[schemars(length(min = 1, max = 256))]
    pub actions: Vec<String>,
}

fn any_action() -> Vec<String> {
    vec!["*".to_owned()]
}

/// Whether an action is the one that is named, or begins as is written before a `*`.
#[must_use]
pub fn is_action(pattern: &str, action: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == action, |beginning| action.starts_with(beginning))
}

impl Rule {
    /// Whether the rule is about a step of this connector and action.
    #[must_use]
    pub fn selects(&self, connector: &str, action: &str) -> bool {
        match self {
            Self::Rate { connector: c, action: a, .. }
            | Self::Concurrency { connector: c, action: a, .. }
            | Self::Spend { connector: c, action: a, .. } => {
                c.as_deref().is_none_or(|wanted| wanted == connector)
                    && a.as_deref().is_none_or(|wanted| is_action(wanted, action))
            }
            _ => true,
        }
    }
}

/// What an operator registers: an immutable version of the rules for the fleet, or for one tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConstraintDocument {
    /// The format of this document: 1.
    #[schemars(range(min = 1, max = 1))]
    pub format: u32,
    /// The rules; none takes all of an earlier version back.
    #[schemars(length(max = 256))]
    pub constraints: Vec<Constraint>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(value: serde_json::Value) -> Rule {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_rule_is_about_the_steps_that_it_selects() {
        let rate = |fields: serde_json::Value| {
            let mut value = json!({"kind": "rate", "count": 1, "period_ms": 1000});
            value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            rule(value)
        };
        assert!(rate(json!({})).selects("mux", "ads.enable"));
        assert!(rate(json!({"connector": "mux", "action": "ads.*"})).selects("mux", "ads.enable"));
        assert!(!rate(json!({"connector": "mux", "action": "ads.*"})).selects("echo", "ads.enable"));
        assert!(!rate(json!({"action": "ads.*"})).selects("mux", "listing.create"));
        assert!(rate(json!({"action": "ads.enable"})).selects("mux", "ads.enable"));
        assert!(!rate(json!({"action": "ads.enable"})).selects("mux", "ads.enable.all"));
    }

    #[test]
    fn what_is_left_out_has_the_written_default() {
        let Rule::Rate { burst, per, .. } = rule(json!({"kind": "rate", "count": 5, "period_ms": 10})) else {
            panic!("a rate")
        };
        assert_eq!((burst, per), (1, None));
        assert_eq!(
            rule(json!({"kind": "risk", "max": 0.5})),
            Rule::Risk { label: "risk".to_owned(), max: 0.5 }
        );
        let Rule::Capability { allow } = rule(json!({"kind": "capability", "allow": [{"connector": "mux"}]}))
        else {
            panic!("a capability")
        };
        assert_eq!(allow[0].actions, ["*"]);
    }
}
