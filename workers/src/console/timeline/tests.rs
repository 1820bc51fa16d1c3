use chrono::TimeDelta;
use dat_plan::{PlanKey, PlanState};
use dat_store::PlanSummary;
use uuid::Uuid;

use super::*;

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::milliseconds(ms)
}

fn unit(kind: &str, index: i32, key: &str, state: StepState) -> StepView {
    StepView {
        kind: kind.to_owned(),
        index,
        key: key.to_owned(),
        connector: "mux".to_owned(),
        action: "act".to_owned(),
        state,
        waits_for: 0,
        attempts: 1,
        cost: 0,
        refund: 0,
        not_before: at(0),
        wait_reason: None,
        detail: None,
        worker: None,
        lease_until: None,
        result: None,
    }
}

fn attempt(kind: &str, index: i32, started: i64, ended: Option<i64>) -> AttemptView {
    AttemptView {
        kind: kind.to_owned(),
        index,
        attempt: 1,
        worker: "w".to_owned(),
        idempotency_key: "k".to_owned(),
        started_at: at(started),
        send_before: None,
        ended_at: ended.map(at),
        outcome: ended.map(|_| "ok".to_owned()),
        detail: None,
        progress: None,
        progress_at: None,
    }
}

fn view(steps: Vec<StepView>, attempts: Vec<AttemptView>) -> PlanView {
    let summary = PlanSummary {
        plan: PlanKey::new(Uuid::from_u128(1), 1),
        tenant: "acme".to_owned(),
        name: "p".to_owned(),
        state: PlanState::Executing,
        steps_done: 0,
        steps_total: 3,
        spent: 0,
        reserved: 0,
        limit: 0,
        currency: "usd".to_owned(),
        reason: None,
        progress: None,
        sequence: 1,
        state_since: at(0),
    };
    PlanView {
        summary,
        plan_hash: String::new(),
        approval_decision: None,
        approval_expires_at: None,
        submitter: None,
        supersedes: None,
        superseded_by: Vec::new(),
        registered_at: at(0),
        steps,
        attempts,
    }
}

/// Whole numbers, so that they can be compared.
fn whole(number: f64) -> i64 {
    assert!(number.fract().abs() < f64::EPSILON, "{number}");
    format!("{number:.0}").parse().expect("a number")
}

#[test]
fn bars_stand_where_their_time_is_and_rows_in_the_order_in_which_they_began() {
    let steps = vec![
        unit("action", 0, "late", StepState::Running),
        unit("action", 1, "early", StepState::Completed),
        unit("action", 2, "never", StepState::Pending),
        unit("undo", 1, "early", StepState::Completed),
    ];
    let attempts = vec![
        attempt("action", 1, 1_000, Some(1_500)),
        attempt("action", 0, 1_500, None),
        attempt("undo", 1, 1_750, Some(1_750)),
    ];
    let timeline = Timeline::of(&view(steps, attempts), &[vec![1], vec![], vec![0]], at(2_000));
    let rows: Vec<(&str, bool)> = timeline.rows.iter().map(|row| (row.key.as_str(), row.is_undo)).collect();
    assert_eq!(rows, [("early", false), ("late", false), ("early", true), ("never", false)]);
    let bars = |row: &Row| row.bars.iter().map(|bar| (whole(bar.x), whole(bar.width))).collect::<Vec<_>>();
    let bars: Vec<Vec<(i64, i64)>> = timeline.rows.iter().map(bars).collect();
    assert_eq!(bars, [vec![(0, 500)], vec![(500, 500)], vec![(750, 2)], vec![]]);
    assert_eq!((timeline.from, timeline.to, whole(timeline.height())), (at(1_000), at(2_000), 72));
    // From the end of the one to the beginning of the other; what has not begun has none.
    let arrows: Vec<[i64; 4]> = timeline.arrows.iter().map(|arrow| arrow.map(whole)).collect();
    assert_eq!(arrows, [[500, 9, 500, 27]]);
}

#[test]
fn a_plan_that_has_not_begun_has_rows_and_no_bars() {
    let steps = vec![unit("action", 0, "a", StepState::Pending)];
    let timeline = Timeline::of(&view(steps, Vec::new()), &[vec![]], at(5));
    assert_eq!((timeline.rows.len(), timeline.rows[0].bars.len(), timeline.arrows.len()), (1, 0, 0));
}
