//! The plan documents on disk: this project's own, and those that came with the contract where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What lists, in a folder of invalid documents, the pointers that each must be answered with.
const EXPECTED: &str = "EXPECTED.json";

/// A folder of documents.
pub(crate) struct Documents(PathBuf);

impl Documents {
    /// The project's valid ones.
    pub(crate) fn own() -> Self {
        Self(root().join("tests/plans"))
    }

    /// The project's invalid ones.
    pub(crate) fn own_invalid() -> Self {
        Self(root().join("common/plan/tests/plans/invalid"))
    }

    /// The valid ones of the contract, if they are on this machine.
    pub(crate) fn shared() -> Option<Self> {
        Self::beside("shared/plans")
    }

    /// The invalid ones of the contract, if they are on this machine.
    pub(crate) fn shared_invalid() -> Option<Self> {
        Self::beside("shared/plans/invalid")
    }

    fn beside(folder: &str) -> Option<Self> {
        let folder = root().parent()?.join(folder);
        folder.is_dir().then_some(Self(folder))
    }

    /// The names of the documents that are there.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(&self.0).expect("the folder can be read");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| is_document(name) && name != EXPECTED).collect()
    }

    /// A document as it is on disk.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let path = self.0.join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A document, read.
    pub(crate) fn value(&self, name: &str) -> Value {
        serde_json::from_slice(&self.bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The pointers that each invalid document must be answered with.
    pub(crate) fn expected(&self) -> BTreeMap<String, BTreeSet<String>> {
        serde_json::from_slice(&self.bytes(EXPECTED)).expect("lists of pointers by file")
    }
}

fn is_document(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "json")
}

/// The checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in the workspace").to_path_buf()
}
