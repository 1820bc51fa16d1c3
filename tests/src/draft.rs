//! Small plans, built up in a test.

use dat_plan::Entropy as _;
use dat_plan::clock::SeededEntropy;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// A new id.
#[must_use]
pub fn random_id() -> Uuid {
    SeededEntropy::from_os().id()
}

/// The same id for the same name, so that a plan document and the table about it agree.
#[must_use]
pub fn named_id(name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("https://dat.example/tests/{name}").as_bytes())
}

/// A plan document. It starts as version 1 of a new id, of tenant `acme`, with more budget than it needs.
#[derive(Debug, Clone)]
pub struct PlanDraft(Map<String, Value>);

impl PlanDraft {
    /// A plan without steps.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let Value::Object(document) = json!({
            "plan_id": random_id(), "plan_version": 1, "tenant": "acme", "name": name,
            "budget": {"amount": 1_000_000, "currency": "usd"}, "steps": [],
        }) else {
            unreachable!("an object was written")
        };
        Self(document)
    }

    /// A plan of so many steps in order, `s0`, `s1`, …, each of which costs 10 and can be undone with a refund of 10.
    #[must_use]
    pub fn in_order(name: &str, steps: usize) -> Self {
        (0..steps).fold(Self::new(name), |plan, n| plan.step(StepDraft::priced(&format!("s{n}"), 10)))
    }

    /// The same plan with another value of a field.
    #[must_use]
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0.insert(field.to_owned(), value.into());
        self
    }

    /// With a budget in `usd`.
    #[must_use]
    pub fn budget(self, amount: i64) -> Self {
        self.set("budget", json!({"amount": amount, "currency": "usd"}))
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.0.entry("labels").or_insert_with(|| json!({}))[name] = json!(value);
        self
    }

    /// With one more step.
    #[must_use]
    pub fn step(mut self, step: StepDraft) -> Self {
        if let Some(Value::Array(steps)) = self.0.get_mut("steps") {
            steps.push(Value::Object(step.0));
        }
        self
    }

    /// The document.
    #[must_use]
    pub fn document(self) -> Value {
        Value::Object(self.0)
    }
}

/// A step on the `mux` connector.
#[derive(Debug, Clone)]
pub struct StepDraft(Map<String, Value>);

impl StepDraft {
    /// A step that the sandbox answers as it is told, with nothing to undo afterwards.
    #[must_use]
    pub fn new(key: &str, sandbox: &Value) -> Self {
        let Value::Object(step) = json!({
            "key": key, "connector": "mux", "action": "test.act", "parameters": {"sandbox": sandbox},
            "max_cost": sandbox["cost"].as_i64().unwrap_or(0), "irreversible": true,
            "retry": {"initial_ms": 20, "max_ms": 100},
        }) else {
            unreachable!("an object was written")
        };
        Self(step)
    }

    /// A step that costs this much, and whose undo gives all of it back.
    #[must_use]
    pub fn priced(key: &str, cost: i64) -> Self {
        Self::new(key, &json!({"cost": cost})).undo(&json!({"refund": cost}))
    }

    /// The same step with an undo, `test.undo`, that the sandbox answers as it is told.
    #[must_use]
    pub fn undo(mut self, sandbox: &Value) -> Self {
        self.0.remove("irreversible");
        self.set("compensation", json!({"action": "test.undo", "parameters": {"sandbox": sandbox}}))
    }

    /// With other needs than the step before.
    #[must_use]
    pub fn needs(self, needs: &[&str]) -> Self {
        self.set("needs", json!(needs))
    }

    /// With another value of a field.
    #[must_use]
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0.insert(field.to_owned(), value.into());
        self
    }
}
