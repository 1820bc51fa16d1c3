//! Everything there is in the model: PostgreSQL's rows, the outside system's keys, Redis, and what workers remember.

use dat_plan::budget::Account;
use dat_plan::rollback::OutcomeClass;
use dat_plan::{PlanState, StepState};

/// What the plan may spend: one step with its undo at a time, and both only if the first costs less than it may.
pub(super) const LIMIT: i64 = 7;
/// The most that a step may cost.
pub(super) const ACTION: i64 = 3;
/// The most that its undo may cost.
pub(super) const UNDO: i64 = 1;
/// Attempts that count.
pub(super) const ATTEMPTS: u32 = 2;

/// A moment of the whole system.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// `budget_account` of the plan. A tenant's is asked and changed in the same transaction by the same arithmetic.
    pub(super) account: Account,
    /// `execution_plan.state`.
    pub(super) plan: PlanState,
    /// `execution_plan.undo_begun`.
    pub(super) undo_begun: bool,
    /// `budget_entry`, summed by word.
    pub(super) entries: Entries,
    /// The steps; neither needs the other.
    pub(super) steps: [Step; 2],
    /// Redis: whether there is a live copy of the account that says it is full. One that says anything else does what
    /// none does, so that there is no version either: any copy, however old, may be the one that is there.
    pub(super) copy_is_full: bool,
    /// The workers, a slot each.
    pub(super) workers: [Worker; 2],
    /// What may still go wrong.
    pub(super) mishaps: Mishaps,
}

/// Entries of the ledger, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Entries {
    /// Reserved, less what was released.
    pub(super) reserved: i64,
    pub(super) incurred: i64,
    pub(super) refunded: i64,
}

/// A step: its row, its reservations by attempt, what was booked for it, and what the outside system knows of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Step {
    pub(super) row: Row,
    /// `budget_reservation`; that of attempt `n` at `n − 1`.
    pub(super) reservations: Vec<Reservation>,
    /// What its entries say was incurred.
    pub(super) incurred: i64,
    pub(super) outside: Outside,
}

/// `execution_step`, of the step's action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "they are columns of a row")]
pub(super) struct Row {
    pub(super) state: StepState,
    pub(super) attempts: u8,
    pub(super) lost: u8,
    /// `key_number`.
    pub(super) key: u8,
    /// `lease_epoch`.
    pub(super) epoch: u8,
    /// `lease_until IS NOT NULL`.
    pub(super) leased: bool,
    pub(super) sent: bool,
    /// A failure that the coordinator has not ruled on.
    pub(super) undecided: bool,
    /// It did not fit, and the account has not changed since: asked again, it would get the same answer.
    pub(super) waits: bool,
    /// `last_outcome`.
    pub(super) last: OutcomeClass,
}

impl Default for Row {
    fn default() -> Self {
        Self {
            state: StepState::Ready,
            attempts: 0,
            lost: 0,
            key: 0,
            epoch: 0,
            leased: false,
            sent: false,
            undecided: false,
            waits: false,
            last: OutcomeClass::Ok,
        }
    }
}

/// What an attempt holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Reservation {
    pub(super) action_open: bool,
    pub(super) undo_open: bool,
    pub(super) undo: i64,
}

/// What the outside system knows: its keys, and what it charged.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Outside {
    /// By key number.
    pub(super) keys: Vec<Key>,
    /// Charged for answers without effect.
    pub(super) errors: i64,
    /// Charged for undoing.
    pub(super) undo: i64,
}

/// A key that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// Nothing happened under it yet.
    Free,
    /// Its effect happened, at this cost.
    Done(i64),
    /// A probe asked: nothing ever will.
    Sealed,
}

/// A process: what its slot is at, and the copy that it has yet to write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Worker {
    pub(super) slot: Slot,
    /// It says that the account is full.
    pub(super) copies_full: bool,
}

/// What a worker remembers between two acts. Steps are named by their place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Slot {
    #[default]
    Idle,
    /// It saw that the step is due, and nothing in Redis spoke against it.
    Looked {
        step: usize,
        /// What the account said then; only the broken variant goes by it.
        fitted: bool,
    },
    /// It claimed an attempt, and has not sent anything.
    Claimed(Lease),
    /// Its lease held when it sent the request, which is on its way.
    Sent(Lease),
    /// It claimed a probe, and has not asked.
    Probing(Lease),
    /// It knows what came of it, and has not written it.
    Found(Lease, Finding),
}

/// The right to write what came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Lease {
    pub(super) step: usize,
    pub(super) epoch: u8,
    /// The key number of its request.
    pub(super) key: u8,
}

/// What was found out about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Finding {
    Done(i64),
    Error(i64),
    Refused,
    NotSent,
    Unanswered,
    Sealed,
}

/// How often things may still go wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Mishaps {
    /// A worker dies.
    pub(super) crashes: u8,
    /// A worker is cut off: its lease runs out while it lives, or it does not hear that its settlement was committed.
    pub(super) cut_offs: u8,
}

impl World {
    /// An executing plan with two ready steps, and two workers.
    pub(super) fn start(mishaps: Mishaps) -> Self {
        Self {
            account: Account::new(LIMIT),
            plan: PlanState::Executing,
            undo_begun: false,
            entries: Entries::default(),
            steps: [Step::default(), Step::default()],
            copy_is_full: false,
            workers: [Worker::default(); 2],
            mishaps,
        }
    }

    /// The same moment, written in one way. Steps and workers have no names that anything depends on, and are put in
    /// order; of numbers that are only ever compared, their order is kept; what nobody will read again is dropped.
    pub(super) fn in_order(mut self) -> Self {
        self.forget();
        self.renumber();
        if self.steps[1] < self.steps[0] {
            self.steps.swap(0, 1);
            for worker in &mut self.workers {
                worker.slot.rename(|step| 1 - step);
            }
        }
        self.workers.sort_unstable();
        self
    }

    fn forget(&mut self) {
        for row in self.steps.iter_mut().map(|step| &mut step.row) {
            if row.state != StepState::Unknown && !row.undecided {
                row.last = OutcomeClass::Ok;
            }
        }
        if self.undo_begun || self.plan.is_end() {
            // Nothing is in flight any more: whoever still is at something has lost its lease, and is as good as dead.
            self.mishaps = Mishaps::default();
        }
        if self.plan != PlanState::Executing {
            // Nothing is claimed any more, so that no copy is looked at.
            self.copy_is_full = false;
            for worker in &mut self.workers {
                worker.copies_full = false;
            }
        }
    }

    fn renumber(&mut self) {
        for worker in &mut self.workers {
            if let Some(lease) = worker.slot.lease_mut() {
                // Epochs only rise: a lease is the present one, or never will be again.
                lease.epoch = u8::from(lease.epoch == self.steps[lease.step].row.epoch);
            }
        }
        for step in &mut self.steps {
            step.row.epoch = 1;
        }
    }

    /// Whether a living worker holds the step's present lease.
    pub(super) fn held_by_someone(&self, step: usize) -> bool {
        let epoch = self.steps[step].row.epoch;
        let holds = |lease: Lease| lease.step == step && lease.epoch == epoch;
        self.workers.iter().any(|worker| worker.slot.lease().is_some_and(holds))
    }

    /// Whether the lease is the step's present one, and has not run out.
    pub(super) fn holds(&self, lease: Lease) -> bool {
        let row = &self.steps[lease.step].row;
        row.leased && row.epoch == lease.epoch
    }
}

impl Slot {
    /// The lease it is at work under.
    pub(super) const fn lease(&self) -> Option<Lease> {
        match self {
            Self::Idle | Self::Looked { .. } => None,
            Self::Claimed(lease) | Self::Sent(lease) | Self::Probing(lease) | Self::Found(lease, _) => {
                Some(*lease)
            }
        }
    }

    const fn lease_mut(&mut self) -> Option<&mut Lease> {
        match self {
            Self::Idle | Self::Looked { .. } => None,
            Self::Claimed(lease) | Self::Sent(lease) | Self::Probing(lease) | Self::Found(lease, _) => {
                Some(lease)
            }
        }
    }

    fn rename(&mut self, name: impl Fn(usize) -> usize) {
        if let Self::Looked { step, .. } = self {
            *step = name(*step);
        }
        if let Some(lease) = self.lease_mut() {
            lease.step = name(lease.step);
        }
    }
}

impl Outside {
    /// What is held under a key.
    pub(super) fn key(&mut self, number: u8) -> &mut Key {
        let number = usize::from(number);
        if self.keys.len() <= number {
            self.keys.resize(number + 1, Key::Free);
        }
        &mut self.keys[number]
    }

    /// How often the step's effect happened.
    pub(super) fn effects(&self) -> usize {
        self.keys.iter().filter(|key| matches!(key, Key::Done(_))).count()
    }

    /// What its effects and its undo were charged at.
    pub(super) fn charged(&self) -> i64 {
        self.undo + self.keys.iter().map(|key| if let Key::Done(cost) = key { *cost } else { 0 }).sum::<i64>()
    }
}
