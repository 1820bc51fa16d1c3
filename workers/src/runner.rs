//! The Step Runner: runs one attempt of one unit through its connector, under its lease.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dat_connectors::{Answer, Call, Connector, Listener, Nobody, Rehearsal};
use dat_guards::{BudgetFacts, Counts, Decision, Inputs, StepFacts, Verdict};
use dat_plan::mux::ActionRequest;
use dat_plan::{Currency, Progress, UnitKind, references};
use dat_store::{Claimed, Finding, LateAnswer, Lease, Settlement};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tracing::Instrument;

use crate::breakers;
use crate::documents::{Prepared, UnitSpec};
use crate::ended::Ended;
use crate::fleet::Fleet;
use crate::guard;
use crate::late::Late;
use crate::running::Running;
use crate::stage::storable;
use crate::trace;

/// The longest that a connector's answer holds back the other steps of its lane.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// Hears what a connector tells of one attempt beside its answer.
#[derive(Debug)]
struct Ear {
    lease: Lease,
    running: Arc<Running>,
    late: Late,
}

impl Listener for Ear {
    fn progress(&self, progress: Progress) {
        self.running.told(&self.lease, progress);
    }

    fn late(&self, answer: Answer) {
        self.late.came(LateAnswer { lease: self.lease.clone(), finding: said(answer) });
    }
}

/// Runs one attempt to its end.
pub(crate) async fn attempt(
    fleet: &Fleet,
    running: &Arc<Running>,
    plan: &Prepared,
    claimed: Claimed,
) -> Ended {
    let started = Instant::now();
    let unit = claimed.lease.unit;
    let span = tracing::info_span!(
        "attempt",
        plan = %unit.plan,
        step = claimed.step_key,
        kind = unit.kind.as_str(),
        attempt = claimed.attempt,
        trace_id = trace::trace_id(&claimed.traceparent),
    );
    let (finding, decision) = async {
        let (finding, decision) = run(fleet, running, plan, &claimed).await;
        dat_fault::around("breaker.unasked", breakers::unasked(fleet, &unit, claimed.attempt)).await;
        tracing::debug!(?finding, "ended");
        (finding, decision)
    }
    .instrument(span)
    .await;
    let successors = plan.successors(unit);
    let connector = plan.unit(unit).map_or("", |spec| spec.connector).to_owned();
    Ended {
        settlement: Settlement { lease: claimed.lease, finding, successors, decision },
        connector,
        tenant: claimed.tenant,
        currency: claimed.currency,
        attempt: Some(claimed.attempt),
        took: started.elapsed(),
        slot: None,
    }
}

/// What came of the attempt, and the decision on its postconditions, for the log.
type Judged = (Finding, Option<Value>);

async fn run(fleet: &Fleet, running: &Arc<Running>, plan: &Prepared, claimed: &Claimed) -> Judged {
    let unit = claimed.lease.unit;
    let not_sent = |detail: &str| (Finding::NotSent { detail: detail.to_owned() }, None);
    let Some(spec) = plan.unit(unit) else { return not_sent("the document has no such step") };
    let Some(connector) = fleet.connectors.get(spec.connector) else {
        return not_sent(&format!("this worker has no connector {}", spec.connector));
    };
    if plan.is_dry() {
        return rehearse(fleet, &*connector, plan, claimed, &spec);
    }
    let parameters = match unit.kind {
        UnitKind::Action => match references::resolve(spec.parameters, &claimed.results) {
            Ok(parameters) => parameters,
            // The claim's guard resolved the same references from the same results.
            Err(dangling) => return (Finding::Refused { cost: 0, detail: dangling.to_string() }, None),
        },
        UnitKind::Undo => references::resolve_or_null(spec.parameters, &claimed.results),
    };
    if unit.kind == UnitKind::Action {
        fleet.limits.smooth(&*fleet.clock, &claimed.tenant, spec.connector, spec.action).await;
    }
    let now = fleet.now();
    let timeout = Duration::from_millis(spec.timeout_ms);
    let call = Call {
        request: action_request(plan, claimed, &spec, parameters.clone(), now),
        timeout,
        traceparent: claimed.traceparent.clone(),
        listener: Arc::new(Ear {
            lease: claimed.lease.clone(),
            running: Arc::clone(running),
            late: fleet.late.clone(),
        }),
    };
    // Invariant 2: a worker that lost its lease sends nothing. What is stuck between here and the outside system is
    // refused there, by `not_after` or because a probe sealed its key.
    if !claimed.lease.holds(fleet.now()) {
        return not_sent("the lease ran out before the request was sent");
    }
    let answer = dat_fault::around("runner.send", connector.act(call)).await;
    let told = breakers::report(fleet, spec.connector, &unit, claimed.attempt, &answer);
    dat_fault::around("breaker.report", told).await;
    if let Answer::Error { retry_after_ms, .. } = &answer
        && *retry_after_ms > 0
    {
        let wait = Duration::from_millis(*retry_after_ms).min(LONGEST_PAUSE);
        let lane = fleet.limits.later(&claimed.tenant, spec.connector, spec.action, wait);
        dat_fault::around("rate.later", lane).await;
    }
    judge(fleet, plan, claimed, parameters, answer)
}

/// The step of a dry run: checked, and not sent. Its postconditions are held against the answer where the connector knows
/// it without asking, and all of what it would be asked with is known; else it is said that they were not asked.
fn rehearse(
    fleet: &Fleet,
    connector: &dyn Connector,
    plan: &Prepared,
    claimed: &Claimed,
    spec: &UnitSpec<'_>,
) -> Judged {
    let parameters = references::resolve_or_null(spec.parameters, &claimed.results);
    let call = Call {
        request: action_request(plan, claimed, spec, parameters.clone(), fleet.now()),
        timeout: Duration::from_millis(spec.timeout_ms),
        traceparent: claimed.traceparent.clone(),
        listener: Arc::new(Nobody),
    };
    let (detail, result) = match connector.rehearse(&call) {
        Rehearsal::Refused { detail } => {
            return (Finding::Refused { cost: 0, detail: storable(&detail) }, None);
        }
        Rehearsal::Fine { detail, result } => (detail, result.filter(|result| !holds_nul(result))),
    };
    let missing = references::unresolved(spec.parameters, &claimed.results);
    let mut said = format!("dry run: {detail}");
    if !missing.is_empty() {
        said = format!("{said}; null, since nothing answered it: {}", missing.join(", "));
    }
    let known = result.as_ref().filter(|_| missing.is_empty());
    let judged = known.and_then(|result| postconditions(fleet, plan, claimed, parameters, result));
    if let Some((decision, logged)) = judged {
        if decision.verdict == Verdict::Deny {
            let detail = storable(&format!("{said}; its answer would not do: {}", guard::reasons(&decision)));
            return (Finding::Refused { cost: 0, detail }, Some(logged));
        }
        let detail = storable(&format!("{said}; its postconditions would hold"));
        return (Finding::Rehearsed { detail, result: result.unwrap_or_else(|| json!({})) }, Some(logged));
    }
    if has_postconditions(plan, claimed) {
        said.push_str("; its postconditions are not asked: its answer is not known");
    }
    (Finding::Rehearsed { detail: storable(&said), result: result.unwrap_or_else(|| json!({})) }, None)
}

fn has_postconditions(plan: &Prepared, claimed: &Claimed) -> bool {
    let unit = claimed.lease.unit;
    let step = usize::try_from(unit.index).ok().and_then(|index| plan.document.steps.get(index));
    unit.kind == UnitKind::Action && step.is_some_and(|step| !step.postconditions.is_empty())
}

fn action_request(
    plan: &Prepared,
    claimed: &Claimed,
    spec: &UnitSpec<'_>,
    parameters: Map<String, Value>,
    now: DateTime<Utc>,
) -> ActionRequest {
    let unit = claimed.lease.unit;
    let timeout = TimeDelta::milliseconds(i64::try_from(spec.timeout_ms).unwrap_or(i64::MAX));
    ActionRequest {
        action: spec.action.to_owned(),
        parameters,
        idempotency_key: claimed.idempotency_key.clone(),
        not_after: now + timeout,
        max_cost: spec.max_cost,
        currency: plan.document.budget.currency.0.clone(),
        tenant: claimed.tenant.clone(),
        plan_id: unit.plan.plan_id,
        plan_version: unit.plan.plan_version,
        step: claimed.step_key.clone(),
        attempt: claimed.attempt,
        undo_of: claimed.undo_of.clone(),
    }
}

/// What an answer means: the connector's word, but for an answer that cannot be kept or breaks a postcondition.
fn judge(
    fleet: &Fleet,
    plan: &Prepared,
    claimed: &Claimed,
    parameters: Map<String, Value>,
    answer: Answer,
) -> Judged {
    let (result, cost, refund) = match said(answer) {
        Finding::Done { result, cost, refund } => (result, cost, refund),
        finding => return (finding, None),
    };
    let Some((decision, logged)) = postconditions(fleet, plan, claimed, parameters, &result) else {
        return (Finding::Done { result, cost, refund }, None);
    };
    let finding = if decision.verdict == Verdict::Deny {
        Finding::Unusable { cost, refund, detail: guard::reasons(&decision) }
    } else {
        Finding::Done { result, cost, refund }
    };
    (finding, Some(logged))
}

/// The connector's word, as it can be kept.
fn said(answer: Answer) -> Finding {
    match answer {
        Answer::Done { result, cost, refund } if holds_nul(&result) => {
            let shown: String = storable(&result.to_string()).chars().take(500).collect();
            let detail = format!("the answer cannot be stored, it holds U+0000: {shown}");
            Finding::Unusable { cost, refund, detail }
        }
        Answer::Done { result, cost, refund } => Finding::Done { result, cost, refund },
        Answer::Error { cost, detail, retry_after_ms, .. } => Finding::Error {
            cost,
            detail: storable(&detail),
            retry_after_ms: i64::try_from(retry_after_ms).unwrap_or(i64::MAX).min(86_400_000),
        },
        Answer::Refused { cost, detail } => Finding::Refused { cost, detail: storable(&detail) },
        Answer::NotSent { detail } => Finding::NotSent { detail: storable(&detail) },
        Answer::Unanswered { detail } => Finding::Unanswered { detail: storable(&detail) },
    }
}

/// Whether a value holds text that PostgreSQL does not store.
pub(crate) fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        _ => false,
    }
}

/// The decision on a step's postconditions, and as it is logged; none where it has none.
fn postconditions(
    fleet: &Fleet,
    plan: &Prepared,
    claimed: &Claimed,
    parameters: Map<String, Value>,
    result: &Value,
) -> Option<(Decision, Value)> {
    let unit = claimed.lease.unit;
    let index = usize::try_from(unit.index).ok()?;
    let (step, prepared) = (plan.document.steps.get(index)?, plan.steps.get(index)?);
    if unit.kind == UnitKind::Undo || step.postconditions.is_empty() {
        return None;
    }
    let mut results = claimed.results.clone();
    results.insert(step.key.0.clone(), result.clone());
    let inputs = Inputs {
        now: fleet.now(),
        plan: plan.facts.clone(),
        tenant: claimed.tenant.clone(),
        step: Some(StepFacts {
            key: step.key.clone(),
            index: unit.index,
            attempt: claimed.attempt,
            connector: step.connector.clone(),
            action: step.action.clone(),
            parameters,
        }),
        budget: BudgetFacts {
            amount: claimed.account.limit,
            spent: claimed.account.settled,
            reserved: claimed.account.reserved,
            currency: Currency(claimed.currency.clone()),
        },
        results,
        counts: Counts::default(),
    };
    let decision = prepared.after.check(&inputs);
    let logged = guard::log(&decision, "answer", plan, &[], Some(&inputs));
    Some((decision, logged))
}
