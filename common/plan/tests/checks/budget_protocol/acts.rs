//! What can happen next, and what it does: each act is what one process does between two moments at which it can die.

use dat_plan::{PlanState, StepState};

use super::Variant;
use super::world::{ACTION, Finding, Key, Mishaps, Slot, Worker, World};

/// What happens. Workers and steps are named by their place, which [`World::in_order`] may change between two acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// A worker looks at what is due, and at the account's live copy.
    Look { worker: usize, step: usize },
    /// It claims what it saw.
    Claim { worker: usize },
    /// It asks its lease, and sends its request.
    Send { worker: usize },
    /// Its lease ran out before it sent anything, and nobody has noticed yet.
    HoldBack { worker: usize },
    /// Its request arrives, and comes to this.
    Arrive { worker: usize, ending: Ending },
    /// It claims a probe.
    Probe { worker: usize, step: usize },
    /// It asks the outside system, which seals the key if nothing happened.
    Ask { worker: usize },
    /// It writes what it found; whether it hears that this was committed.
    Settle { worker: usize, heard: bool },
    /// It writes the account's copy to Redis, however old that is by now.
    Copy { worker: usize },
    /// It ends, with all that it remembers, and starts anew.
    Crash { worker: usize },
    /// The sweeper ends a lease that ran out.
    Expire { step: usize },
    /// The coordinator rules on a failure.
    Rule { step: usize },
    /// The coordinator registers the undos.
    BeginUndo,
    /// An undo, at this cost, with so much coming back.
    Undo { step: usize, cost: i64, refund: i64 },
    /// Redis forgets: the copy's second is over, or everything was flushed.
    Forget,
}

/// What the outside system makes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The effect, at this cost.
    Done(i64),
    /// The effect, and the answer is lost.
    AnswerLost,
    /// No effect, and no answer.
    Timeout,
    /// A definite answer without effect, that costs 1.
    Error,
}

/// The effect, for less than was reserved, for as much, and for more; and what is no answer, or no effect.
const ENDINGS: [Ending; 6] = [
    Ending::Done(ACTION - 1),
    Ending::Done(ACTION),
    Ending::Done(ACTION + 2),
    Ending::AnswerLost,
    Ending::Timeout,
    Ending::Error,
];

/// At a cost of which more than that comes back, and for more than was held.
const UNDOS: [(i64, i64); 2] = [(1, 2), (2, 0)];
/// Of what had no effect.
const NO_UNDO: [(i64, i64); 1] = [(0, 0)];

impl World {
    /// Every act that is possible now.
    ///
    /// Once nothing can go wrong any more, what a worker does with a request of its own is between it and the outside
    /// system: it goes first, since every other order comes to the same (a persistent set of partial order reduction).
    pub(super) fn possible(&self, acts: &mut Vec<Act>) {
        let alone = |slot: Slot| matches!(slot, Slot::Claimed(lease) | Slot::Sent(lease) | Slot::Probing(lease) if self.holds(lease));
        if self.mishaps == Mishaps::default()
            && let Some(worker) = self.workers.iter().position(|worker| alone(worker.slot))
        {
            self.of_slot(worker, acts);
            return;
        }
        // Two workers in the same state can do the same.
        let alike = self.workers[0] == self.workers[1];
        for worker in 0..if alike { 1 } else { 2 } {
            self.of_worker(worker, acts);
        }
        for (step, row) in self.steps.iter().map(|step| &step.row).enumerate() {
            if row.state == StepState::Running && row.leased && self.may_run_out(step) {
                acts.push(Act::Expire { step });
            }
            if row.state == StepState::Failed && row.undecided {
                acts.push(Act::Rule { step });
            }
        }
        // One after the other.
        if let Some(step) = self.steps.iter().position(|step| step.row.state == StepState::Compensating) {
            let undos = if self.steps[step].outside.effects() > 0 { &UNDOS[..] } else { &NO_UNDO };
            acts.extend(undos.iter().map(|&(cost, refund)| Act::Undo { step, cost, refund }));
        }
        let in_flight = self.steps.iter().any(|step| step.row.state.is_in_flight());
        if self.plan == PlanState::RollingBack && !self.undo_begun && !in_flight {
            acts.push(Act::BeginUndo);
        }
        if self.copy_is_full {
            acts.push(Act::Forget);
        }
    }

    fn of_worker(&self, worker: usize, acts: &mut Vec<Act>) {
        let at = self.workers[worker];
        self.of_slot(worker, acts);
        if at.copies_full {
            acts.push(Act::Copy { worker });
        }
        // One that holds no lease has nothing that anybody could miss.
        if self.mishaps.crashes > 0 && at.slot.lease().is_some_and(|lease| self.holds(lease)) {
            acts.push(Act::Crash { worker });
        }
    }

    fn of_slot(&self, worker: usize, acts: &mut Vec<Act>) {
        match self.workers[worker].slot {
            Slot::Idle => {
                for (step, row) in self.steps.iter().map(|step| &step.row).enumerate() {
                    let due = row.state == StepState::Ready && !row.waits;
                    if due && self.plan == PlanState::Executing && !self.copy_is_full {
                        acts.push(Act::Look { worker, step });
                    }
                    if row.state == StepState::Unknown && (!row.leased || self.may_run_out(step)) {
                        acts.push(Act::Probe { worker, step });
                    }
                }
            }
            Slot::Looked { .. } => acts.push(Act::Claim { worker }),
            Slot::Claimed(lease) => {
                acts.push(Act::Send { worker });
                if self.mishaps.cut_offs > 0 && self.holds(lease) {
                    acts.push(Act::HoldBack { worker });
                }
            }
            Slot::Sent(lease) => {
                let keys = &self.steps[lease.step].outside.keys;
                let used = keys.get(usize::from(lease.key)).is_some_and(|key| *key != Key::Free);
                let endings = if used { &ENDINGS[..1] } else { &ENDINGS[..] };
                acts.extend(endings.iter().map(|&ending| Act::Arrive { worker, ending }));
            }
            Slot::Probing(_) => acts.push(Act::Ask { worker }),
            Slot::Found(..) => {
                acts.push(Act::Settle { worker, heard: true });
                if self.mishaps.cut_offs > 0 {
                    acts.push(Act::Settle { worker, heard: false });
                }
            }
        }
    }

    /// Whether the step's lease can have run out: nobody renews it, or its holder stalls.
    fn may_run_out(&self, step: usize) -> bool {
        self.mishaps.cut_offs > 0 || !self.held_by_someone(step)
    }

    fn runs_out(&mut self, step: usize) {
        if self.steps[step].row.leased && self.held_by_someone(step) {
            self.mishaps.cut_offs -= 1;
        }
    }

    /// The world after an act; `None` where the act changes nothing.
    pub(super) fn after(&self, variant: Variant, act: Act) -> Option<Self> {
        let mut world = self.clone();
        world.act(variant, act);
        let world = world.in_order();
        (world != *self).then_some(world)
    }

    fn act(&mut self, variant: Variant, act: Act) {
        match act {
            Act::Look { worker, step } => {
                let fitted = variant != Variant::CheckBeforeClaim || self.account.fits(self.need(step));
                self.workers[worker].slot = Slot::Looked { step, fitted };
            }
            Act::Crash { worker } => {
                self.workers[worker] = Worker::default();
                self.mishaps.crashes -= 1;
            }
            Act::Copy { worker } => {
                self.workers[worker].copies_full = false;
                self.copy_is_full = true;
            }
            Act::Probe { worker, step } => {
                self.runs_out(step);
                self.workers[worker].slot = self.claim_probe(step);
            }
            Act::Claim { .. }
            | Act::Send { .. }
            | Act::HoldBack { .. }
            | Act::Arrive { .. }
            | Act::Ask { .. }
            | Act::Settle { .. } => self.go_on(variant, act),
            Act::Expire { step } => {
                self.runs_out(step);
                self.expire(step);
            }
            Act::Rule { step } => self.rule(step),
            Act::BeginUndo => self.begin_undo(variant),
            Act::Undo { step, cost, refund } => {
                self.steps[step].outside.undo += cost;
                self.undo(variant, step, cost, refund);
            }
            Act::Forget => self.copy_is_full = false,
        }
    }

    /// What a worker does next with what it remembers.
    fn go_on(&mut self, variant: Variant, act: Act) {
        let (Act::Claim { worker }
        | Act::Send { worker }
        | Act::HoldBack { worker }
        | Act::Arrive { worker, .. }
        | Act::Ask { worker }
        | Act::Settle { worker, .. }) = act
        else {
            return;
        };
        let before = self.account;
        let slot = match (self.workers[worker].slot, act) {
            (Slot::Looked { step, fitted }, Act::Claim { .. }) => self.claim(variant, step, fitted),
            (Slot::Claimed(lease), Act::Send { .. }) if self.holds(lease) => Slot::Sent(lease),
            (Slot::Claimed(lease), Act::Send { .. }) => Slot::Found(lease, Finding::NotSent),
            (Slot::Claimed(lease), Act::HoldBack { .. }) => {
                self.mishaps.cut_offs -= 1;
                Slot::Found(lease, Finding::NotSent)
            }
            (Slot::Sent(lease), Act::Arrive { ending, .. }) => {
                Slot::Found(lease, self.arrive(lease.step, lease.key, ending))
            }
            (Slot::Probing(lease), Act::Ask { .. }) => {
                let key = self.steps[lease.step].outside.key(lease.key);
                if *key == Key::Free {
                    *key = Key::Sealed;
                }
                Slot::Found(
                    lease,
                    if let Key::Done(cost) = *key { Finding::Done(cost) } else { Finding::Sealed },
                )
            }
            (slot @ Slot::Found(lease, finding), Act::Settle { heard, .. }) => {
                self.settle(variant, lease, finding);
                if heard {
                    Slot::Idle
                } else {
                    self.mishaps.cut_offs -= 1;
                    slot
                }
            }
            (slot, _) => slot,
        };
        self.workers[worker].slot = slot;
        if self.account != before && !matches!(act, Act::Settle { heard: false, .. }) {
            // A copy is asked for the action's part alone.
            self.workers[worker].copies_full = !self.account.fits(ACTION);
        }
    }

    /// The outside system: an effect for each key at most once, and none under a sealed one.
    fn arrive(&mut self, step: usize, key: u8, ending: Ending) -> Finding {
        let outside = &mut self.steps[step].outside;
        match (*outside.key(key), ending) {
            (Key::Done(cost), _) => return Finding::Done(cost),
            (Key::Sealed, _) => return Finding::Refused,
            (Key::Free, Ending::Done(cost)) => *outside.key(key) = Key::Done(cost),
            (Key::Free, Ending::AnswerLost) => *outside.key(key) = Key::Done(ACTION),
            (Key::Free, Ending::Error) => outside.errors += 1,
            (Key::Free, Ending::Timeout) => {}
        }
        match ending {
            Ending::Done(cost) => Finding::Done(cost),
            Ending::AnswerLost | Ending::Timeout => Finding::Unanswered,
            Ending::Error => Finding::Error(1),
        }
    }
}
