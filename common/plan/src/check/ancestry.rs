//! Which steps come before which.

use std::collections::BTreeSet;

/// A question: must the second step have completed before the first starts?
pub(super) type Pair = (usize, usize);

/// The pairs, of those asked about, whose second step is not an ancestor of the first.
///
/// Answers 64 possible ancestors at a time by passing a word of bits along the needs, so that the worst plan the
/// limits allow takes some ten million operations and memory for one word a step, where a search for each pair would
/// take hundreds of times as many. `order` has each step after all that it needs; steps that are not in it, as they
/// are on a cycle or behind one, have no ancestors and must not be asked about.
pub(super) fn not_ancestors(needs: &[Vec<usize>], order: &[usize], pairs: &BTreeSet<Pair>) -> BTreeSet<Pair> {
    let mut by_target: Vec<(usize, usize)> = pairs.iter().map(|(step, target)| (*target, *step)).collect();
    by_target.sort_unstable();
    let mut targets: Vec<usize> = by_target.iter().map(|(target, _)| *target).collect();
    targets.dedup();

    let mut refused = BTreeSet::new();
    let mut asked = by_target.as_slice();
    for chunk in targets.chunks(64) {
        let above = ancestors_among(needs, order, chunk);
        let end = asked.partition_point(|(target, _)| chunk.last().is_some_and(|last| target <= last));
        let (here, rest) = asked.split_at(end);
        asked = rest;
        for (target, step) in here {
            let bit = chunk.binary_search(target).map_or(0, |bit| 1 << bit);
            if above[*step] & bit == 0 {
                refused.insert((*step, *target));
            }
        }
    }
    refused
}

/// For each step, which of at most 64 steps are ancestors of it: bit `n` for the `n`th.
fn ancestors_among(needs: &[Vec<usize>], order: &[usize], chunk: &[usize]) -> Vec<u64> {
    let mut own = vec![0_u64; needs.len()];
    for (bit, target) in chunk.iter().enumerate() {
        own[*target] = 1 << bit;
    }
    let mut above = vec![0_u64; needs.len()];
    for step in order {
        above[*step] = needs[*step].iter().fold(0, |bits, need| bits | own[*need] | above[*need]);
    }
    above
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph;

    fn refused(needs: &[Vec<usize>], pairs: &[Pair]) -> Vec<Pair> {
        let pairs = pairs.iter().copied().collect();
        not_ancestors(needs, &graph::order(needs), &pairs).into_iter().collect()
    }

    #[test]
    fn ancestors_are_found_through_others_and_nothing_else_is_one() {
        // 0 → 1 → 3, 2 → 3, and 4 alone.
        let needs = [vec![], vec![0], vec![], vec![1, 2], vec![]];
        assert_eq!(refused(&needs, &[(3, 0), (3, 1), (3, 2), (1, 0)]), []);
        let no = [(0, 0), (0, 1), (1, 2), (3, 4), (4, 0)];
        assert_eq!(refused(&needs, &no), no);
    }

    #[test]
    fn more_than_one_word_of_targets() {
        let chain: Vec<Vec<usize>> =
            (0..10_000_usize).map(|step| step.checked_sub(1).into_iter().collect()).collect();
        let back: Vec<Pair> = (1..10_000).map(|step| (step, step - 1)).collect();
        assert_eq!(refused(&chain, &back), []);
        let forth: Vec<Pair> = (1..10_000).map(|step| (step - 1, step)).collect();
        assert_eq!(refused(&chain, &forth), forth);
    }
}
