//! What must come of each valid plan document.

use dat_plan::PlanState;
use dat_plan::StepState::{self, Completed, Failed, RolledBack, Skipped};

/// What must come of one document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expect {
    pub(crate) file: &'static str,
    pub(crate) state: PlanState,
    /// Settled by the ledger, net of refunds; what FLO nets.
    pub(crate) spent: i64,
    /// What is left of the budget.
    pub(crate) left: i64,
    pub(crate) steps: Steps,
    /// Undos that ran, by the key of what they undo, in order.
    pub(crate) undone: &'static [&'static str],
    /// Steps of which nothing was ever sent.
    pub(crate) unsent: &'static [&'static str],
    /// Attempts of a step that needed more than one.
    pub(crate) attempts: Option<(&'static str, i32)>,
    /// Soft violations: of which constraint, before which step.
    pub(crate) soft: &'static [(&'static str, &'static str)],
    /// Whether several steps were in flight at once.
    pub(crate) side_by_side: bool,
}

/// How the steps of a plan must end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Steps {
    /// All alike, so many.
    All(usize, StepState),
    /// Each by its key.
    Each(&'static [(&'static str, StepState)]),
}

impl Expect {
    /// A plan that completes, all steps at their first attempt, with nothing left over to say.
    const fn completed(file: &'static str, steps: usize, spent: i64, left: i64) -> Self {
        Self {
            file,
            state: PlanState::Completed,
            spent,
            left,
            steps: Steps::All(steps, Completed),
            undone: &[],
            unsent: &[],
            attempts: None,
            soft: &[],
            side_by_side: false,
        }
    }

    /// A plan that is unwound.
    const fn aborted(file: &'static str, spent: i64, left: i64, steps: Steps) -> Self {
        Self { state: PlanState::Aborted, steps, ..Self::completed(file, 0, spent, left) }
    }
}

/// In both folders, under other ids.
pub(crate) const COMMON: [Expect; 5] = [
    Expect {
        undone: &["promotion"],
        unsent: &["order"],
        ..Expect::aborted(
            "launch-accessory.json",
            20_000,
            480_000,
            Steps::Each(&[("listing", Completed), ("promotion", RolledBack), ("order", Skipped)]),
        )
    },
    Expect {
        soft: &[("pace", "order")],
        ..Expect::completed("launch-accessory-ok.json", 3, 420_000, 80_000)
    },
    Expect { side_by_side: true, ..Expect::completed("reprice-catalog.json", 40, 4_000, 0) },
    Expect {
        attempts: Some(("publish", 3)),
        ..Expect::completed("agent-research.json", 6, 15_636, 30_000 - 15_636)
    },
    Expect {
        undone: &["order-2", "order-1"],
        unsent: &["order-3"],
        ..Expect::aborted(
            "runs-out-of-budget.json",
            0,
            250,
            Steps::Each(&[("order-1", RolledBack), ("order-2", RolledBack), ("order-3", Failed)]),
        )
    },
];

/// The project's own besides.
pub(crate) const OWN: [Expect; 5] = [
    Expect { side_by_side: true, ..Expect::completed("dag.json", 17, 865, 1_135) },
    Expect { side_by_side: true, ..Expect::completed("pipeline.json", 30, 97, 103) },
    // The effect is found by a probe: one attempt, one effect, one payment.
    Expect::completed("lost-reply.json", 2, 25, 5),
    // Its own list is run in its order, instead of what the steps have.
    Expect {
        undone: &["apologise", "cancel"],
        ..Expect::aborted(
            "own-list.json",
            50,
            550,
            Steps::Each(&[("reserve", Completed), ("invite", Failed)]),
        )
    },
    Expect {
        state: PlanState::Rejected,
        ..Expect::aborted("rejected.json", 0, 90_000, Steps::All(0, Skipped))
    },
];

/// The contract's besides: runs of real workflows.
pub(crate) const WORKFLOWS: [Expect; 3] = [
    Expect { side_by_side: true, ..Expect::completed("wf-sarek-dirt02-001.json", 26, 409, 0) },
    Expect {
        side_by_side: true,
        ..Expect::completed("wf-epigenomics-chameleon-hep-1seq-50k-001.json", 73, 1_284, 0)
    },
    Expect { side_by_side: true, ..Expect::completed("wf-rnaseq-dirt02-001.json", 197, 2_643, 0) },
];
