//! What a predicate reads: decides when it can be evaluated, and what a decision's record must hold.

use std::collections::BTreeSet;

/// What a predicate, or a set of them, looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads {
    /// `now`: another moment may give another answer.
    pub now: bool,
    /// A field of `step`: it can be evaluated only for a step.
    pub step: bool,
    /// A field of `budget`: spending may give another answer.
    pub budget: bool,
    /// `results`.
    pub results: ResultsRead,
}

/// Which results are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultsRead {
    /// Those of the steps with these keys; with no key, none at all.
    Of(BTreeSet<String>),
    /// Any: a key is computed, or the map is looked at as a whole.
    All,
}

impl Default for ResultsRead {
    fn default() -> Self {
        Self::Of(BTreeSet::new())
    }
}

impl ResultsRead {
    /// Whether any result is read.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

impl Reads {
    /// Whether it can be evaluated for a plan as a whole: it reads neither `step` nor `results`.
    #[must_use]
    pub fn plan_only(&self) -> bool {
        !self.step && !self.results.any()
    }

    /// Whether the same plan version may get another answer later: it reads more than `plan` and `tenant`.
    #[must_use]
    pub fn can_change(&self) -> bool {
        self.now || self.budget || !self.plan_only()
    }

    /// What both read together.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.now |= other.now;
        self.step |= other.step;
        self.budget |= other.budget;
        self.results = match (self.results, &other.results) {
            (ResultsRead::Of(mut keys), ResultsRead::Of(more)) => {
                keys.extend(more.iter().cloned());
                ResultsRead::Of(keys)
            }
            _ => ResultsRead::All,
        };
        self
    }

    pub(super) fn name(&mut self, name: &str) {
        match name {
            "now" => self.now = true,
            "step" => self.step = true,
            "budget" => self.budget = true,
            "results" => self.results = ResultsRead::All,
            _ => {}
        }
    }

    pub(super) fn result(&mut self, key: &str) {
        if let ResultsRead::Of(keys) = &mut self.results {
            keys.insert(key.to_owned());
        }
    }
}
