//! The README claims that tests guard the invariants: each one it names must be there.

use std::path::{Path, PathBuf};

#[test]
fn every_test_that_the_readme_names_exists() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("there is a README");
    let invariants = readme.split("## Invariants").nth(1).and_then(|rest| rest.split("\n## ").next());
    let named: Vec<&str> = invariants
        .expect("a section on invariants")
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.matches('_').count() >= 3)
        .collect();
    assert!(named.len() >= 20, "the section names {named:?}");
    let mut sources = String::new();
    for folder in ["common/plan/tests/checks", "common/store/tests/store", "tests/e2e"] {
        read_all(&root.join(folder), &mut sources);
    }
    let missing: Vec<&str> =
        named.into_iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

fn read_all(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder of tests") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_all(&path, into);
        } else {
            into.push_str(&std::fs::read_to_string(&path).expect("source text"));
        }
    }
}
