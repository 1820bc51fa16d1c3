//! Keys of the tests, each made of its id, and the files that processes find them in.

use std::path::{Path, PathBuf};

use dat_plan::signing::SigningKey;
use dat_tests::{named_id, random_id};

/// A key by its id, the same in every process of a test.
pub(crate) fn signing(id: &str) -> SigningKey {
    SigningKey::from_seed(id, &seed(id)).expect("a seed")
}

pub(crate) fn seed(id: &str) -> String {
    let named = named_id(id).simple().to_string();
    format!("{named:0>64}")
}

/// A folder for what processes are started with.
pub(crate) fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("dat-seal-{}", random_id().simple()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

pub(crate) fn file(folder: &Path, name: &str, content: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file");
    path.display().to_string()
}

/// Settings of whoever signs as `id`, and believes approvals of these people.
pub(crate) fn settings(folder: &Path, id: &str, people: &[&str]) -> String {
    let seed = file(folder, &format!("{id}.seed"), &seed(id));
    let mut text = format!("[signing]\nkey_id = \"{id}\"\nseed = \"file:{seed}\"\n");
    for person in people {
        text.push_str(&trusted("approver_key", person));
    }
    file(folder, &format!("{id}.toml"), &text)
}

pub(crate) fn trusted(name: &str, id: &str) -> String {
    format!("[[{name}]]\nkey_id = \"{id}\"\npublic_key = \"{}\"\n", signing(id).public_key())
}
