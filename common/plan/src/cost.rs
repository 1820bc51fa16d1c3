//! What a plan may cost, by its document alone: what a dry run tells, since it spends nothing that could be counted.

use serde::{Deserialize, Serialize};

use crate::amount::MAX;
use crate::document::PlanDocument;

/// What a plan may cost, in the smallest unit of its budget's currency; each 0 to 2^53 − 1 (more saturates).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostRange {
    /// At least: a `max_cost` is a bound, and what is done may cost nothing.
    pub least: i64,
    /// At most, if every step is tried once and none is undone.
    pub most: i64,
    /// Of that, what is spent on steps that cannot be undone.
    pub irreversible: i64,
    /// At most, if every step is tried once and then undone.
    pub with_undos: i64,
    /// At most, if every attempt that steps and undos may have is charged in full.
    pub with_retries: i64,
}

impl PlanDocument {
    /// What it may cost.
    #[must_use]
    pub fn cost_range(&self) -> CostRange {
        let sum = |amounts: &mut dyn Iterator<Item = i64>| {
            amounts.fold(0_i64, |sum, amount| sum.saturating_add(amount).min(MAX))
        };
        let tried = |amount: i64, times: u32| amount.saturating_mul(i64::from(times));
        CostRange {
            least: 0,
            most: sum(&mut self.steps.iter().map(|step| step.max_cost)),
            irreversible: sum(&mut self
                .steps
                .iter()
                .filter(|step| step.irreversible)
                .map(|step| step.max_cost)),
            with_undos: self.max_cost(),
            with_retries: sum(&mut self.steps.iter().map(|step| {
                let undo = step.compensation.as_ref();
                let undo = undo.map_or(0, |undo| tried(undo.max_cost, undo.retry.max_attempts));
                tried(step.max_cost, step.retry.max_attempts).saturating_add(undo)
            })),
        }
    }

    /// The keys of the steps that cannot be undone, in the order of the document.
    #[must_use]
    pub fn irreversible(&self) -> Vec<&str> {
        self.steps.iter().filter(|step| step.irreversible).map(|step| step.key.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(steps: &serde_json::Value) -> PlanDocument {
        serde_json::from_value(serde_json::json!({
            "plan_id": uuid::Uuid::nil(), "plan_version": 1, "tenant": "acme", "name": "a test",
            "budget": {"amount": 1, "currency": "usd"}, "steps": steps,
        }))
        .expect("a plan")
    }

    #[test]
    fn undos_retries_and_what_cannot_be_undone_are_told_apart() {
        let plan = plan(&serde_json::json!([
            {"key": "a", "connector": "mux", "action": "x", "max_cost": 10, "retry": {"max_attempts": 2},
             "compensation": {"action": "y", "max_cost": 1, "retry": {"max_attempts": 4}}},
            {"key": "b", "connector": "mux", "action": "x", "max_cost": 5, "irreversible": true,
             "retry": {"max_attempts": 1}},
        ]));
        let expected = CostRange { least: 0, most: 15, irreversible: 5, with_undos: 16, with_retries: 29 };
        assert_eq!(plan.cost_range(), expected);
        assert_eq!(plan.irreversible(), ["b"]);
    }

    #[test]
    fn a_sum_beyond_what_amounts_may_be_is_cut() {
        let step = serde_json::json!({"key": "a", "connector": "mux", "action": "x", "max_cost": MAX,
            "irreversible": true});
        let range = plan(&serde_json::json!([step, step])).cost_range();
        assert_eq!((range.most, range.with_retries), (MAX, MAX));
    }
}
