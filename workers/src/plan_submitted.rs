//! `plan.submitted`: Plan Builder and Plan Registry. A submission is checked for every fault, registered, and handed to
//! governance; the message is the work, so it is in the database before it is acknowledged.

use std::collections::BTreeSet;

use dat_bus::Received;
use dat_guards::CelCheck;
use dat_plan::approval::ApprovalPackage;
use dat_plan::check::{self, Rules};
use dat_plan::coverage::Coverage;
use dat_plan::document::limits;
use dat_plan::event::EventKind;
use dat_plan::{Fault, FaultCode};
use dat_store::{Registered, Registration, StoreError};
use dat_topology::Stage as StageName;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::readiness;
use crate::stage::{Disposition, Parked, Stage};
use crate::trace;

/// The stage of `plan.submitted`.
pub(crate) struct PlanSubmitted<'a> {
    pub(crate) fleet: &'a Fleet,
    pub(crate) connectors: BTreeSet<String>,
}

impl Stage for PlanSubmitted<'_> {
    type Work = Registration;

    fn name(&self) -> StageName {
        StageName::PlanSubmitted
    }

    fn parked_kind(&self) -> EventKind {
        EventKind::SubmissionRejected
    }

    fn is_intake(&self) -> bool {
        true
    }

    fn prefetch(&self) -> u16 {
        // A body may have 4 MiB: few are held at once.
        64
    }

    fn read(&self, message: &Received) -> Result<Registration, Parked> {
        let rules = Rules { connectors: &self.connectors, predicates: &CelCheck };
        let user = message.user_id.as_deref();
        let checked = check::plan(&message.body, &rules).map_err(|mut faults| {
            faults.extend(self.fleet.submitters.admit(user, tenant_of(&message.body).as_deref()).err());
            refused(faults)
        })?;
        let mut unready = readiness::faults(&checked.document, &self.fleet.connectors);
        unready.extend(self.fleet.submitters.admit(user, Some(&checked.document.tenant)).err());
        if !unready.is_empty() {
            return Err(refused(unready));
        }
        let package = ApprovalPackage {
            plan_id: checked.document.plan_id,
            plan_version: checked.document.plan_version,
            tenant: checked.document.tenant.clone(),
            plan_hash: checked.hash.to_string(),
            // The rules, budgets and changes are filled in when it is registered.
            constraint_set_hash: String::new(),
            constraint_sets: Vec::new(),
            budgets: Vec::new(),
            changes: None,
            submitter: message.user_id.clone(),
            rollback_coverage: Some(Coverage::of(&checked.document)),
            cost: Some(checked.document.cost_range()),
            plan: checked.value,
            readiness: checked.readiness.clone(),
        };
        let Value::Object(package) = json!(package) else { return Err(refused(Vec::new())) };
        Ok(Registration {
            traceparent: trace::context(message.traceparent(), &*self.fleet.entropy),
            message_id: message.message_id.clone(),
            submitter: message.user_id.clone(),
            body: message.body.clone(),
            hash: checked.hash,
            readiness: checked.readiness,
            document: checked.document,
            package,
        })
    }

    async fn commit(&self, batch: &[Registration]) -> Result<Vec<Disposition>, StoreError> {
        let answers = self.fleet.store.register(batch, self.fleet.now()).await?;
        Ok(batch
            .iter()
            .zip(answers)
            .map(|(submission, answer)| {
                let plan = submission.document.key();
                let trace_id = trace::trace_id(&submission.traceparent);
                match answer {
                    Registered::New => {
                        self.fleet.metrics.submission("registered");
                        tracing::info!(%plan, trace_id, hash = %submission.hash, "registered");
                        self.fleet.live.touch(plan);
                        Disposition::Done
                    }
                    Registered::Same => {
                        self.fleet.metrics.submission("repeated");
                        tracing::info!(%plan, trace_id, "registered before with the same content");
                        Disposition::Done
                    }
                    Registered::Refused(faults) => Disposition::Park(refused(faults)),
                }
            })
            .collect())
    }
}

/// The tenant that a document names which is no plan, where it can be read at all.
fn tenant_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        tenant: String,
    }
    if body.len() > limits::BODY_BYTES {
        return None;
    }
    serde_json::from_slice(body).ok().map(|Named { tenant }| tenant)
}

fn refused(faults: Vec<Fault>) -> Parked {
    let not_allowed = faults.iter().find(|fault| fault.code == FaultCode::SubmitterNotAllowed);
    let reason = match not_allowed.or(faults.first()).map(|fault| fault.code) {
        Some(FaultCode::SubmitterNotAllowed) => "the submitter may not submit for this tenant",
        Some(FaultCode::NotJson) => "not a JSON document",
        Some(FaultCode::VersionConflict) => "this version is registered with other content",
        Some(FaultCode::ForeignTenant) => "the plan id belongs to another tenant",
        _ => "not a valid plan document",
    };
    Parked { reason: reason.to_owned(), faults }
}
