//! Candidates for which everything outside the database was asked, before the claim that has the last word: breakers, live
//! copies of budgets, rates, token windows.
//!
//! **Owns** what was granted, from the asking until the claim's report says what of it was used; the rest is given back.
//! **May be called** by the Dispatcher, for what a look found, and for what a settlement goes on with. **Must never**
//! decide that something runs: each of these only postpones, or refuses for good.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use dat_plan::{PlanKey, UnitKey, UnitKind};
use dat_store::{Candidate, ClaimReport, ClaimRequest, Counting, Guard, Postponed};

use crate::batch;
use crate::breakers;
use crate::documents::Prepared;
use crate::fleet::Fleet;
use crate::guard::StepGuard;
use crate::limits::{Candidates, Limited};
use crate::windows::Reserved;

/// Candidates, and what was said of each.
pub(crate) struct Asked {
    batch: Candidates,
    said: Vec<Limited>,
    reserved: Reserved,
    trials: Vec<String>,
    /// Who waits for its own turn, and keeps it.
    keeps: BTreeSet<UnitKey>,
    /// When those are due that wait for their limits.
    waits: BTreeSet<DateTime<Utc>>,
}

impl Asked {
    /// Asks, for at most `free` that may pass: one call for each kind of limit, whatever the number.
    pub(crate) async fn ask(fleet: &Fleet, mut batch: Candidates, free: usize) -> Self {
        let mut said = vec![Limited::Pass; batch.len()];
        let trials = dat_fault::around("breaker.ask", breakers::ask(fleet, &batch, &mut said)).await;
        let now = fleet.now();
        let asked = fleet.limits.ask(&batch, &mut said, &fleet.operators, now);
        dat_fault::around("rate.ask", asked).await;
        let beyond = batch::cut(&mut said, &mut batch, free);
        let unused = fleet.limits.give_back(&fleet.operators, batch::newly_granted(&beyond));
        dat_fault::around("rate.cut", unused).await;
        let reserved = dat_fault::around("windows.reserve", fleet.windows.ask(&batch, &mut said, now)).await;
        let keeps = said
            .iter()
            .zip(&batch)
            .filter(|(said, _)| matches!(said, Limited::Wait { rate_slot: Some(_), .. }))
            .map(|(_, (candidate, _))| candidate.unit)
            .collect();
        let mut asked = Self { batch, said, reserved, trials, keeps, waits: BTreeSet::new() };
        asked.wake(fleet);
        asked
    }

    /// Wakes this worker when what waits for its limits is due, a little later where that makes fewer claims.
    fn wake(&mut self, fleet: &Fleet) {
        let now = fleet.now();
        for (said, (candidate, _)) in self.said.iter().zip(&self.batch) {
            if let Limited::Wait { until, by, .. } = said {
                self.waits.insert(*until);
                fleet.metrics.limited(*by, *until - now);
                fleet.bells.dispatch.set_between(*until, *until + fleet.limits.slack(candidate), now);
            }
        }
    }

    /// Whether token windows were found to be lost.
    pub(crate) const fn lost(&self) -> bool {
        self.reserved.lost
    }

    /// The era of Redis in which windows were reserved.
    pub(crate) const fn era(&self) -> Option<i64> {
        self.reserved.era
    }

    /// When those are due that wait for their limits.
    pub(crate) const fn waits(&self) -> &BTreeSet<DateTime<Utc>> {
        &self.waits
    }

    /// The plans of the candidates.
    pub(crate) fn plans(&self) -> impl Iterator<Item = PlanKey> + '_ {
        self.batch.iter().map(|(candidate, _)| candidate.unit.plan)
    }

    /// Their tenants.
    pub(crate) fn tenants(&self) -> BTreeSet<String> {
        self.batch.iter().map(|(candidate, _)| candidate.tenant.clone()).collect()
    }

    /// The plan of one of them.
    pub(crate) fn plan(&self, unit: UnitKey) -> Option<&Arc<Prepared>> {
        self.batch.iter().find(|(candidate, _)| candidate.unit == unit).map(|(_, plan)| plan)
    }

    /// The runtime guards of the candidates, in their order.
    pub(crate) fn guards(&self, fleet: &Fleet) -> Vec<StepGuard> {
        self.batch
            .iter()
            .map(|(candidate, plan)| StepGuard {
                plan: Arc::clone(plan),
                operators: fleet.operators.binding(&plan.document.tenant),
                unit: candidate.unit,
            })
            .collect()
    }

    /// What to ask the database, and what only waits.
    pub(crate) fn requests<'a>(
        &self,
        guards: &'a [StepGuard],
        now: DateTime<Utc>,
    ) -> (Vec<ClaimRequest<'a>>, Vec<Postponed>) {
        let (mut requests, mut postponed) = (Vec::new(), Vec::new());
        for (said, guard) in self.said.iter().zip(guards) {
            let unit = guard.unit;
            match said.clone() {
                Limited::Wait { until, reason, rate_slot, .. } => {
                    postponed.push(Postponed { unit, until, reason, rate_slot });
                }
                Limited::Never(reason) => requests.push(ClaimRequest::Refuse { unit, reason }),
                Limited::Pass => requests.push(run(unit, guard, now)),
            }
        }
        (requests, postponed)
    }

    /// Gives back what the claim did not use. What was due for every worker may have been taken by another, by the very
    /// turn that was told here: of that only what this claim itself put off is given back. What was asked for before it
    /// was due (`ahead`) is nobody else's.
    pub(crate) async fn give_back(
        &self,
        fleet: &Fleet,
        report: &ClaimReport,
        taken: &BTreeSet<UnitKey>,
        ahead: bool,
    ) {
        let put_off = |unit: &UnitKey| {
            let written = report.waiting.contains(unit) || report.refused.contains(unit);
            !self.keeps.contains(unit) && (written || (ahead && !taken.contains(unit)))
        };
        self.return_to(fleet, |unit| taken.contains(unit), put_off).await;
    }

    /// What was granted its turn and is not in a claim's report: another worker took it, or somebody stopped its plan.
    pub(crate) fn in_doubt(
        &self,
        fleet: &Fleet,
        report: &ClaimReport,
        taken: &BTreeSet<UnitKey>,
    ) -> Vec<(Candidate, Arc<Prepared>)> {
        let unseen = |unit: &UnitKey| {
            !taken.contains(unit) && !report.waiting.contains(unit) && !report.refused.contains(unit)
        };
        let granted = self.said.iter().zip(&self.batch).filter(|(said, (candidate, plan))| {
            **said == Limited::Pass
                && unseen(&candidate.unit)
                && fleet.limits.has_rate(&fleet.operators, candidate, plan)
        });
        granted.map(|(_, one)| one.clone()).collect()
    }

    /// Gives back every turn and reservation: nothing was claimed by them.
    pub(crate) async fn give_back_all(&self, fleet: &Fleet) {
        self.return_to(fleet, |_| false, |_| true).await;
    }

    /// Returns windows of all that was not taken, and turns of what was put off.
    async fn return_to(
        &self,
        fleet: &Fleet,
        taken: impl Fn(&UnitKey) -> bool,
        put_off: impl Fn(&UnitKey) -> bool,
    ) {
        let windows = fleet.windows.give_back(&self.reserved, |unit| taken(&unit));
        dat_fault::around("windows.give_back", windows).await;
        let put_off = self.batch.iter().filter(|(candidate, _)| put_off(&candidate.unit));
        let turns = fleet.limits.give_back(&fleet.operators, put_off);
        dat_fault::around("rate.give_back", turns).await;
    }

    /// Lets others try the breakers that nothing of this tries after all.
    pub(crate) async fn give_back_trials(&self, fleet: &Fleet) {
        dat_fault::around("breaker.give_back", breakers::give_back(fleet, self.trials.clone())).await;
    }
}

fn run(unit: UnitKey, guard: &StepGuard, now: DateTime<Utc>) -> ClaimRequest<'_> {
    let plan = &guard.plan;
    let step = usize::try_from(unit.index).ok().and_then(|index| plan.document.steps.get(index));
    let is_action = unit.kind == UnitKind::Action;
    // A dry run reserves nothing; its guard says what would not fit.
    let step = step.filter(|_| !plan.is_dry());
    ClaimRequest::Run {
        unit,
        seal: plan.seal(now),
        max_cost: step.map_or(0, |s| s.max_cost),
        undo_max_cost: step.map_or(0, dat_plan::document::Step::undo_max_cost),
        needs: plan.needs(unit, &guard.operators),
        counting: if is_action { guard.counting() } else { Counting::default() },
        guard: is_action.then_some(guard as &dyn Guard),
    }
}
