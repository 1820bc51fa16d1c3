//! How many requests were in flight at once, from when each began and ended.

/// The most spans that overlap. Beginnings and ends are numbers of one sequence, so no two are equal; a span without an
/// end still lasts.
pub(crate) fn peak(spans: impl IntoIterator<Item = (u64, Option<u64>)>) -> u64 {
    let mut turns: Vec<(u64, bool)> = spans
        .into_iter()
        .flat_map(|(began, ended)| [Some((began, true)), ended.map(|at| (at, false))])
        .flatten()
        .collect();
    turns.sort_unstable();
    let (mut now, mut most) = (0_u64, 0);
    for (_, begins) in turns {
        now = if begins { now + 1 } else { now.saturating_sub(1) };
        most = most.max(now);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::peak;

    #[test]
    fn spans_that_follow_each_other_do_not_overlap() {
        assert_eq!(peak([(1, Some(2)), (3, Some(4))]), 1);
        assert_eq!(peak([(1, Some(3)), (2, Some(4))]), 2);
        assert_eq!(peak([(1, Some(8)), (2, Some(3)), (4, None), (5, None)]), 3);
        assert_eq!(peak([]), 0);
    }
}
