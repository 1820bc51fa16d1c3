//! The approval package as a person reads it: what the plan does, what it costs, what can be undone, what binds it, what
//! else is spent, and what changed.

use dat_plan::PlanDocument;
use dat_plan::approval::{ApprovalPackage, BudgetSnapshot, ShownSet};
use dat_plan::coverage::{Coverage, Undo};
use dat_plan::revision::{Change, Revision};
use serde_json::Value;

use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::table::{maybe, number, table, text};

/// The longest value that is shown of a change, in characters; the package has all of it.
const VALUE_CHARS: usize = 60;

/// Shows a package and the document in it.
pub(super) fn show(package: &ApprovalPackage, document: &PlanDocument) -> Result<(), Failure> {
    let (budget, currency) = (&document.budget, &document.budget.currency);
    output::line(format_args!("plan      {} \"{}\"", document.key(), document.name))?;
    output::line(format_args!("tenant    {}", document.tenant))?;
    if let Some(submitter) = &package.submitter {
        output::line(format_args!("from      {submitter}"))?;
    }
    output::line(format_args!("hash      {}", package.plan_hash))?;
    let cost = package.cost.unwrap_or_else(|| document.cost_range());
    output::line(format_args!("budget    {} {currency}", budget.amount))?;
    output::line(format_args!(
        "cost      {} to {} {currency}, {} with every undo, {} with every retry; {} of it for good",
        cost.least, cost.most, cost.with_undos, cost.with_retries, cost.irreversible
    ))?;
    let coverage = package.rollback_coverage.clone().unwrap_or_else(|| Coverage::of(document));
    output::line(format_args!(
        "rollback  {}, scope {}: {} of {} steps can be undone, for {} {currency} at most",
        coverage.kind.as_str(),
        coverage.scope.as_str(),
        coverage.covered,
        coverage.steps.len(),
        coverage.max_cost
    ))?;
    for warning in &package.readiness.warnings {
        output::line(format_args!("warning   {warning}"))?;
    }
    steps(document, &coverage)?;
    rules(package, document)?;
    budgets(&package.budgets)?;
    package.changes.as_ref().map_or(Ok(()), changes)
}

fn steps(document: &PlanDocument, coverage: &Coverage) -> Result<(), Failure> {
    let mut steps = table(&["step", "action", "max cost", "undone by", "at most"]);
    for (step, covered) in document.steps.iter().zip(&coverage.steps) {
        let (by, cost) = match (&covered.undone_by, covered.irreversible) {
            (Some(undo), _) => (named(undo), undo.max_cost.to_string()),
            (None, true) => ("nothing: irreversible".to_owned(), String::new()),
            (None, false) if coverage.list.is_empty() => ("nothing".to_owned(), String::new()),
            (None, false) => ("the plan's own list".to_owned(), String::new()),
        };
        let action = format!("{}: {}", step.connector, step.action);
        steps.add_row([text(&step.key), text(action), number(step.max_cost), text(by), number(cost)]);
    }
    output::line(steps)?;
    if coverage.list.is_empty() {
        return Ok(());
    }
    let mut list = table(&["rollback step", "action", "at most"]);
    for undo in &coverage.list {
        list.add_row([maybe(undo.key.as_deref()), text(named(undo)), number(undo.max_cost)]);
    }
    output::line(list)
}

fn named(undo: &Undo) -> String {
    format!("{}: {}", undo.connector, undo.action)
}

/// The rules that bind it: its own, and the operators'.
fn rules(package: &ApprovalPackage, document: &PlanDocument) -> Result<(), Failure> {
    let own = document.constraints.iter().map(|rule| ("the plan".to_owned(), serde_json::json!(rule)));
    let of_set = |set: &ShownSet| {
        let whose =
            set.head.subject.as_ref().map_or("the fleet".to_owned(), |tenant| format!("tenant {tenant}"));
        let whose = format!("{whose}, version {}", set.head.version);
        let rules = set.document.get("constraints").and_then(Value::as_array).cloned().unwrap_or_default();
        rules.into_iter().map(move |rule| (whose.clone(), rule))
    };
    let all: Vec<(String, Value)> = own.chain(package.constraint_sets.iter().flat_map(of_set)).collect();
    output::line(format_args!("rules of operators  {}", package.constraint_set_hash))?;
    if all.is_empty() {
        return output::line("no constraints bind it");
    }
    let mut rules = table(&["rule", "of", "enforcement", "kind", "says"]);
    for (whose, mut rule) in all {
        let mut take = |name: &str| {
            let taken = rule.as_object_mut().and_then(|rule| rule.remove(name));
            taken.and_then(|value| value.as_str().map(ToOwned::to_owned)).unwrap_or_default()
        };
        let (id, enforcement, kind) = (take("id"), take("enforcement"), take("kind"));
        rules.add_row([text(id), text(whose), text(enforcement), text(kind), text(short(&rule))]);
    }
    output::line(rules)
}

fn budgets(budgets: &[BudgetSnapshot]) -> Result<(), Failure> {
    if budgets.is_empty() {
        return output::line("no limit of the tenant's is set");
    }
    let mut table =
        table(&["tenant's", "since", "limit", "spent", "reserved", "this plan at most", "then left"]);
    for one in budgets {
        let left = one.limit - one.settled - one.reserved - one.adds;
        table.add_row([
            text(format_args!("{} ({})", one.period, one.currency)),
            text(one.since),
            number(one.limit),
            number(one.settled),
            number(one.reserved),
            number(one.adds),
            number(left),
        ]);
    }
    output::line(table)
}

fn changes(changes: &Revision) -> Result<(), Failure> {
    let since = changes.since_version;
    if changes.is_empty() {
        return output::line(format_args!("it means the same as version {since}, which was approved"));
    }
    output::line(format_args!("changed since version {since}, which was approved:"))?;
    let mut table = table(&["where", "what", "before", "after"]);
    for (keys, before, after) in
        [(&changes.steps_added, "", "added"), (&changes.steps_removed, "removed", "")]
    {
        for key in keys {
            table.add_row([text(format_args!("step {key}")), text(""), text(before), text(after)]);
        }
    }
    let parts = [
        ("budget", &changes.budget),
        ("constraints", &changes.constraints),
        ("rollback", &changes.rollback),
        ("plan", &changes.other),
    ];
    let of_steps = changes.steps_changed.iter().map(|step| (format!("step {}", step.step), &step.changes));
    let of_plan = parts.into_iter().map(|(name, changes)| (name.to_owned(), changes));
    for (part, changes) in of_steps.chain(of_plan) {
        for Change { pointer, before, after } in changes {
            let shown = |value: &Option<Value>| value.as_ref().map_or_else(String::new, short);
            table.add_row([text(&part), text(pointer), text(shown(before)), text(shown(after))]);
        }
    }
    output::line(table)?;
    if changes.more > 0 {
        output::line(format_args!("and {} more", changes.more))?;
    }
    Ok(())
}

/// A value, cut where it is long.
fn short(value: &Value) -> String {
    let whole = value.to_string();
    match whole.char_indices().nth(VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}
