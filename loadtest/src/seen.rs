//! A set of texts, kept small.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Which texts were seen, as sorted 64-bit hashes: 8 bytes each, and one allocation a set. Two of a million texts of one
/// set collide with a probability of 3 in 10⁸.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Vec<u64>);

impl Seen {
    /// Notes a text. `false`: it was there already.
    pub(crate) fn insert(&mut self, text: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        match self.0.binary_search(&hash) {
            Ok(_) => false,
            Err(place) => {
                self.0.insert(place, hash);
                true
            }
        }
    }

    /// How many different texts there were.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_new_once() {
        let mut seen = Seen::default();
        let first: Vec<bool> = ["a", "b", "a", "c", "b"].map(|text| seen.insert(text)).to_vec();
        assert_eq!(first, [true, true, false, true, false]);
        assert_eq!(seen.len(), 3);
    }
}
