//! Bytes of a stranger's: the inputs that `make fuzz` mutates for long, mutated here for a bounded number of rounds from
//! the same seeds. No panic, and no refusal without a word.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use dat_plan::clock::{Entropy, SeededEntropy};

use crate::inputs::KINDS;

/// Mutations of each kind's seeds.
const ROUNDS: usize = 1_500;

/// What breaks parsers, and words of the documents.
const WORDS: [&[u8]; 24] = [
    b"null",
    b"-0",
    b"1e309",
    b"9007199254740993",
    b"1.5",
    b"\"\\u0000\"",
    b"\"\\ud800\"",
    b"\xff",
    b"\xed\xa0\x80",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"{\"$from\":\"a\",\"path\":\"/~2\"}",
    b"{\"$from\":\"a\",\"path\":\"/a/b\"}",
    b"\"plan_id\":1,",
    b"{}",
    b"[]",
    b"\"steps\":[],",
    b"((((((((((((((((((((((((((((((((",
    b".map(x, [x, x])",
    b".all(x, x.all(y, true))",
    b" && ",
    b"* 9223372036854775807",
    b"'",
    b"\n",
    b" ",
];

fn seeds(kind: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(kind);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{kind} has no seed");
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn below(dice: &SeededEntropy, limit: usize) -> usize {
    usize::try_from(dice.below(limit.max(1) as u64)).unwrap()
}

/// One to four changes of one seed, with parts of another.
fn mutated(dice: &SeededEntropy, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut body = seeds[below(dice, seeds.len())].clone();
    for _ in 0..=below(dice, 4) {
        let (at, to) = (below(dice, body.len() + 1), below(dice, body.len() + 1));
        let (from, until) = (at.min(to), at.max(to).min(at.min(to) + 40));
        match below(dice, 7) {
            0 if from < body.len() => body[from] ^= 1 << below(dice, 8),
            1 => drop(body.drain(from..until)),
            2 => {
                let part = body[from..until].to_vec();
                body.splice(from..from, part.into_iter().cycle().take((until - from) * below(dice, 50)));
            }
            3 => body.truncate(from),
            4 => {
                let other = &seeds[below(dice, seeds.len())];
                let (a, b) = (below(dice, other.len()), below(dice, other.len()));
                body.splice(from..until, other[a.min(b)..a.max(b)].iter().copied());
            }
            5 => body.reverse(),
            _ => drop(body.splice(from..until, WORDS[below(dice, WORDS.len())].iter().copied())),
        }
    }
    body
}

#[test]
fn whatever_comes_from_outside_is_taken_or_refused_with_words() {
    let seed = SeededEntropy::from_os().below(u64::MAX);
    for (kind, input) in KINDS {
        let dice = SeededEntropy::new(seed);
        let seeds = seeds(kind);
        // What is not broken at all, and nothing.
        let plain = seeds.iter().cloned().chain([Vec::new()]);
        let rounds: Vec<Vec<u8>> = plain.chain((0..ROUNDS).map(|_| mutated(&dice, &seeds))).collect();
        for body in rounds {
            let outcome = catch_unwind(AssertUnwindSafe(|| input(&body)));
            assert!(outcome.is_ok(), "{kind}, seed {seed}: {:?}", String::from_utf8_lossy(&body));
        }
    }
}

/// Depth and length are bounded before anything is built of them.
#[test]
fn what_is_too_deep_or_too_long_is_refused_before_it_costs_anything() {
    for (_, input) in KINDS {
        for opening in ["[", "{\"a\":", "(", "a(", "!", "-", "[1,"] {
            input(opening.repeat(100_000).as_bytes());
        }
        input("9".repeat(1_000_000).as_bytes());
        input(format!("\"{}\"", "\\u0041".repeat(200_000)).as_bytes());
    }
}
