//! What one look found, divided: which tenants are claimed apart, and what fits in the slots that are free. Pure; the
//! dispatcher asks, and acts.

use std::collections::BTreeMap;

use dat_store::Candidate;

use crate::limits::Limited;

/// Candidates, each with its plan.
type Batch<P> = Vec<(Candidate, P)>;

/// From so many units of one tenant on, they are claimed apart from those of others.
const MANY: usize = 16;

/// Takes the tenant with the most units apart, where it has many and others have some: what the others have does not
/// wait until a large transaction is written.
pub(crate) fn apart<P>(batch: Batch<P>) -> (Batch<P>, Batch<P>) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (candidate, _) in &batch {
        *counts.entry(candidate.tenant.as_str()).or_default() += 1;
    }
    let largest = counts.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > MANY);
    let Some(largest) = largest.filter(|_| counts.len() > 1).map(|(tenant, _)| (*tenant).to_owned()) else {
        return (batch, Vec::new());
    };
    batch.into_iter().partition(|(candidate, _)| candidate.tenant != largest)
}

/// Leaves `free` units that pass, and what waits; gives the rest.
pub(crate) fn cut<P>(said: &mut Vec<Limited>, batch: &mut Batch<P>, free: usize) -> Batch<P> {
    let mut beyond = Vec::new();
    let mut room = free;
    let (whole_said, whole_batch) = (std::mem::take(said), std::mem::take(batch));
    for (one, candidate) in whole_said.into_iter().zip(whole_batch) {
        let takes = !matches!(one, Limited::Wait { .. });
        if takes && room == 0 {
            beyond.push(candidate);
            continue;
        }
        room -= usize::from(takes);
        said.push(one);
        batch.push(candidate);
    }
    beyond
}

/// Those whose turns were granted by the question just asked, and are free again if nothing comes of it. A step that came
/// with a slot keeps it: its row says so, and will pass by it without asking.
pub(crate) fn newly_granted<P>(beyond: &[(Candidate, P)]) -> impl Iterator<Item = &(Candidate, P)> {
    beyond.iter().filter(|(candidate, _)| candidate.rate_slot.is_none())
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use dat_plan::{PlanKey, UnitKey, UnitKind};
    use uuid::Uuid;

    use super::*;
    use crate::limits::Limiter;

    const SLOT: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn step(tenant: &str, index: i32, rate_slot: Option<DateTime<Utc>>) -> (Candidate, ()) {
        let candidate = Candidate {
            unit: UnitKey { plan: PlanKey::new(Uuid::nil(), 1), kind: UnitKind::Action, index },
            step_key: String::new(),
            tenant: tenant.to_owned(),
            connector: "mux".to_owned(),
            action: "do".to_owned(),
            attempt: 1,
            rate_slot,
            plan_account: None,
        };
        (candidate, ())
    }

    fn indexes<'a>(batch: impl IntoIterator<Item = &'a (Candidate, ())>) -> Vec<i32> {
        batch.into_iter().map(|(candidate, ())| candidate.unit.index).collect()
    }

    #[test]
    fn what_passes_takes_the_free_slots_in_order_and_what_waits_takes_none() {
        let wait =
            || Limited::Wait { until: SLOT, reason: String::new(), rate_slot: None, by: Limiter::Rate };
        let never = || Limited::Never(String::new());
        let mut said = vec![Limited::Pass, wait(), never(), Limited::Pass, wait()];
        let mut batch = (0..5).map(|index| step("a", index, None)).collect();
        let beyond = cut(&mut said, &mut batch, 2);
        assert_eq!((indexes(&batch), indexes(&beyond)), (vec![0, 1, 2, 4], vec![3]));
        assert_eq!(said, [Limited::Pass, wait(), never(), wait()]);
    }

    #[test]
    fn a_step_that_came_with_its_slot_keeps_the_turn_for_the_next_look() {
        let mut said = vec![Limited::Pass; 3];
        let mut batch = vec![step("a", 0, Some(SLOT)), step("a", 1, Some(SLOT)), step("a", 2, None)];
        let beyond = cut(&mut said, &mut batch, 0);
        assert_eq!(indexes(&beyond), [0, 1, 2]);
        assert_eq!(indexes(newly_granted(&beyond)), [2], "only what was granted just now is free again");
    }

    #[test]
    fn the_tenant_with_much_is_claimed_apart_where_others_have_something() {
        let crowd = |others: usize| -> Batch<()> {
            let many = (0..40).map(|index| step("much", index, None));
            many.chain((0..others).map(|_| step("little", 99, None))).collect()
        };
        let (first, then) = apart(crowd(2));
        assert_eq!((first.len(), then.len()), (2, 40));
        let (first, then) = apart(crowd(0));
        assert_eq!((first.len(), then.len()), (40, 0), "alone there is nobody to hold up");
        let few: Batch<()> = vec![step("a", 0, None), step("b", 1, None)];
        assert_eq!(apart(few).1.len(), 0, "few are one transaction");
    }
}
