//! Whole documents in files: each invalid one is answered with exactly the pointers that its list expects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{own, pointers, read, submit};

fn json_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut files: Vec<PathBuf> = files.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}"));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files
}

fn assert_all_pass(folder: &Path) {
    let files = json_files(folder);
    assert!(!files.is_empty());
    for path in files {
        let faults = submit(&read(&path)).err().unwrap_or_default();
        assert_eq!(faults, [], "{}", path.display());
    }
}

fn assert_as_expected(folder: &Path) {
    let expected: BTreeMap<String, BTreeSet<String>> =
        serde_json::from_slice(&read(&folder.join("EXPECTED.json")))
            .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(json_files(folder).len(), expected.len() + 1, "every document has its list");
    for (name, expected) in expected {
        let found: BTreeSet<String> = pointers(&read(&folder.join(&name))).into_iter().collect();
        assert_eq!(found, expected, "{name}");
    }
}

/// The scenarios that come with the assignment, beside the workspace; absent where only the workspace is.
fn shared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/plans");
    folder.is_dir().then_some(folder)
}

#[test]
fn valid_documents_pass() {
    assert_all_pass(&own(""));
}

#[test]
fn invalid_documents_are_answered_with_exactly_their_faults() {
    assert_as_expected(&own("invalid"));
}

#[test]
fn scenarios_pass() {
    if let Some(folder) = shared() {
        assert_all_pass(&folder);
    }
}

#[test]
fn invalid_scenarios_are_answered_with_exactly_their_faults() {
    if let Some(folder) = shared() {
        assert_as_expected(&folder.join("invalid"));
    }
}
