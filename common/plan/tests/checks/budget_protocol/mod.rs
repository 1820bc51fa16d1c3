//! A model of the budget protocol as it is built, checked over every order in which things can happen.
//!
//! Two workers, two steps of two attempts that count; once a worker crashes between any two acts, and once one is cut
//! off: it lets its lease run out and goes on all the same, or does not hear that its settlement was committed, and
//! writes it again. Redis may be flushed at any moment, and any copy that a worker has yet to write may land at any
//! moment after. What is pure is not modelled but used: [`dat_plan::budget::Account`], the transition functions, the
//! coordinator's decision. The files follow the store's: `ledger` is `common/store/src/account`, `transactions` are its
//! transactions, `acts` is what workers do between them, `world` is every table and memory there is. A change of the
//! protocol is made here too.
//!
//! Left out: a tenant's accounts (the same arithmetic in the same transaction), operators, deadlines, `not_after` (the
//! seal is the stronger promise), and clocks: whatever could come of one is an act that is possible.

mod acts;
mod ledger;
mod properties;
mod transactions;
mod world;

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Property};

use acts::Act;
use world::{Mishaps, World};

/// The protocol, or one that lacks a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// As it is built.
    AsBuilt,
    /// Whether an amount fits is asked when the worker looks, not in the claim.
    CheckBeforeClaim,
    /// A settlement does not ask whose lease it is.
    NoFence,
    /// A settlement does not ask whether its attempt is settled.
    SettleRepeats,
    /// The plan's end settles again what is settled: `action_open` is not asked, whatever the fence does.
    CloseRepeats,
}

/// The model.
#[derive(Debug, Clone, Copy)]
struct Protocol {
    variant: Variant,
    mishaps: Mishaps,
}

/// At most one of each.
const ONE_EACH: Mishaps = Mishaps { crashes: 1, cut_offs: 1 };

impl Model for Protocol {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World::start(self.mishaps)]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        world.possible(acts);
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        world.after(self.variant, act)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "how much was looked at is what this test is worth")]
fn the_protocol_as_built_keeps_every_promise() {
    let protocol = Protocol { variant: Variant::AsBuilt, mishaps: ONE_EACH };
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    let (unique, depth) = (checker.unique_state_count(), checker.max_depth());
    eprintln!("{unique} states, at most {depth} acts from the start");
    checker.assert_properties();
    assert!(unique > 1_000_000, "only {unique} states were looked at");
}

/// The shortest way to the breach of a promise, in a protocol that lacks a guard.
fn breach(variant: Variant, promise: &'static str) -> Vec<Act> {
    let protocol = Protocol { variant, mishaps: ONE_EACH };
    let wanted = HasDiscoveries::AnyOf(BTreeSet::from([promise]));
    let checker = protocol.checker().threads(2).finish_when(wanted).spawn_bfs().join();
    let found = checker.discovery(promise);
    let Some(path) = found else { panic!("{variant:?} keeps it: {promise}") };
    path.into_actions()
}

#[test]
fn it_fails_when_the_account_check_leaves_the_claim_transaction() {
    breach(Variant::CheckBeforeClaim, properties::WITHIN_LIMIT);
}

#[test]
fn it_fails_when_the_fence_is_dropped() {
    breach(Variant::NoFence, properties::ALL_CHARGED);
    breach(Variant::NoFence, properties::ONE_EFFECT);
}

#[test]
fn it_fails_when_settle_is_not_idempotent() {
    breach(Variant::SettleRepeats, properties::NOT_OVERCHARGED);
    breach(Variant::CloseRepeats, properties::RESERVED_IS_HELD);
}
