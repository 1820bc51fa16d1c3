//! The order of steps, and of their undoing.

use std::collections::BTreeSet;

use dat_plan::graph::{Graph, NoOrder, UndoNode};
use dat_plan::{PlanDocument, StepKey};

use super::{document, submit};

/// A plan of steps `0`, `1`, … that need what is listed; `None` is the step before.
fn plan(needs: &[Option<&[usize]>]) -> PlanDocument {
    let text = document("defaults.json").to_string();
    let mut plan = submit(text.as_bytes()).unwrap_or_else(|faults| panic!("{faults:?}")).document;
    let step = plan.steps.remove(1);
    plan.steps.clear();
    for (key, needs) in needs.iter().enumerate() {
        let needs = needs.map(|keys| keys.iter().map(|key| StepKey(key.to_string())).collect());
        plan.steps.push(dat_plan::document::Step { key: StepKey(key.to_string()), needs, ..step.clone() });
    }
    plan
}

fn graph(needs: &[Option<&[usize]>]) -> Graph {
    Graph::of(&plan(needs)).unwrap_or_else(|error| panic!("{error}"))
}

fn undo(step: usize, waits_for: usize, unlocks: &[usize]) -> UndoNode {
    UndoNode { step, waits_for, unlocks: unlocks.to_vec() }
}

/// 0 → {1, 2} → 3 → 4, and 5 alone.
fn diamond() -> Graph {
    graph(&[None, Some(&[0]), Some(&[0]), Some(&[1, 2]), None, Some(&[])])
}

#[test]
fn a_list_runs_in_order_and_named_needs_make_a_graph() {
    let list = graph(&[None, None, None]);
    assert_eq!(
        (list.needs(0), list.needs(1), list.successors(1), list.len()),
        (&[][..], &[0][..], &[2][..], 3)
    );
    let graph = diamond();
    assert_eq!(graph.needs(3), [1, 2]);
    assert_eq!(graph.successors(0), [1, 2]);
    assert_eq!(graph.roots().collect::<Vec<_>>(), [0, 5]);
    assert_eq!(graph.ancestors(4), BTreeSet::from([0, 1, 2, 3]));
    assert!(graph.is_ancestor(0, 4) && !graph.is_ancestor(4, 0) && !graph.is_ancestor(1, 2));
    assert!(!graph.is_ancestor(0, 0), "a step is no ancestor of its own");
    let place = |step| graph.order().iter().position(|other| *other == step);
    for step in 0..graph.len() {
        assert!(graph.needs(step).iter().all(|need| place(*need) < place(step)), "{:?}", graph.order());
    }
    assert_eq!((graph.needs(99), graph.successors(99)), (&[][..], &[][..]));
}

#[test]
fn what_has_no_order_has_no_graph() {
    assert_eq!(Graph::of(&plan(&[Some(&[1]), None])), Err(NoOrder::Cycle));
    assert_eq!(Graph::of(&plan(&[Some(&[0])])), Err(NoOrder::Cycle));
    let unknown = NoOrder::UnknownNeed { step: 0, need: "7".to_owned() };
    assert_eq!(Graph::of(&plan(&[Some(&[7])])), Err(unknown));
}

#[test]
fn an_undo_waits_for_the_undos_of_what_was_built_on_it() {
    let all = diamond().undo_order(&(0..6).collect());
    let expected = [
        undo(4, 0, &[3]),
        undo(3, 1, &[1, 2]),
        undo(2, 1, &[0]),
        undo(1, 1, &[0]),
        undo(5, 0, &[]),
        undo(0, 2, &[]),
    ];
    let sorted = |mut nodes: Vec<UndoNode>| {
        nodes.sort_by_key(|node| node.step);
        nodes
    };
    assert_eq!(sorted(all), sorted(expected.to_vec()));
}

#[test]
fn steps_that_are_not_undone_pass_the_order_on() {
    // 3 is not undone: what it needed waits for 4, which needed it.
    let some = diamond().undo_order(&BTreeSet::from([0, 1, 2, 4, 77]));
    let find = |step| some.iter().find(|node| node.step == step).cloned();
    assert_eq!(some.len(), 4);
    assert_eq!(find(4), Some(undo(4, 0, &[1, 2])));
    assert_eq!(find(1), Some(undo(1, 1, &[0])));
    // Neither of the middle is undone: one edge from 3 to 0, though there are two ways.
    let ends = diamond().undo_order(&BTreeSet::from([0, 3]));
    assert_eq!(ends, [undo(3, 0, &[0]), undo(0, 1, &[])]);
    assert_eq!(diamond().undo_order(&BTreeSet::new()), []);
}

/// Undoes as the coordinator does, and gives the order.
fn run(nodes: &[UndoNode]) -> Vec<usize> {
    let mut left: std::collections::BTreeMap<usize, usize> =
        nodes.iter().map(|node| (node.step, node.waits_for)).collect();
    let mut open: Vec<usize> =
        nodes.iter().filter(|node| node.waits_for == 0).map(|node| node.step).collect();
    let mut done = Vec::new();
    while let Some(step) = open.pop() {
        done.push(step);
        for next in nodes.iter().filter(|node| node.step == step).flat_map(|node| &node.unlocks) {
            let left = left.entry(*next).or_default();
            *left -= 1;
            if *left == 0 {
                open.push(*next);
            }
        }
    }
    done
}

#[test]
fn the_longest_chain_unwinds_from_its_end() {
    let chain = graph(&vec![None; 10_000]);
    let nodes = chain.undo_order(&(0..10_000).collect());
    let steps: Vec<usize> = nodes.iter().map(|node| node.step).collect();
    assert_eq!(steps, (0..10_000).rev().collect::<Vec<_>>());
    assert!(nodes.iter().all(|node| node.waits_for == usize::from(node.step != 9_999)));
    let ends = chain.undo_order(&BTreeSet::from([0, 9_999]));
    assert_eq!(ends, [undo(9_999, 0, &[0]), undo(0, 1, &[])]);
}

/// Two wide fans around a step that is not undone: 16,000,000 pairs, and as many edges without the gathering.
#[test]
fn wide_fans_unwind_in_order_with_few_edges() {
    let wide = 4_000;
    let upper: Vec<usize> = (0..wide).collect();
    let hub = [wide];
    let mut needs: Vec<Option<&[usize]>> = vec![Some(&[]); wide];
    needs.push(Some(&upper));
    needs.extend(vec![Some(&hub[..]); wide]);
    let undone: BTreeSet<usize> = (0..=2 * wide).filter(|step| *step != wide).collect();
    let nodes = graph(&needs).undo_order(&undone);
    let edges: usize = nodes.iter().map(|node| node.unlocks.len()).sum();
    assert_eq!(edges, 2 * wide - 1);
    assert_eq!(edges, nodes.iter().map(|node| node.waits_for).sum::<usize>());
    let done = run(&nodes);
    assert_eq!(done.len(), 2 * wide, "every undo comes to its turn");
    assert!(done[..wide].iter().all(|step| *step > wide), "the lower fan is undone before any of the upper");
}

/// Any graph, any part of it undone: each undo has its turn, and none before that of a descendant.
#[test]
fn any_part_of_any_graph_unwinds_in_order() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let count = random.usize(1..60);
        let needs: Vec<Vec<usize>> =
            (0..count).map(|step| (0..step).filter(|_| random.usize(0..step.max(3)) < 2).collect()).collect();
        let graph = graph(&needs.iter().map(|needs| Some(needs.as_slice())).collect::<Vec<_>>());
        let share = random.usize(1..5);
        let undone: BTreeSet<usize> = (0..count).filter(|_| random.usize(0..5) < share).collect();
        let done = run(&graph.undo_order(&undone));
        assert_eq!(done.iter().copied().collect::<BTreeSet<_>>(), undone);
        for (turn, step) in done.iter().enumerate() {
            let early = done[..turn].iter().find(|earlier| graph.is_ancestor(**earlier, *step));
            assert_eq!(early, None, "undone before {step}, which was built on it");
        }
    }
}
