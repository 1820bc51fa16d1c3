//! The plans of the demo, and the end that each must have.

use dat_plan::PlanState;
use serde_json::Value;

/// One plan.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// The document's file, in `tests/plans`.
    pub(crate) file: &'static str,
    /// What happens, in a few words.
    pub(crate) story: &'static str,
    /// How it must end.
    pub(crate) end: PlanState,
    /// What it must have spent, net of refunds; nothing where the document does not fix it.
    pub(crate) spent: Option<i64>,
    body: &'static str,
}

macro_rules! scenario {
    ($file:literal, $end:ident, $spent:expr, $story:literal) => {
        Scenario {
            file: $file,
            story: $story,
            end: PlanState::$end,
            spent: $spent,
            body: include_str!(concat!("../plans/", $file)),
        }
    };
}

impl Scenario {
    /// Every plan of the demo.
    pub(crate) fn all() -> Vec<Self> {
        vec![
            scenario!("launch-accessory-ok.json", Completed, Some(420_000), "goes through, with one warning"),
            scenario!("launch-accessory.json", Aborted, Some(20_000), "the promotion gets no answer: undone"),
            scenario!(
                "runs-out-of-budget.json",
                Aborted,
                Some(0),
                "the third order does not fit: all refunded"
            ),
            scenario!(
                "agent-research.json",
                Completed,
                Some(15_636),
                "tokens; the report works at the third try"
            ),
            scenario!("reprice-catalog.json", Completed, Some(4_000), "40 steps side by side"),
            scenario!("dag.json", Completed, Some(865), "a graph of 17 steps, results passed on"),
            scenario!("rejected.json", Rejected, Some(0), "governance says no: nothing runs"),
        ]
    }

    /// The document.
    pub(crate) fn document(&self) -> Value {
        serde_json::from_str(self.body).unwrap_or_else(|error| panic!("{}: {error}", self.file))
    }
}
