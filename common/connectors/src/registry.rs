//! The connectors of a fleet, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::connector::Connector;

/// Which connectors there are.
#[derive(Clone, Default)]
pub struct Connectors(BTreeMap<&'static str, Arc<dyn Connector>>);

impl Connectors {
    /// The names that plan documents may use in this version of DAT.
    pub const NAMES: [&str; 3] = ["echo", "http", "mux"];

    /// Adds a connector under the name it declares.
    #[must_use]
    pub fn with(mut self, connector: impl Connector + 'static) -> Self {
        self.0.insert(connector.declaration().name, Arc::new(connector));
        self
    }

    /// The connector of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<dyn Connector>> {
        self.0.get(name).cloned()
    }

    /// Every name, for the checks of a submission.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        self.0.keys().map(|name| (*name).to_owned()).collect()
    }
}
