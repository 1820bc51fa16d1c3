//! What must hold at every moment, what must come in the end, and what must have been seen for the check to mean
//! anything.

use dat_plan::rollback::OutcomeClass;
use dat_plan::{PlanState, StepState};
use stateright::Property;

use super::Protocol;
use super::world::{Key, LIMIT, Slot, World};

/// Invariant 3.
pub(super) const WITHIN_LIMIT: &str = "settled and reserved are within the limit and the recorded overruns";
/// The ledger and the account say the same.
pub(super) const ENTRIES_NET: &str = "entries net to what the account says";
/// The account and the reservations say the same.
pub(super) const RESERVED_IS_HELD: &str = "what is reserved is what open reservations hold";
/// Nothing leaks.
pub(super) const OWNED: &str = "an open reservation has an owner";
/// Invariant 2.
pub(super) const ONE_EFFECT: &str = "a step has at most one effect";
/// Nothing is charged twice.
pub(super) const NOT_OVERCHARGED: &str = "nothing is charged that the outside system did not charge";
/// Nothing is forgotten.
pub(super) const ALL_CHARGED: &str = "when it is over every effect is charged";
/// Nothing waits for ever.
const ENDS: &str = "the plan ends";

/// All of them.
pub(super) fn all() -> Vec<Property<Protocol>> {
    let mut properties = vec![
        Property::always(WITHIN_LIMIT, |_, world: &World| {
            let account = world.account;
            account.settled + account.reserved <= LIMIT + account.overrun
        }),
        Property::always(ENTRIES_NET, |_, world: &World| {
            let (account, entries) = (world.account, world.entries);
            let covered = entries.incurred - account.overrun;
            account.settled == entries.incurred - entries.refunded
                && account.reserved == entries.reserved - covered
                && entries.incurred == world.steps.iter().map(|step| step.incurred).sum::<i64>()
        }),
        Property::always(RESERVED_IS_HELD, |_, world: &World| {
            let open = world.steps.iter().flat_map(|step| &step.reservations).filter(|r| r.action_open);
            let actions = super::world::ACTION * i64::try_from(open.count()).unwrap_or(i64::MAX);
            world.account.reserved == actions + world.held_for_undos()
        }),
        Property::always(OWNED, |_, world: &World| {
            world.steps.iter().all(|step| {
                let current = usize::from(step.row.attempts);
                step.reservations.iter().enumerate().all(|(attempt, reservation)| {
                    let in_flight = attempt + 1 == current && step.row.state.is_in_flight();
                    (!reservation.action_open || in_flight)
                        && (!reservation.undo_open || !world.plan.is_end())
                })
            })
        }),
        Property::always(ONE_EFFECT, |_, world: &World| {
            world.steps.iter().all(|step| step.outside.effects() <= 1)
        }),
        Property::always(NOT_OVERCHARGED, |_, world: &World| {
            world.steps.iter().all(|step| step.incurred <= step.outside.charged() + step.outside.errors)
        }),
        // An error without effect whose worker died before it wrote it is sealed like a silence, and costs nothing.
        Property::always(ALL_CHARGED, |_, world: &World| {
            !world.plan.is_end() || world.steps.iter().all(|step| step.incurred >= step.outside.charged())
        }),
        // Looked at where nothing can happen any more; every act but a look takes something that is never given back.
        Property::eventually(ENDS, |_, world: &World| world.plan.is_end()),
    ];
    properties.extend(seen());
    properties
}

fn seen() -> [Property<Protocol>; 9] {
    [
        Property::sometimes("an overrun passes the limit", |_, world: &World| {
            world.account.settled + world.account.reserved > LIMIT
        }),
        Property::sometimes("the plan completes", |_, world: &World| world.plan == PlanState::Completed),
        Property::sometimes("the plan is undone and money comes back", |_, world: &World| {
            world.plan == PlanState::Aborted && world.entries.refunded > 0
        }),
        Property::sometimes("a step waits for room", |_, world: &World| {
            world.steps.iter().any(|step| step.row.waits)
        }),
        Property::sometimes("a step is refused for good", |_, world: &World| {
            let refused = OutcomeClass::Refused;
            world.steps.iter().any(|step| step.row.last == refused && step.row.attempts == 0)
        }),
        Property::sometimes("both attempts of a step are charged", |_, world: &World| {
            world.steps.iter().any(|step| {
                step.row.state == StepState::Completed && step.row.attempts == 2 && step.outside.errors > 0
            })
        }),
        Property::sometimes("a worker knows an effect and has lost its lease", |_, world: &World| {
            world.workers.iter().any(|worker| {
                matches!(worker.slot, Slot::Found(lease, super::world::Finding::Done(_)) if !world.holds(lease))
            })
        }),
        Property::sometimes("a key is sealed while its request is on its way", |_, world: &World| {
            world.workers.iter().any(|worker| {
                matches!(worker.slot, Slot::Sent(lease)
                    if world.steps[lease.step].outside.keys.get(usize::from(lease.key)) == Some(&Key::Sealed))
            })
        }),
        Property::sometimes("an old copy postpones what would fit", |_, world: &World| {
            let fits = |step| world.account.fits(world.need(step));
            world.copy_is_full
                && (0..2).any(|step| world.steps[step].row.state == StepState::Ready && fits(step))
        }),
    ]
}
