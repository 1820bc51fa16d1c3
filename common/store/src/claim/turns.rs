//! Whose turn it is: tenants by weight, and within a tenant by priority, so that nobody starves.
//!
//! Start-time fair queueing. A tenant's *start* moves on by a unit, divided by its weight, with each unit that is picked
//! of it; the tenant whose start is lowest is next. One that comes, or comes back, starts where the last pick was: it is
//! neither owed for the time that it was away, nor behind whoever has 20,000 units waiting. The state is one process's
//! own: where each worker is fair, so is the fleet, and a worker that starts anew has nothing to read.

use std::collections::{BTreeMap, VecDeque};

use super::candidate::{Candidate, DueUnit};

/// What a pick moves a tenant of weight 1 on by. Divisible by every small weight.
const UNIT: i64 = 720_720;

/// One pick in so many of a tenant's goes to whoever waits longest, whatever its priority.
const AGED: u32 = 8;

/// How far each tenant has been served by this process.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    /// Where the last pick was.
    now: i64,
    /// Tenants that were served further than that, and what a unit moves each on by; all others start at `now`.
    ahead: BTreeMap<String, (i64, i64)>,
    /// Picks since the last aged one, of tenants with work of more than one priority.
    since_aged: BTreeMap<String, u32>,
}

/// What waits of one tenant, in each of the two orders; what was picked is skipped.
struct Queue {
    cost: i64,
    start: i64,
    by_priority: VecDeque<usize>,
    by_waiting: VecDeque<usize>,
    mixed: bool,
}

impl Turns {
    /// Tenants that are ahead, and by how much, as columns for the query.
    pub(super) fn columns(&self) -> (Vec<String>, Vec<i64>) {
        self.ahead.iter().map(|(tenant, (start, _))| (tenant.clone(), start - self.now)).unzip()
    }

    /// So many units of a tenant were claimed without a pick: its next turn is so much later. Of one that is not ahead of
    /// others they were nobody else's.
    pub fn served(&mut self, tenant: &str, units: u32) {
        if let Some((start, cost)) = self.ahead.get_mut(tenant) {
            *start += *cost * i64::from(units);
        }
    }

    /// Picks at most `limit` of what is due.
    pub(super) fn pick(&mut self, due: Vec<DueUnit>, limit: usize) -> Vec<Candidate> {
        let mut queues = self.queues(&due);
        let mut due: Vec<Option<Candidate>> = due.into_iter().map(|unit| Some(unit.candidate)).collect();
        let mut picked = Vec::new();
        while picked.len() < limit {
            let Some((tenant, queue)) =
                queues.iter_mut().min_by_key(|(tenant, queue)| (queue.start, *tenant))
            else {
                break;
            };
            let aged = queue.mixed && {
                let since = self.since_aged.entry(tenant.clone()).or_default();
                *since = (*since + 1) % AGED;
                *since == 0
            };
            let places = if aged { &mut queue.by_waiting } else { &mut queue.by_priority };
            let next = std::iter::from_fn(|| places.pop_front()).find_map(|place| due[place].take());
            let Some(candidate) = next else {
                let over = tenant.clone();
                queues.remove(&over);
                continue;
            };
            picked.push(candidate);
            self.now = queue.start;
            queue.start += queue.cost;
            self.ahead.insert(tenant.clone(), (queue.start, queue.cost));
        }
        // Whoever is not ahead starts at `now` anyway: what is kept is bounded by who was served lately.
        self.ahead.retain(|_, (start, _)| *start > self.now);
        self.since_aged.retain(|tenant, _| self.ahead.contains_key(tenant));
        picked
    }

    fn queues(&self, due: &[DueUnit]) -> BTreeMap<String, Queue> {
        let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, unit) in due.iter().enumerate() {
            places.entry(&unit.candidate.tenant).or_default().push(place);
        }
        places
            .into_iter()
            .map(|(tenant, mut places)| {
                let first = &due[places[0]];
                let mixed = places.iter().any(|place| due[*place].priority != first.priority);
                let cost = UNIT / i64::from(first.weight.max(1));
                places.sort_by_key(|place| (due[*place].not_before, due[*place].candidate.unit));
                let by_waiting = places.iter().copied().collect();
                // A slot of the rate schedule serves for a short time only: those whose time has come go first.
                places.sort_by_key(|place| (!due[*place].slot_has_come, -due[*place].priority));
                let start = self.ahead.get(tenant).map_or(self.now, |(start, _)| *start).max(self.now);
                let queue =
                    Queue { cost, start, by_priority: places.into_iter().collect(), by_waiting, mixed };
                (tenant.to_owned(), queue)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};
    use dat_plan::{PlanKey, UnitKey, UnitKind};
    use uuid::Uuid;

    use super::*;

    fn unit(tenant: &str, weight: i16, priority: i16, waits_since: i64) -> DueUnit {
        let plan = PlanKey::new(Uuid::nil(), 1);
        let index = i32::try_from(waits_since).unwrap();
        DueUnit {
            candidate: Candidate {
                unit: UnitKey { plan, kind: UnitKind::Action, index },
                step_key: String::new(),
                tenant: tenant.to_owned(),
                connector: "mux".to_owned(),
                action: "do".to_owned(),
                attempt: 1,
                rate_slot: None,
                plan_account: None,
            },
            priority,
            not_before: DateTime::UNIX_EPOCH + TimeDelta::seconds(waits_since),
            weight,
            slot_has_come: false,
        }
    }

    /// So many picks, one at a time, of tenants that always have more to do.
    fn served(turns: &mut Turns, tenants: &[(&str, i16)], picks: usize) -> BTreeMap<String, usize> {
        let mut served = BTreeMap::new();
        for _ in 0..picks {
            let due = tenants.iter().map(|(tenant, weight)| unit(tenant, *weight, 4, 0)).collect();
            for candidate in turns.pick(due, 1) {
                *served.entry(candidate.tenant).or_default() += 1;
            }
        }
        served
    }

    #[test]
    fn tenants_are_served_by_weight_also_one_unit_at_a_time() {
        let tenants = [("a", 1), ("b", 3), ("c", 100)];
        let served = served(&mut Turns::default(), &tenants, 1_040);
        for (tenant, weight) in tenants {
            let share = usize::try_from(weight).unwrap() * 10;
            let found = served.get(tenant).copied().unwrap_or_default();
            assert!(found.abs_diff(share) <= 1, "{tenant} was served {found} times, not {share}");
        }
    }

    #[test]
    fn who_comes_later_is_next_and_is_owed_nothing() {
        let mut turns = Turns::default();
        served(&mut turns, &[("a", 1)], 1_000);
        let first = served(&mut turns, &[("a", 1), ("b", 1)], 2);
        assert_eq!(first.get("b"), Some(&1), "{first:?}");
        let both = served(&mut turns, &[("a", 1), ("b", 1)], 100);
        assert!(both["a"].abs_diff(both["b"]) <= 1, "{both:?}");
        assert!(turns.ahead.len() <= 2);
    }

    #[test]
    fn what_went_on_without_a_pick_counts_in_a_tenants_turns() {
        let mut turns = Turns::default();
        let mut picked: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..200 {
            let due = ["chain", "wide"].map(|tenant| unit(tenant, 1, 4, 0)).into();
            for candidate in turns.pick(due, 1) {
                *picked.entry(candidate.tenant.clone()).or_default() += 1;
                if candidate.tenant == "chain" {
                    turns.served("chain", 3); // each pick of it goes on for three more steps
                }
            }
        }
        assert!(picked["wide"].abs_diff(4 * picked["chain"]) <= 4, "{picked:?}");
        turns.served("nobody", 1_000);
        let due = vec![unit("nobody", 1, 4, 0)];
        assert_eq!(turns.pick(due, 1).len(), 1, "who was not ahead owes nothing");
    }

    #[test]
    fn within_a_tenant_priority_counts_and_one_pick_in_eight_goes_by_waiting_alone() {
        let mut turns = Turns::default();
        let mut low = 0;
        for round in 0..80 {
            // High priorities never end; what is low waits since before.
            let due = vec![unit("a", 1, 9, 100 + round), unit("a", 1, 1, 1), unit("a", 1, 9, 99 + round)];
            let picked = turns.pick(due, 1);
            low += usize::from(picked[0].unit.index == 1);
        }
        assert_eq!(low, 10);
    }

    #[test]
    fn what_is_picked_is_picked_once_and_at_most_so_many() {
        let due = || (0..10).map(|n| unit("a", 1, i16::try_from(n % 3).unwrap(), n)).collect::<Vec<_>>();
        let mut all: Vec<i32> = Turns::default().pick(due(), 100).into_iter().map(|c| c.unit.index).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert_eq!(Turns::default().pick(due(), 4).len(), 4);
    }
}
