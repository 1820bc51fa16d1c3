//! Approvals: what ran is what was approved, by whom the keys believe, while it was.
//!
//! **Owns** the comparison of a plan's document, row and verdicts with each other and with what its log tells. **May be
//! called** by the audit, for one plan at a time. **Must never** decide anything, or write.

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use dat_plan::approval::{Outcome, Verdict};
use dat_plan::event::{EventKind, LoggedEvent};
use dat_plan::signing::KeyRing;
use dat_plan::{PlanHash, PlanKey, PlanState, StepState};
use serde::Deserialize as _;
use serde_json::Value;

use super::Chain;
use crate::connection::PgConnection;
use crate::error::StoreError;

/// What a plan's log tells of its approval, in constant memory.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The hash under which it was registered.
    registered: Option<String>,
    /// Who submitted it, where the broker vouched for anyone.
    submitter: Option<String>,
    /// What each verdict's event holds, and when.
    verdicts: Vec<(Outcome, Value, DateTime<Utc>)>,
    /// The step that was started last, by its time.
    last_start: Option<(DateTime<Utc>, i64, String)>,
    /// Starts that cannot have been: before the approval, or after a revocation.
    unapproved: Vec<String>,
}

impl Told {
    /// Follows one event.
    pub(super) fn follow(&mut self, event: &LoggedEvent) {
        let Ok(kind) = event.kind.parse::<EventKind>() else { return };
        let text = |field: &str| event.data.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
        let outcome = match kind {
            EventKind::Plan(PlanState::Draft) => {
                self.registered = text("plan_hash");
                self.submitter = text("submitter");
                return;
            }
            EventKind::Plan(PlanState::Approved) => Outcome::Approved,
            EventKind::Plan(PlanState::Rejected) => Outcome::Rejected,
            EventKind::Revoked => Outcome::Revoked,
            EventKind::Step(StepState::Running) => {
                self.start(event, text("step").unwrap_or_default());
                return;
            }
            _ => return,
        };
        let verdict = event.data.get("verdict").cloned();
        // An older worker wrote no verdict into the events of those that reject.
        if verdict.is_some() || outcome != Outcome::Rejected {
            self.verdicts.push((outcome, verdict.unwrap_or_default(), event.at));
        }
    }

    fn start(&mut self, event: &LoggedEvent, step: String) {
        let came = |outcome| self.verdicts.iter().any(|(came, ..)| *came == outcome);
        if !came(Outcome::Approved) {
            self.unapproved.push(format!("event {} starts step {step} before any approval", event.sequence));
        }
        if came(Outcome::Revoked) {
            self.unapproved
                .push(format!("event {} starts step {step} after the approval was revoked", event.sequence));
        }
        if self.last_start.as_ref().is_none_or(|(at, ..)| *at <= event.at) {
            self.last_start = Some((event.at, event.sequence, step));
        }
    }

    fn of(&self, outcome: Outcome) -> Option<&(Outcome, Value, DateTime<Utc>)> {
        self.verdicts.iter().find(|(told, ..)| *told == outcome)
    }
}

/// A plan's row, as far as it is about its approval.
struct Row {
    state: PlanState,
    plan_hash: String,
    submitter: Option<String>,
    document: Vec<u8>,
    decision: Option<String>,
    hash: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    amount: Option<i64>,
    revoked: bool,
    budget: i64,
    limit: Option<i64>,
}

/// A verdict's row.
struct VerdictRow {
    decision: String,
    outcome: String,
    plan_hash: String,
    approver: String,
    verdict: Value,
    received_at: DateTime<Utc>,
}

/// Compares a plan's rows with each other, with its log and with the keys.
pub(super) async fn compare(
    conn: &mut PgConnection,
    plan: PlanKey,
    chain: &mut Chain,
    keys: &KeyRing,
) -> Result<(), StoreError> {
    let row = sqlx::query!(
        r#"SELECT p.state, p.plan_hash, p.submitter, p.document, p.approval_decision, p.approval_hash, p.approval_expires_at,
                p.approved_amount, p.revoked_at IS NOT NULL AS "revoked!", p.budget_amount,
                (SELECT a.limit_amount FROM budget_account a
                 WHERE a.plan_id = p.plan_id AND a.plan_version = p.plan_version) AS limit_amount
         FROM execution_plan p WHERE p.plan_id = $1 AND p.plan_version = $2"#,
        plan.plan_id,
        plan.plan_version
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(()) };
    let row = Row {
        state: row.state.parse()?,
        plan_hash: row.plan_hash,
        submitter: row.submitter,
        document: row.document,
        decision: row.approval_decision,
        hash: row.approval_hash,
        expires_at: row.approval_expires_at,
        amount: row.approved_amount,
        revoked: row.revoked,
        budget: row.budget_amount,
        limit: row.limit_amount,
    };
    let verdicts: Vec<VerdictRow> = sqlx::query_as!(
        VerdictRow,
        "SELECT decision_id AS decision, outcome, plan_hash, approver, verdict, received_at FROM plan_verdict
         WHERE plan_id = $1 AND plan_version = $2 ORDER BY received_at, decision_id, outcome",
        plan.plan_id,
        plan.plan_version
    )
    .fetch_all(&mut *conn)
    .await?;
    let steps = sqlx::query!(
        "SELECT step_index, step_key, connector, action FROM execution_step
         WHERE plan_id = $1 AND plan_version = $2 AND kind = 'action' ORDER BY step_index",
        plan.plan_id,
        plan.plan_version
    )
    .fetch_all(conn)
    .await?;
    let steps = steps.into_iter().map(|row| (row.step_index, row.step_key, row.connector, row.action));
    chain.faults.append(&mut chain.approval.unapproved);
    let registered = document(&row, &chain.approval, &mut chain.faults);
    if let Some(registered) = registered {
        compare_steps(&registered, steps.collect(), &mut chain.faults);
    }
    for stored in &verdicts {
        verdict(plan, &row, stored, (&chain.approval, keys), &mut chain.faults);
    }
    approval(&row, &verdicts, &chain.approval, &mut chain.faults);
    Ok(())
}

/// What is stored hashes to what was registered, and the log says the same. Gives the document, if it can be read.
fn document(row: &Row, told: &Told, faults: &mut Vec<String>) -> Option<Value> {
    let hashed = serde_json::from_slice::<Value>(&row.document)
        .map_err(|error| error.to_string())
        .and_then(|document| Ok((PlanHash::of(&document).map_err(|error| error.to_string())?, document)));
    match &hashed {
        Ok((hash, _)) if hash.as_str() == row.plan_hash => {}
        Ok((hash, _)) => faults.push(format!(
            "the document was altered: it hashes to {hash}, it was registered as {}",
            row.plan_hash
        )),
        Err(why) => faults.push(format!("the document was altered: {why}")),
    }
    if let Some(registered) = told.registered.as_ref().filter(|hash| **hash != row.plan_hash) {
        faults.push(format!("the row says hash {}, its log registered {registered}", row.plan_hash));
    }
    if told.registered.is_some() && told.submitter != row.submitter {
        let (of_row, of_log) = (row.submitter.as_deref(), told.submitter.as_deref());
        let name = |who: Option<&str>| who.unwrap_or("nobody").to_owned();
        let (of_row, of_log) = (name(of_row), name(of_log));
        faults.push(format!("the row says that {of_row} submitted it, its log that {of_log} did"));
    }
    hashed.ok().map(|(_, document)| document)
}

/// The rows of steps name what the document's steps do; a plan that was not staged has none.
fn compare_steps(document: &Value, rows: Vec<(i32, String, String, String)>, faults: &mut Vec<String>) {
    let steps = document.get("steps").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if !rows.is_empty() && rows.len() != steps.len() {
        faults.push(format!("the document has {} steps, {} have rows", steps.len(), rows.len()));
    }
    for (index, key, connector, action) in rows {
        let step = usize::try_from(index).ok().and_then(|index| steps.get(index));
        let text = |field: &str| step.and_then(|step| step.get(field)?.as_str()).unwrap_or_default();
        let says = (text("key"), text("connector"), text("action"));
        if says != (key.as_str(), connector.as_str(), action.as_str()) {
            let (named, by, does) = says;
            faults.push(format!(
                "step {index} was altered: it is {key} ({connector}: {action}) by its row, {named} ({by}: {does}) by \
                 the document"
            ));
        }
    }
}

/// A verdict's row is what was received, about this plan, and signed with a key that was believed then.
fn verdict(
    plan: PlanKey,
    row: &Row,
    stored: &VerdictRow,
    (told, keys): (&Told, &KeyRing),
    faults: &mut Vec<String>,
) {
    let name = format!("the verdict {} ({})", stored.decision, stored.outcome);
    if !keys.is_empty()
        && let Err(why) = keys.verify(&stored.verdict, stored.received_at)
    {
        faults.push(format!("{name} does not stand: {why}"));
    }
    let read = match Verdict::deserialize(&stored.verdict) {
        Ok(read) => read,
        Err(error) => return faults.push(format!("{name} cannot be read: {error}")),
    };
    if read.plan() != plan {
        faults.push(format!("{name} is of plan {}, not of this one", read.plan()));
    }
    if read.plan_hash.as_str() != row.plan_hash {
        faults.push(format!("{name} is of {}, the plan is {}", read.plan_hash, row.plan_hash));
    }
    let columns = [
        ("decision", read.decision_id.as_str(), stored.decision.as_str()),
        ("outcome", read.outcome.as_str(), stored.outcome.as_str()),
        ("hash", read.plan_hash.as_str(), stored.plan_hash.as_str()),
        ("approver", read.approver.as_str(), stored.approver.as_str()),
    ];
    for (what, says, row) in columns.into_iter().filter(|(_, says, row)| says != row) {
        faults.push(format!("{name} says {what} {says}, its row {row}"));
    }
    let Some((_, received, at)) = told.of(read.outcome) else {
        // An older worker's log has none of those that reject or revoke.
        if read.outcome == Outcome::Approved {
            faults.push(format!("{name} is in no event"));
        }
        return;
    };
    let is_it = |(outcome, received, _): &&(Outcome, Value, DateTime<Utc>)| {
        // What an older worker wrote was the same, without what was null.
        *outcome == read.outcome
            && (*received == stored.verdict
                || Verdict::deserialize(received).is_ok_and(|received| received == read))
    };
    if !told.verdicts.iter().any(|told| is_it(&told)) {
        let was = received.get("decision_id").and_then(Value::as_str).unwrap_or_default();
        faults.push(format!("{name} was altered: it is not what the event of its receipt holds ({was})"));
    } else if read.outcome == Outcome::Approved && *at != stored.received_at {
        faults
            .push(format!("{name} was received at {at} by its event, at {} by its row", stored.received_at));
    }
}

/// Past its approval a plan has one, its row says the same, and nothing was started beyond its end.
fn approval(row: &Row, verdicts: &[VerdictRow], told: &Told, faults: &mut Vec<String>) {
    let approving: Vec<&VerdictRow> =
        verdicts.iter().filter(|stored| stored.outcome == Outcome::Approved.as_str()).collect();
    let is_past = !matches!(
        row.state,
        PlanState::Draft
            | PlanState::SubmittedForApproval
            | PlanState::Rejected
            | PlanState::Aborted
            | PlanState::Archived
    ) || row.decision.is_some()
        || told.of(Outcome::Approved).is_some();
    let is_revoked = verdicts.iter().any(|stored| stored.outcome == Outcome::Revoked.as_str());
    if is_revoked != row.revoked {
        let said = |is: bool| if is { "revoked" } else { "not revoked" };
        faults.push(format!(
            "the approval is {} by its row, {} by its verdicts",
            said(row.revoked),
            said(is_revoked)
        ));
    }
    let stored = match approving.as_slice() {
        [] if !is_past => return,
        [stored] => *stored,
        other => {
            let count = other.len();
            return faults.push(format!("the plan is {} and has {count} approving verdicts", row.state));
        }
    };
    let Ok(read) = Verdict::deserialize(&stored.verdict) else { return };
    let text = |value: Option<&str>| value.unwrap_or("none").to_owned();
    let amount = |amount: Option<i64>| amount.map_or("none".to_owned(), |amount| amount.to_string());
    let moment = |at: Option<DateTime<Utc>>| at.map_or("none".to_owned(), |at| at.to_rfc3339());
    let approved = read.budget.as_ref().map(|budget| budget.amount);
    let limit = approved.unwrap_or(row.budget);
    let ends = read.expires_at.map(|at| at.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(at));
    let columns = [
        ("decision", text(row.decision.as_deref()), read.decision_id.clone()),
        ("approved hash", text(row.hash.as_deref()), read.plan_hash.to_string()),
        ("approval's end", moment(row.expires_at), moment(ends)),
        ("approved amount", amount(row.amount), amount(approved)),
        ("account's limit", amount(row.limit.or(Some(limit))), amount(Some(limit))),
    ];
    for (what, row, says) in columns.into_iter().filter(|(_, row, says)| row != says) {
        faults.push(format!("the {what} is {row} by the row, {says} by the verdict {}", stored.decision));
    }
    if let (Some(end), Some((at, sequence, step))) = (ends, &told.last_start)
        && *at >= end
    {
        faults.push(format!("event {sequence} starts step {step} at {at}, the approval ended at {end}"));
    }
}
