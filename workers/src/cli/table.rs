//! Tables for people; in colour where a terminal shows them.

use comfy_table::{Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Row, Table, presets};
use dat_plan::{PlanState, StepState};

use crate::cli::doctor::State;

/// A table with these columns and no rows yet.
pub(crate) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(Row::from(columns.iter().map(Cell::new).collect::<Vec<_>>()));
    // What names the row stays in one piece, to be copied.
    if let Some(name) = table.column_mut(0) {
        name.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

/// A text.
pub(crate) fn text(content: impl ToString) -> Cell {
    Cell::new(content)
}

/// A text, where there is one.
pub(crate) fn maybe(content: Option<&str>) -> Cell {
    Cell::new(content.unwrap_or_default())
}

/// A number: its digits stand under each other.
pub(crate) fn number(content: impl ToString) -> Cell {
    Cell::new(content).set_alignment(CellAlignment::Right)
}

/// A plan's state.
pub(crate) fn plan_state(state: PlanState) -> Cell {
    Cell::new(state).fg(match state {
        PlanState::Completed => Color::Green,
        PlanState::Executing => Color::Cyan,
        PlanState::Paused | PlanState::RollingBack => Color::Yellow,
        PlanState::Rejected | PlanState::Aborted | PlanState::Stuck => Color::Red,
        PlanState::Draft
        | PlanState::SubmittedForApproval
        | PlanState::Approved
        | PlanState::Staged
        | PlanState::Archived => Color::Reset,
    })
}

/// How well something is.
pub(crate) fn health(state: State) -> Cell {
    match state {
        State::Well => Cell::new("well").fg(Color::Green),
        State::Warning => Cell::new("warning").fg(Color::Yellow),
        State::Fails => Cell::new("fails").fg(Color::Red),
    }
}

/// A step's state.
pub(crate) fn step_state(state: StepState) -> Cell {
    Cell::new(state).fg(match state {
        StepState::Completed => Color::Green,
        StepState::Running => Color::Cyan,
        StepState::Unknown | StepState::Compensating | StepState::RolledBack => Color::Yellow,
        StepState::Failed | StepState::Stuck => Color::Red,
        StepState::Pending | StepState::Ready | StepState::Skipped => Color::Reset,
    })
}
