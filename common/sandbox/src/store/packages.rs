//! What GGP keeps: the packages it was sent, and its verdicts on them.

use chrono::{DateTime, Utc};
use dat_plan::PlanKey;
use dat_plan::approval::{ApprovalPackage, Verdict};
use dat_plan::quorum::Vote;
use serde_json::Value;

use super::StoreError;
use super::book::{Book, PlanEntry, Reading, Writing};
use super::scope::Scope;
use crate::ggp::{self, Objection};
use crate::governance::{Governance, Judged};
use crate::report::{Decision, GgpMode, Package};

const PACKAGES: Book<PlanEntry, Package> = Book::new("ggp_packages");
const MALFORMED: &str = "ggp.malformed";

/// Makes the tables of this module.
pub(super) fn create(books: &Writing<'_>) -> Result<(), StoreError> {
    books.create(&PACKAGES)
}

fn key(plan: PlanKey) -> PlanEntry {
    (plan.plan_id.as_u128(), u64::from(plan.plan_version.unsigned_abs()))
}

/// A request for approval, as it came.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The event's id.
    pub(crate) event_id: String,
    /// Its `traceparent`.
    pub(crate) traceparent: Option<String>,
    /// What is asked.
    pub(crate) package: ApprovalPackage,
}

/// A verdict to publish, and the trace it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pronounced {
    /// The verdict.
    pub(crate) verdict: Verdict,
    /// The trace.
    pub(crate) traceparent: Option<String>,
}

impl Pronounced {
    fn last_of(package: &Package) -> Option<Self> {
        let verdict = package.verdicts.last()?.clone();
        Some(Self { verdict, traceparent: package.traceparent.clone() })
    }
}

/// Takes a request in, and judges it if nobody has. One that was judged gets its latest verdict again.
pub(crate) fn ask(
    books: &mut Writing<'_>,
    asked: Asked,
    governance: &Governance,
    mode: GgpMode,
) -> Result<Option<Pronounced>, StoreError> {
    let plan = PlanKey::new(asked.package.plan_id, asked.package.plan_version);
    let mut held = books
        .get(&PACKAGES, key(plan))?
        .unwrap_or_else(|| Package::asked(asked.event_id, asked.traceparent, asked.package));
    held.deliveries += 1;
    if held.verdicts.is_empty() && held.quorum.is_none() {
        match governance.judge(&held.package, mode) {
            Judged::Verdict(verdict) => held.verdicts.push(*verdict),
            Judged::People(quorum) => held.quorum = Some(quorum),
            Judged::Wait => {}
        }
    }
    books.put(&PACKAGES, key(plan), &held)?;
    Ok(Pronounced::last_of(&held))
}

/// Decides a plan as somebody says; `None` where GGP was never asked about it.
pub(crate) fn decide(
    books: &mut Writing<'_>,
    decision: &Decision,
    governance: &Governance,
) -> Result<Option<Result<Pronounced, Objection>>, StoreError> {
    let plan = key(PlanKey::new(decision.plan_id, decision.plan_version));
    let Some(mut held) = books.get(&PACKAGES, plan)? else { return Ok(None) };
    let verdict = match ggp::decide(&held, decision) {
        // What was decided before is signed already.
        Ok(verdict) if verdict.signature.is_some() => verdict,
        Ok(verdict) => governance.signed(verdict),
        Err(objection) => return Ok(Some(Err(objection))),
    };
    // What is said last is last, so that a request that is delivered again hears it.
    held.verdicts.retain(|earlier| earlier.decision_id != verdict.decision_id);
    held.verdicts.push(verdict.clone());
    books.put(&PACKAGES, plan, &held)?;
    Ok(Some(Ok(Pronounced { verdict, traceparent: held.traceparent })))
}

/// Counts what one person says: the verdict, where that was the last word that was needed; `None` where GGP was not asked
/// about that plan yet.
pub(crate) fn hear(
    books: &mut Writing<'_>,
    vote: Vote,
    as_sent: &Value,
    governance: &Governance,
    now: DateTime<Utc>,
) -> Result<Option<Vec<Pronounced>>, StoreError> {
    let plan = key(vote.plan());
    let Some(mut held) = books.get(&PACKAGES, plan)? else { return Ok(None) };
    let counted = held.approvals.contains(&vote);
    let verdict = governance.hear(&mut held, (vote, as_sent), now);
    books.put(&PACKAGES, plan, &held)?;
    // The last that was needed, delivered again, hears the verdict again: the first may not have reached the broker.
    let again = counted.then(|| held.verdicts.last().cloned()).flatten();
    let traceparent = held.traceparent;
    let verdict = verdict.or(again).map(|verdict| Pronounced { verdict, traceparent });
    Ok(Some(verdict.into_iter().collect()))
}

/// Counts a request that could not be read.
pub(crate) fn unreadable(books: &mut Writing<'_>) {
    books.count(MALFORMED);
}

/// Whether GGP was asked about a plan version.
pub(crate) fn is_known(books: &Reading, plan: PlanKey) -> Result<bool, StoreError> {
    Ok(books.get(&PACKAGES, key(plan))?.is_some())
}

/// The packages, plan by plan.
pub(crate) fn packages(books: &Reading, scope: Scope) -> Result<Vec<Package>, StoreError> {
    let mut packages = books.of_plan(&PACKAGES, scope.plan_id)?;
    packages.retain(|held| scope.holds(held.package.plan_version));
    Ok(packages)
}
