//! Going on: what the transaction that completes a step claims besides, so that a plan goes on in the same worker without a
//! message, and with one commit a step.
//!
//! A step goes on with the one that certainly becomes ready when it completes, one a slot that it gives back. Everything
//! else takes its turn by a look at what is due; so does a plan that went on often while others wait (`may_go_on`), and
//! what a tenant gets by going on counts in its turns.
//!
//! **Owns** the choice of what to go on with. **May be called** by whoever commits outcomes. **Must never** claim: the
//! settlement does, through the full claim path.

use std::collections::BTreeSet;
use std::sync::Arc;

use dat_plan::{UnitKey, UnitKind};
use dat_store::{Candidate, ClaimReport, ClaimRequest, Finding};

use crate::asked::Asked;
use crate::dispatcher::Dispatcher;
use crate::documents::Prepared;
use crate::ended::Ended;
use crate::fleet::Fleet;
use crate::guard::StepGuard;
use crate::limits::Candidates;

/// What a group of outcomes goes on with, for which limits were asked.
pub(crate) struct Next {
    asked: Asked,
    guards: Vec<StepGuard>,
}

/// What a settlement went on with, and has started.
pub(crate) struct GoneOn {
    pub(crate) next: Next,
    pub(crate) report: ClaimReport,
    pub(crate) taken: BTreeSet<UnitKey>,
}

impl Next {
    /// What these outcomes go on with; nothing where nothing may.
    pub(crate) async fn of(fleet: &Fleet, dispatcher: &Dispatcher, group: &[Ended]) -> Option<Self> {
        let batch: Candidates = group.iter().filter_map(|ended| successor(dispatcher, ended)).collect();
        if batch.is_empty() {
            return None;
        }
        let room = batch.len();
        let asked = Asked::ask(fleet, batch, room).await;
        let guards = asked.guards(fleet);
        Some(Self { asked, guards })
    }

    /// What was asked.
    pub(crate) const fn asked(&self) -> &Asked {
        &self.asked
    }

    /// What to ask the settlement for. What waits for its limits is written with it: until then it is not ready.
    pub(crate) fn requests(&self, fleet: &Fleet) -> Vec<ClaimRequest<'_>> {
        let (mut requests, postponed) = self.asked.requests(&self.guards, fleet.now());
        requests.extend(postponed.into_iter().map(|wait| ClaimRequest::Defer {
            unit: wait.unit,
            until: wait.until,
            reason: wait.reason,
            rate_slot: wait.rate_slot,
        }));
        requests
    }

    /// Gives back all that was granted: nothing was claimed.
    pub(crate) async fn give_back(&self, fleet: &Fleet) {
        self.asked.give_back_all(fleet).await;
        self.asked.give_back_trials(fleet).await;
    }
}

fn successor(dispatcher: &Dispatcher, ended: &Ended) -> Option<(Candidate, Arc<Prepared>)> {
    let (settlement, slot) = (&ended.settlement, ended.slot.as_ref()?);
    let unit = settlement.lease.unit;
    let done = matches!(settlement.finding, Finding::Done { .. } | Finding::Rehearsed { .. });
    if unit.kind != UnitKind::Action || !done || !dispatcher.may_go_on(slot.went_on) {
        return None;
    }
    let plan = &slot.plan;
    let only = |index: &&i32| usize::try_from(**index).is_ok_and(|index| plan.graph.needs(index).len() == 1);
    let index = *settlement.successors.iter().find(only)?;
    let step = plan.document.steps.get(usize::try_from(index).ok()?)?;
    let candidate = Candidate {
        unit: UnitKey { index, ..unit },
        step_key: step.key.0.clone(),
        tenant: plan.document.tenant.clone(),
        connector: step.connector.clone(),
        action: step.action.clone(),
        attempt: 1,
        rate_slot: None,
        // The settlement has the account itself.
        plan_account: None,
    };
    Some((candidate, Arc::clone(plan)))
}
