//! A plan's way as bars over time: where each step and undo stands on the page, and what leads to what. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dat_plan::StepState;
use dat_store::{AttemptView, PlanView, StepView};

/// The width of the time axis, and the height of a row, in the units of the picture.
pub(super) const WIDTH: f64 = 1_000.0;
pub(super) const ROW: f64 = 18.0;
/// The narrowest bar: what took no time is seen, too.
const NARROWEST: f64 = 2.0;

/// The picture.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) rows: Vec<Row>,
    /// From the end of a step to the beginning of one that needs it: x and y of both.
    pub(super) arrows: Vec<[f64; 4]>,
    /// When the axis begins, and when it ends.
    pub(super) from: DateTime<Utc>,
    pub(super) to: DateTime<Utc>,
}

/// A step or an undo.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) key: String,
    pub(super) is_undo: bool,
    pub(super) state: StepState,
    pub(super) y: f64,
    pub(super) bars: Vec<Bar>,
    /// What is said of it when it is pointed at.
    pub(super) about: String,
}

/// An attempt.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) x: f64,
    pub(super) width: f64,
    pub(super) outcome: String,
    pub(super) about: String,
}

impl Timeline {
    /// Rows in the order in which they began; those that have not stand last, in the order of the document. `needs` is
    /// what each step needs, by index.
    pub(super) fn of(view: &PlanView, needs: &[Vec<usize>], now: DateTime<Utc>) -> Self {
        let mut attempts: BTreeMap<(&str, i32), Vec<&AttemptView>> = BTreeMap::new();
        for attempt in &view.attempts {
            attempts.entry((attempt.kind.as_str(), attempt.index)).or_default().push(attempt);
        }
        let starts = view.attempts.iter().map(|attempt| attempt.started_at);
        let ends = view.attempts.iter().map(|attempt| attempt.ended_at.unwrap_or(now));
        let from = starts.min().unwrap_or(view.registered_at);
        let to = ends.max().unwrap_or(now).max(from);
        let span = millis(to - from).max(1.0);
        let place = |moment: DateTime<Utc>| millis(moment - from) / span * WIDTH;

        let mut units: Vec<&StepView> = view.steps.iter().collect();
        let began = |unit: &StepView| {
            attempts.get(&(unit.kind.as_str(), unit.index)).and_then(|of| Some(of.first()?.started_at))
        };
        units.sort_by_key(|unit| (began(unit).is_none(), began(unit), unit.kind != "action", unit.index));
        let mut y = 0.0;
        let rows: Vec<(&StepView, Row)> = units
            .into_iter()
            .map(|unit| {
                let tried = attempts.get(&(unit.kind.as_str(), unit.index)).map_or(&[][..], Vec::as_slice);
                let bars = tried.iter().map(|attempt| bar(attempt, now, &place)).collect();
                let row = Row {
                    key: unit.key.clone(),
                    is_undo: unit.kind != "action",
                    state: unit.state,
                    y,
                    bars,
                    about: about(unit),
                };
                y += ROW;
                (unit, row)
            })
            .collect();
        let arrows = arrows(&rows, needs);
        Self { rows: rows.into_iter().map(|(_, row)| row).collect(), arrows, from, to }
    }

    /// Its height.
    pub(super) fn height(&self) -> f64 {
        self.rows.last().map_or(ROW, |row| row.y + ROW)
    }
}

fn bar(attempt: &AttemptView, now: DateTime<Utc>, place: &impl Fn(DateTime<Utc>) -> f64) -> Bar {
    let (x, end) = (place(attempt.started_at), place(attempt.ended_at.unwrap_or(now)));
    let outcome = attempt.outcome.clone().unwrap_or_else(|| "running".to_owned());
    let took = (attempt.ended_at.unwrap_or(now) - attempt.started_at).num_milliseconds();
    let detail = attempt.detail.as_deref().map_or(String::new(), |detail| format!(": {detail}"));
    let about = format!("attempt {} by {}, {took} ms, {outcome}{detail}", attempt.attempt, attempt.worker);
    Bar { x: x.min(WIDTH - NARROWEST), width: (end - x).max(NARROWEST), outcome, about }
}

fn about(unit: &StepView) -> String {
    let reason = unit.wait_reason.as_deref().or(unit.detail.as_deref());
    let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
    format!("{} {} ({}), {}{reason}", unit.connector, unit.action, unit.key, unit.state)
}

/// From each step that has ended to those that need it and have begun.
fn arrows(rows: &[(&StepView, Row)], needs: &[Vec<usize>]) -> Vec<[f64; 4]> {
    let actions: BTreeMap<usize, &Row> = rows
        .iter()
        .filter(|(unit, _)| unit.kind == "action")
        .filter_map(|(unit, row)| Some((usize::try_from(unit.index).ok()?, row)))
        .collect();
    let mut arrows = Vec::new();
    for (index, row) in &actions {
        for need in needs.get(*index).into_iter().flatten() {
            let ended = actions.get(need).and_then(|row| Some((row.bars.last()?, row.y)));
            if let (Some((last, y)), Some(first)) = (ended, row.bars.first()) {
                arrows.push([last.x + last.width, y + ROW / 2.0, first.x, row.y + ROW / 2.0]);
            }
        }
    }
    arrows
}

#[expect(clippy::cast_precision_loss, reason = "a span in milliseconds is far below 2^52")]
fn millis(span: chrono::TimeDelta) -> f64 {
    span.num_milliseconds() as f64
}

#[cfg(test)]
mod tests;
