//! The order of a plan's steps: which need which, and in which order what was done is undone.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::document::PlanDocument;

/// Undos that wait for more than this many others through one step that is not undone wait for one of these instead,
/// which waits for the rest: two wide fans around such a step would else make an edge of every pair.
const WIDE: usize = 16;

/// The steps of a plan by their place in the document, and what each needs. Always without a cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    needs: Vec<Vec<usize>>,
    successors: Vec<Vec<usize>>,
    order: Vec<usize>,
}

/// A document whose steps cannot be put in order; one that passed [`crate::check::plan`] can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoOrder {
    /// A step needs one that is not there.
    #[error("step {step} needs '{need}', which is not a step of the plan")]
    UnknownNeed {
        /// The step's place in the document.
        step: usize,
        /// The key that it needs.
        need: String,
    },
    /// Steps need each other, directly or by way of others.
    #[error("the steps' needs form a cycle")]
    Cycle,
}

/// The undoing of one step, among those that are undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndoNode {
    /// The place in the document of the step that is undone.
    pub step: usize,
    /// How many other undos must be over before it may start.
    pub waits_for: usize,
    /// The undos that have one fewer to wait for once it is over.
    pub unlocks: Vec<usize>,
}

impl Graph {
    /// The graph of a document: a step without `needs` needs the step before it, one with `[]` needs none.
    ///
    /// Fails where a need names no step or needs form a cycle.
    pub fn of(document: &PlanDocument) -> Result<Self, NoOrder> {
        let index: HashMap<&str, usize> =
            document.steps.iter().enumerate().rev().map(|(step, found)| (found.key.as_str(), step)).collect();
        let mut needs = Vec::with_capacity(document.steps.len());
        for (step, found) in document.steps.iter().enumerate() {
            needs.push(match &found.needs {
                None => implicit_need(step),
                Some(keys) => keys
                    .iter()
                    .map(|key| {
                        let unknown = || NoOrder::UnknownNeed { step, need: key.to_string() };
                        index.get(key.as_str()).copied().ok_or_else(unknown)
                    })
                    .collect::<Result<_, _>>()?,
            });
        }
        let order = order(&needs);
        if order.len() < needs.len() {
            return Err(NoOrder::Cycle);
        }
        Ok(Self { successors: successors(&needs), needs, order })
    }

    /// The number of steps.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.needs.len()
    }

    /// Whether there is no step.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.needs.is_empty()
    }

    /// The steps that must have completed before a step starts; none for a step that is not there.
    #[must_use]
    pub fn needs(&self, step: usize) -> &[usize] {
        self.needs.get(step).map_or(&[], Vec::as_slice)
    }

    /// The steps that need a step directly; none for a step that is not there.
    #[must_use]
    pub fn successors(&self, step: usize) -> &[usize] {
        self.successors.get(step).map_or(&[], Vec::as_slice)
    }

    /// The steps that need nothing: the first to run.
    pub fn roots(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).filter(|step| self.needs(*step).is_empty())
    }

    /// Every step, each after all that it needs.
    #[must_use]
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// All steps that must have completed before a step starts.
    #[must_use]
    pub fn ancestors(&self, step: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut open = vec![step];
        while let Some(next) = open.pop() {
            open.extend(self.needs(next).iter().filter(|need| found.insert(**need)));
        }
        found
    }

    /// Whether `ancestor` must have completed before `step` starts. A step is not its own ancestor.
    #[must_use]
    pub fn is_ancestor(&self, ancestor: usize, step: usize) -> bool {
        let mut seen = vec![false; self.len()];
        let mut open = VecDeque::from([step]);
        while let Some(next) = open.pop_front() {
            if self.needs(next).contains(&ancestor) {
                return true;
            }
            open.extend(self.needs(next).iter().filter(|need| !std::mem::replace(&mut seen[**need], true)));
        }
        false
    }

    /// The order in which steps are undone: each undo comes after the undo of all that was built on its step.
    ///
    /// The undo of a step waits for those of its nearest descendants in `undone`, found through steps that are not.
    /// Where more than 16 of these stand behind one such step, they are gathered: all but the earliest unlock the
    /// earliest, and the earliest alone unlocks what waits for all of them, so that the edges stay linear in the
    /// plan's. Undos come newest first, each after all that it waits for. Places that the plan does not have are
    /// left out.
    #[must_use]
    pub fn undo_order(&self, undone: &BTreeSet<usize>) -> Vec<UndoNode> {
        let mut position = vec![0; self.len()];
        for (place, step) in self.order.iter().enumerate() {
            position[*step] = place;
        }
        // Of each step: the undos that, once over, mean that it and everything behind it is undone.
        let mut last: Vec<Vec<usize>> = vec![Vec::new(); self.len()];
        let mut unlocked_by: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.len()];
        for step in self.order.iter().rev().copied() {
            let behind: BTreeSet<usize> =
                self.successors(step).iter().flat_map(|next| last[*next].clone()).collect();
            if undone.contains(&step) {
                unlocked_by[step].extend(behind);
                last[step] = vec![step];
            } else if behind.len() > WIDE {
                let earliest = behind.iter().copied().min_by_key(|undo| position[*undo]);
                if let Some(gate) = earliest {
                    unlocked_by[gate].extend(behind.into_iter().filter(|undo| *undo != gate));
                    last[step] = vec![gate];
                }
            } else {
                last[step] = behind.into_iter().collect();
            }
        }
        let mut unlocks: Vec<Vec<usize>> = vec![Vec::new(); self.len()];
        for (step, earlier) in unlocked_by.iter().enumerate() {
            for undo in earlier {
                unlocks[*undo].push(step);
            }
        }
        let newest_first = self.order.iter().rev().copied().filter(|step| undone.contains(step));
        newest_first
            .map(|step| UndoNode {
                step,
                waits_for: unlocked_by[step].len(),
                unlocks: std::mem::take(&mut unlocks[step]),
            })
            .collect()
    }
}

/// What a step without `needs` needs: the step before it.
pub(crate) fn implicit_need(step: usize) -> Vec<usize> {
    step.checked_sub(1).into_iter().collect()
}

/// The reverse of `needs`.
fn successors(needs: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut successors = vec![Vec::new(); needs.len()];
    for (step, needed) in needs.iter().enumerate() {
        for need in needed {
            successors[*need].push(step);
        }
    }
    successors
}

/// Steps, each after all that it needs (Kahn, 1962); those on a cycle, and those behind one, are left out.
pub(crate) fn order(needs: &[Vec<usize>]) -> Vec<usize> {
    let successors = successors(needs);
    let mut unmet: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut order: Vec<usize> = (0..needs.len()).filter(|step| unmet[*step] == 0).collect();
    let mut next = 0;
    while let Some(step) = order.get(next).copied() {
        next += 1;
        for successor in &successors[step] {
            unmet[*successor] -= 1;
            if unmet[*successor] == 0 {
                order.push(*successor);
            }
        }
    }
    order
}
