//! The store's transactions, each one act of the model: what `common/store` writes in it happens at once or not at all.

use chrono::{DateTime, TimeDelta};
use dat_plan::clock::SeededEntropy;
use dat_plan::document::{Retry, RollbackKind};
use dat_plan::rollback::{self, Decision, FailedUnit, OutcomeClass};
use dat_plan::{PlanState, StepState, UnitKind};

use super::Variant;
use super::world::{ATTEMPTS, Finding, Lease, Slot, World};

impl World {
    /// `Store::claim`: under the locks of plan, step and account. Gives what the worker holds after it.
    pub(super) fn claim(&mut self, variant: Variant, step: usize, fitted: bool) -> Slot {
        let row = self.steps[step].row;
        if row.state != StepState::Ready || self.plan != PlanState::Executing {
            return Slot::Idle; // another worker took it, or its plan is held
        }
        let need = self.need(step);
        let fits = match variant {
            Variant::CheckBeforeClaim => fitted,
            _ => self.account.fits(need),
        };
        if !fits {
            if self.account.never_fits(self.held_for_undos(), need) {
                let row = &mut self.steps[step].row;
                row.state = to(row.state, StepState::Failed);
                row.undecided = true;
                row.last = OutcomeClass::Refused;
            } else {
                self.steps[step].row.waits = true;
            }
            return Slot::Idle;
        }
        self.reserve(step);
        let row = &mut self.steps[step].row;
        row.state = to(row.state, StepState::Running);
        row.attempts += 1;
        row.epoch += 1;
        row.leased = true;
        Slot::Claimed(Lease { step, epoch: row.epoch, key: row.key })
    }

    /// `Store::settle`: what a worker found, written under its lease. Gives whether anything was written.
    pub(super) fn settle(&mut self, variant: Variant, lease: Lease, finding: Finding) -> bool {
        let row = self.steps[lease.step].row;
        let written = match variant {
            // The transition function still refuses what the lifecycle does not have.
            Variant::NoFence => row.state.is_in_flight() && row.state.to(finding.state()).is_ok(),
            Variant::SettleRepeats => row.epoch == lease.epoch && row.attempts > 0,
            _ => row.epoch == lease.epoch && row.leased && row.state.is_in_flight(),
        };
        if written {
            self.write(variant, lease.step, finding);
            self.end_if_done(variant);
        }
        written
    }

    fn write(&mut self, variant: Variant, step: usize, finding: Finding) {
        let row = &mut self.steps[step].row;
        // As in the code it is the row's present attempt that is settled: the fence says that it is the lease's.
        let attempt = usize::from(row.attempts - 1);
        let was_lost = row.last == OutcomeClass::Lost;
        let state = finding.state();
        let last = match finding {
            Finding::Done(_) => OutcomeClass::Ok,
            Finding::Error(_) => OutcomeClass::Error,
            Finding::Refused => OutcomeClass::Refused,
            Finding::NotSent => OutcomeClass::Lost,
            Finding::Unanswered => OutcomeClass::Unknown,
            Finding::Sealed if was_lost => OutcomeClass::Lost,
            Finding::Sealed => OutcomeClass::TimedOut,
        };
        if row.state.is_in_flight() && row.state.to(state).is_ok() {
            row.state = state;
            row.last = last;
            row.lost += u8::from(last == OutcomeClass::Lost);
            row.key += u8::from(finding == Finding::Sealed);
            row.sent |= finding != Finding::NotSent;
            row.undecided = state == StepState::Failed;
            row.leased = false;
        }
        if state == StepState::Unknown {
            return; // what it costs, the probe's settlement says
        }
        self.settle_action(step, attempt, finding.cost(), variant);
        if finding == Finding::NotSent {
            self.release_undo_of(step, attempt);
        }
    }

    fn end_if_done(&mut self, variant: Variant) {
        let all = |state| self.steps.iter().all(|step| step.row.state == state);
        if self.plan == PlanState::Executing && all(StepState::Completed) {
            self.end(variant, PlanState::Completed);
        }
    }

    fn end(&mut self, variant: Variant, state: PlanState) {
        self.close(variant);
        self.plan = self.plan.to(state).expect("the lifecycle has this arrow");
    }

    /// `Store::expire_leases`, for a step whose lease ran out.
    pub(super) fn expire(&mut self, step: usize) {
        let row = &mut self.steps[step].row;
        row.state = to(row.state, StepState::Unknown);
        row.sent = true;
        row.last = OutcomeClass::Lost;
        row.epoch += 1;
        row.leased = false;
    }

    /// `Store::claim_probes`, for a step whose outcome is unknown.
    pub(super) fn claim_probe(&mut self, step: usize) -> Slot {
        let row = &mut self.steps[step].row;
        row.epoch += 1;
        row.leased = true;
        Slot::Probing(Lease { step, epoch: row.epoch, key: row.key })
    }

    /// `Store::rule`: the coordinator's pure decision about a failure, carried out.
    pub(super) fn rule(&mut self, step: usize) {
        let row = &mut self.steps[step].row;
        let unit = FailedUnit {
            kind: UnitKind::Action,
            last: row.last,
            attempts: i32::from(row.attempts - row.lost),
            lost: i32::from(row.lost),
            since: DateTime::UNIX_EPOCH,
            retry: &Retry { max_attempts: ATTEMPTS, initial_ms: 0, ..Retry::default() },
            retry_after: TimeDelta::zero(),
            plan_goes_on: self.plan == PlanState::Executing,
        };
        let now = DateTime::UNIX_EPOCH;
        row.undecided = false;
        match rollback::decide(&unit, RollbackKind::Automatic, now, &SeededEntropy::new(0)) {
            Decision::Retry { .. } => row.state = to(row.state, StepState::Ready),
            _ if self.plan == PlanState::Executing => self.start_rollback(),
            _ => {}
        }
    }

    fn start_rollback(&mut self) {
        self.plan = self.plan.to(PlanState::RollingBack).expect("an executing plan can roll back");
        for row in self.steps.iter_mut().map(|step| &mut step.row) {
            if row.state == StepState::Ready {
                row.state = to(row.state, if row.sent { StepState::Failed } else { StepState::Skipped });
            }
            row.undecided &= row.state != StepState::Failed;
            row.waits = false;
        }
    }

    /// `Store::begin_undo`: once nothing is in flight, everything that was sent is to be undone.
    pub(super) fn begin_undo(&mut self, variant: Variant) {
        self.undo_begun = true;
        for row in self.steps.iter_mut().map(|step| &mut step.row).filter(|row| row.sent) {
            row.state = to(row.state, StepState::Compensating);
        }
        self.abort_if_undone(variant);
    }

    /// An undo from its claim to its settlement. Its lease, fence and probe are an action's, by the same code, and the
    /// budget does not gate it: here it is one act.
    pub(super) fn undo(&mut self, variant: Variant, step: usize, cost: i64, refund: i64) {
        self.settle_undo(step, cost);
        self.release_undo(step);
        if refund > 0 {
            self.refund(refund);
        }
        let row = &mut self.steps[step].row;
        row.state = to(row.state, StepState::RolledBack);
        self.abort_if_undone(variant);
    }

    fn abort_if_undone(&mut self, variant: Variant) {
        if self.steps.iter().all(|step| step.row.state != StepState::Compensating) {
            self.end(variant, PlanState::Aborted);
        }
    }
}

fn to(from: StepState, state: StepState) -> StepState {
    from.to(state).unwrap_or_else(|illegal| panic!("{illegal}"))
}
