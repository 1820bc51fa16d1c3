//! The readiness report: what an approver should know of a plan that passed the checks.

use crate::approval::Readiness;
use crate::document::{PlanDocument, RollbackKind, RollbackScope};
use crate::graph::Graph;

/// The most step keys that a warning names.
const NAMED: usize = 5;

/// Reports on a plan. Knows no clock: whether its deadline or windows have passed is found at admission.
pub(super) fn report(document: &PlanDocument, graph: &Graph) -> Readiness {
    let irreversible: Vec<String> =
        document.steps.iter().filter(|step| step.irreversible).map(|step| step.key.to_string()).collect();
    Readiness {
        steps: document.steps.len(),
        max_cost: document.max_cost(),
        reversible: document.steps.len() - irreversible.len(),
        warnings: [over_budget(document), no_way_back(document, graph)].into_iter().flatten().collect(),
        irreversible,
    }
}

fn over_budget(document: &PlanDocument) -> Option<String> {
    let budget = &document.budget;
    let cost = document.max_cost();
    (cost > budget.amount).then(|| {
        format!(
            "the steps and their undos may cost {cost} {currency} together, more than the {} {currency} of the \
             budget; the budget is enforced as it runs",
            budget.amount,
            currency = budget.currency,
        )
    })
}

/// Warns of steps that cannot be undone once a step behind them fails.
fn no_way_back(document: &PlanDocument, graph: &Graph) -> Option<String> {
    let rollback = &document.rollback;
    if rollback.scope == RollbackScope::Step || rollback.kind == RollbackKind::Compensating {
        return None;
    }
    let stays: Vec<&str> = document
        .steps
        .iter()
        .enumerate()
        .filter(|(index, step)| step.irreversible && !graph.successors(*index).is_empty())
        .map(|(_, step)| step.key.as_str())
        .collect();
    let named = stays.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    let more = stays.len().saturating_sub(NAMED);
    match (stays.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(format!("cannot be undone if a later step fails: {named}")),
        (false, _) => Some(format!("cannot be undone if a later step fails: {named} and {more} more")),
    }
}
