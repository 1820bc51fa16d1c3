//! Steps that need each other.

/// Numbers in the order of the search; 0 is a step not reached yet.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    found: usize,
    low: usize,
    open: bool,
}

/// The steps that are on a cycle, in the order of the document: those that need themselves, directly or by way of
/// others. Steps that merely wait for a cycle are not.
///
/// Tarjan's strongly connected components (1972) with a stack of its own: a chain of ten thousand steps would
/// overflow the thread's.
pub(super) fn members(needs: &[Vec<usize>]) -> Vec<usize> {
    let mut marks = vec![Mark::default(); needs.len()];
    let mut members = Vec::new();
    let mut component = Vec::new();
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut count = 0;
    for start in 0..needs.len() {
        if marks[start].found == 0 {
            path.push((start, 0));
        }
        while let Some((step, next)) = path.pop() {
            if next == 0 {
                count += 1;
                marks[step] = Mark { found: count, low: count, open: true };
                component.push(step);
            } else {
                let returned = needs[step][next - 1];
                if marks[returned].open {
                    marks[step].low = marks[step].low.min(marks[returned].low);
                }
            }
            if let Some(need) = needs[step].get(next).copied() {
                path.push((step, next + 1));
                if marks[need].found == 0 {
                    path.push((need, 0));
                }
                continue;
            }
            if marks[step].low == marks[step].found {
                let first = component.iter().rposition(|member| *member == step).unwrap_or_default();
                let closed = component.split_off(first);
                for member in &closed {
                    marks[*member].open = false;
                }
                if closed.len() > 1 || needs[step].contains(&step) {
                    members.extend(closed);
                }
            }
        }
    }
    members.sort_unstable();
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_none_however_long() {
        let chain: Vec<Vec<usize>> =
            (0..100_000).map(|step: usize| step.checked_sub(1).into_iter().collect()).collect();
        assert!(members(&chain).is_empty());
        let backwards: Vec<Vec<usize>> =
            (0..100_000).map(|step| if step < 99_999 { vec![step + 1] } else { vec![] }).collect();
        assert!(members(&backwards).is_empty());
    }

    #[test]
    fn a_ring_is_all_members_however_long() {
        let ring: Vec<Vec<usize>> = (0..100_000).map(|step| vec![(step + 1) % 100_000]).collect();
        assert_eq!(members(&ring).len(), 100_000);
    }

    #[test]
    fn only_members_are_named_not_what_waits_for_them_nor_what_lies_between_two() {
        // 0 ⇄ 1, 2 needs 1 and lies between, 3 ⇄ 4 where 3 needs 2, 5 waits for 4, 6 needs itself, 7 is free.
        let needs = [vec![1], vec![0], vec![1], vec![4, 2], vec![3], vec![4], vec![6], vec![]];
        assert_eq!(members(&needs), [0, 1, 3, 4, 6]);
    }

    #[test]
    fn two_cycles_that_share_a_step_are_one() {
        assert_eq!(members(&[vec![1], vec![0, 2], vec![1], vec![0]]), [0, 1, 2]);
    }
}
