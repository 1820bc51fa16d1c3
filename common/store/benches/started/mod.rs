//! Plans of a benchmark on their way.

use dat_plan::signing::KeyRing;

use crate::database::{Db, at};
use crate::plans::Plan;

/// Registers, approves and admits plans, each in one transaction for all: their first steps are ready.
pub(crate) async fn start(db: &Db, plans: &[Plan]) {
    let registrations: Vec<_> = plans.iter().map(Plan::registration).collect();
    db.store.register(&registrations, at(0)).await.expect("they are registered");
    let approvals: Vec<_> = plans.iter().map(|plan| plan.approval("d1")).collect();
    db.store.bind_verdicts(&approvals, &KeyRing::default(), at(0)).await.expect("they are approved");
    let admissions: Vec<_> = plans.iter().map(Plan::admission).collect();
    db.store.admit(&admissions, at(0)).await.expect("they are admitted");
}
