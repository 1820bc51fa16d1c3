//! The plans of a run, one after the other.

use std::num::NonZeroU32;

use dat_plan::Entropy as _;
use dat_plan::clock::SeededEntropy;
use uuid::Uuid;

use crate::blueprint::Blueprint;
use crate::event::End;

/// A plan to submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Submission {
    /// Its id.
    pub(crate) plan: Uuid,
    /// Its document.
    pub(crate) body: Vec<u8>,
    /// How it must end.
    pub(crate) expected: End,
}

/// Makes the plans of a run. The same seed makes the same plans.
#[derive(Debug)]
pub(crate) struct Workload<'a> {
    blueprint: &'a Blueprint,
    plans: u32,
    tenants: NonZeroU32,
    fail_share: f64,
    entropy: SeededEntropy,
    made: u32,
}

impl<'a> Workload<'a> {
    /// So many plans over so many tenants, of which a share fails.
    pub(crate) fn new(
        blueprint: &'a Blueprint,
        plans: u32,
        tenants: NonZeroU32,
        fail_share: f64,
        seed: u64,
    ) -> Self {
        Self { blueprint, plans, tenants, fail_share, entropy: SeededEntropy::new(seed), made: 0 }
    }

    /// How many plans there are.
    pub(crate) fn plans(&self) -> u32 {
        self.plans
    }

    /// How many plans are still to be made.
    pub(crate) fn left(&self) -> u32 {
        self.plans - self.made
    }

    /// Whether the `n`-th plan fails: those that do are spread evenly, and at most one off the share at any time.
    fn fails(&self, n: u32) -> bool {
        let failed_before = |n: u32| (f64::from(n) * self.fail_share).floor();
        failed_before(n.saturating_add(1)) > failed_before(n)
    }
}

impl Iterator for Workload<'_> {
    type Item = Submission;

    fn next(&mut self) -> Option<Submission> {
        if self.left() == 0 {
            return None;
        }
        let n = self.made;
        self.made += 1;
        let plan = self.entropy.id();
        let tenant = format!("load-{}", n % self.tenants);
        let refused = self.fails(n).then(|| self.entropy.below(self.blueprint.steps() as u64));
        let refused = refused.and_then(|place| usize::try_from(place).ok());
        let body = self.blueprint.document(plan, &tenant, refused);
        let expected = if refused.is_some() { End::Aborted } else { End::Completed };
        Some(Submission { plan, body, expected })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::command::{Connector, Shape};

    fn made(plans: u32, fail_share: f64, seed: u64) -> Vec<Submission> {
        let blueprint = Blueprint::generated(Shape::Sequence, Connector::Mux, 5);
        Workload::new(&blueprint, plans, NonZeroU32::new(3).expect("not zero"), fail_share, seed).collect()
    }

    #[test]
    fn a_seed_makes_the_same_plans_and_another_others() {
        assert_eq!(made(50, 0.3, 1), made(50, 0.3, 1));
        let ids: HashSet<Uuid> =
            made(50, 0.0, 1).into_iter().chain(made(50, 0.0, 2)).map(|s| s.plan).collect();
        assert_eq!(ids.len(), 100);
    }

    #[test]
    fn the_share_that_fails_is_exact() {
        for (share, meant) in [(0.0, 0), (0.25, 25), (0.5, 50), (1.0, 100)] {
            let failing = made(100, share, 9).iter().filter(|plan| plan.expected == End::Aborted).count();
            assert_eq!(failing, meant, "{share}");
        }
    }
}
