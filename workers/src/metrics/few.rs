//! Labels whose values come from outside: the first so many are told apart, and all others are `other`.
//!
//! A name that anybody may choose would otherwise make a series for each of its values, in every worker and for as long
//! as it runs.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// What is said of values that came too late.
const OTHER: &str = "other";

/// The values of one label.
#[derive(Debug)]
pub(super) struct Few {
    most: usize,
    known: Mutex<BTreeSet<String>>,
}

impl Few {
    /// At most so many, besides `other`.
    pub(super) const fn new(most: usize) -> Self {
        Self { most, known: Mutex::new(BTreeSet::new()) }
    }

    /// The label for a value.
    pub(super) fn one(&self, value: &str) -> String {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(value) || (known.len() < self.most && known.insert(value.to_owned())) {
            value.to_owned()
        } else {
            OTHER.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_values_keep_their_names_and_all_others_share_one() {
        let few = Few::new(2);
        assert_eq!(
            ["usd", "token", "eur", "usd", "gbp"].map(|one| few.one(one)),
            ["usd", "token", "other", "usd", "other"]
        );
    }
}
