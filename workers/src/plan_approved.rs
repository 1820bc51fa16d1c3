//! `plan.approved`, and `plan.rejected` with `plan.revoked`: the Governance Handoff Adapter binds verdicts to the plans
//! they name. What an approval lets start is staged and admitted at once.

use std::collections::BTreeSet;

use dat_bus::Received;
use dat_guards::CelCheck;
use dat_plan::approval::Outcome;
use dat_plan::check::{self, CheckedVerdict, Rules};
use dat_store::{Bound, StoreError};
use dat_topology::Stage as StageName;

use crate::doorbell::{self, Doorbell};
use crate::fleet::Fleet;
use crate::orchestrator;
use crate::stage::{Disposition, Parked, Stage};

/// The stage of `plan.approved`, or of `plan.rejected`: any verdict is good on either.
pub(crate) struct Verdicts<'a> {
    pub(crate) fleet: &'a Fleet,
    pub(crate) queue: StageName,
    pub(crate) connectors: BTreeSet<String>,
}

impl Stage for Verdicts<'_> {
    type Work = CheckedVerdict;

    fn name(&self) -> StageName {
        self.queue
    }

    fn prefetch(&self) -> u16 {
        256
    }

    fn read(&self, message: &Received) -> Result<CheckedVerdict, Parked> {
        let rules = Rules { connectors: &self.connectors, predicates: &CelCheck };
        check::verdict(&message.body, &rules)
            .map_err(|faults| Parked { reason: "not a valid verdict".to_owned(), faults })
    }

    async fn commit(&self, batch: &[CheckedVerdict]) -> Result<Vec<Disposition>, StoreError> {
        let answers =
            self.fleet.store.bind_verdicts(batch, &self.fleet.trust.verdicts, self.fleet.now()).await?;
        let mut approved = Vec::new();
        let mut stopped = false;
        let mut dispositions = Vec::with_capacity(batch.len());
        for (CheckedVerdict { verdict, .. }, answer) in batch.iter().zip(answers) {
            let plan = verdict.plan();
            dispositions.push(match answer {
                Bound::Bound => {
                    tracing::info!(%plan, outcome = verdict.outcome.as_str(), approver = verdict.approver, "verdict");
                    self.fleet.metrics.verdict(verdict.outcome);
                    self.fleet.live.touch(plan);
                    match verdict.outcome {
                        Outcome::Approved => approved.push(plan),
                        Outcome::Rejected => {}
                        Outcome::Revoked => stopped = true,
                    }
                    Disposition::Done
                }
                Bound::Repeat => Disposition::Done,
                Bound::Parked(conflict) => Disposition::Park(Parked {
                    reason: "the verdict does not bind".to_owned(),
                    faults: vec![conflict.fault()],
                }),
            });
        }
        // The verdicts are committed. What follows is done again by the sweeper if it cannot be done now.
        if let Err(error) = orchestrator::admit(self.fleet, &approved).await {
            tracing::warn!(%error, "approved plans wait for the sweeper");
        }
        if stopped {
            doorbell::ring_any(self.fleet, Doorbell::Failed).await;
        }
        Ok(dispositions)
    }
}
