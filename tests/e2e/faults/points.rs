//! The fault points, read from the sources: what writes or sends without one is found here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where operators' commands write; what they do is theirs to repeat.
const OPERATORS: [&str; 9] = [
    "control.rs",
    "weight.rs",
    "constraint_set.rs",
    "account/view.rs",
    "resolve/mod.rs",
    "two_person.rs",
    "breaker.rs",
    "grants/mod.rs",
    "retention.rs",
];

/// What writes or sends, in the store and in the workers.
const STORE_WRITES: [&str; 1] = [".commit()"];
const WORKER_SENDS: [&str; 20] = [
    "publisher.publish",
    "consumer.ack(",
    "connector.act(",
    "connector.probe(",
    "plans.put_all(",
    "copies().put_all(",
    "fleet.limits.ask(",
    "fleet.limits.give_back(",
    "fleet.limits.later(",
    "fleet.limits.copy(",
    "fleet.windows.ask(",
    "fleet.windows.give_back(",
    "fleet.windows.settle(",
    "fleet.windows.fill(",
    "fleet.windows.mend(",
    "breakers::ask(",
    "breakers::give_back(",
    "breakers::hold_probe(",
    "breakers::report_probe(",
    "breakers::unasked(",
];

/// How long before a write its point may stand, in characters: the statement's own beginning.
const REACH: usize = 2_600;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the sources are there") {
            let path = entry.expect("a file").path();
            if path.is_dir() {
                // Commands of operators.
                if !path.ends_with("cli") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((path.clone(), fs::read_to_string(path).expect("a source")));
            }
        }
    }
    files
}

/// Whether a test of that name is there.
pub(super) fn is_test(name: &str) -> bool {
    let declared = format!("fn {name}(");
    let folders = ["tests/e2e", "common/store/tests"];
    folders.into_iter().flat_map(sources).any(|(_, text)| text.contains(&declared))
}

/// The names in `around("…"` and `around_call("…"`.
pub(super) fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (path, text) in sources("common/store/src").into_iter().chain(sources("workers/src")) {
        for part in text.split("dat_fault::around").skip(1) {
            let quoted = part.trim_start_matches("_call").trim_start_matches('(').trim_start();
            let name = quoted.strip_prefix('"').and_then(|rest| rest.split('"').next());
            let name = name.unwrap_or_else(|| panic!("{}: a point without a name", path.display()));
            assert!(names.insert(name.to_owned()), "{}: {name} is the name of two points", path.display());
        }
    }
    names
}

/// Where something is written or sent and no point is around it.
pub(super) fn bare() -> Vec<String> {
    let mut bare = Vec::new();
    for (path, text) in sources("common/store/src") {
        if OPERATORS.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        look(&path, &text, &STORE_WRITES, &mut bare);
        // Statements that commit by themselves.
        for (place, _) in text.match_indices("(self.pool())") {
            let statement = &text[..place];
            let statement = &statement[statement.rfind("sqlx::query").unwrap_or(0)..];
            if ["UPDATE ", "INSERT ", "DELETE "].iter().any(|word| holds_write(statement, word)) {
                check(&path, &text, place, &mut bare);
            }
        }
    }
    for (path, text) in sources("workers/src") {
        look(&path, &text, &WORKER_SENDS, &mut bare);
    }
    bare
}

/// `FOR UPDATE` and `DO UPDATE` write nothing of their own.
fn holds_write(statement: &str, word: &str) -> bool {
    statement.match_indices(word).any(|(place, _)| !statement[..place].ends_with("FOR "))
}

fn look(path: &Path, text: &str, what: &[&str], bare: &mut Vec<String>) {
    for pattern in what {
        for (place, _) in text.match_indices(pattern) {
            let line = text[..place].rfind('\n').map_or(0, |at| at + 1);
            if !text[line..place].trim_start().starts_with("//") {
                check(path, text, place, bare);
            }
        }
    }
}

/// The nearest statement before ends before its point: no `;` is between.
fn check(path: &Path, text: &str, place: usize, bare: &mut Vec<String>) {
    let from = text[..place].char_indices().rev().nth(REACH).map_or(0, |(at, _)| at);
    let before = &text[from..place];
    let point = before.rfind("dat_fault::around");
    // What is asked for in a statement of its own stands right after it, in the point.
    let after: String = text[place..].chars().take(160).collect();
    let around = point.is_some_and(|at| before[at..].matches(";\n").count() == 0)
        || after
            .split_once(";\n")
            .is_some_and(|(_, next)| next.trim_start().starts_with("dat_fault::around"));
    if !around {
        let line = text[..place].matches('\n').count() + 1;
        bare.push(format!("{}:{line}", path.display()));
    }
}
