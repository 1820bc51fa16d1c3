//! Operators' constraint sets, compiled: what this worker applies besides a plan's own rules.
//!
//! **Owns** a snapshot of the newest versions. **May be called** by the guards of a claim and of an admission, which
//! compare it with what their transaction reads: a snapshot that is behind decides nothing, it is loaded anew and asked
//! again. **Must never** be taken for the newest without that comparison.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use dat_guards::{ConstraintSet, Origin};
use dat_plan::PlanHash;
use dat_plan::constraint::ConstraintDocument;
use dat_store::{ConstraintSetRow, SetHead, SetScope, Store, StoreError};

/// One version of a set, ready to be asked.
#[derive(Debug)]
pub(crate) struct OperatorSet {
    pub(crate) head: SetHead,
    /// The rules, or why this worker cannot apply them.
    pub(crate) rules: Result<ConstraintSet, String>,
}

impl OperatorSet {
    /// Compiles a set as it is stored, if it still hashes to what was registered.
    pub(crate) fn new(head: SetHead, document: &serde_json::Value) -> Self {
        let rules = Self::compile(&head, document);
        Self { head, rules }
    }

    fn compile(head: &SetHead, document: &serde_json::Value) -> Result<ConstraintSet, String> {
        let hash = PlanHash::of(document).map_err(|error| error.to_string())?;
        if hash.as_str() != head.hash {
            return Err(format!("it hashes to {hash}: was it altered after it was registered?"));
        }
        let document: ConstraintDocument =
            serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
        let origin = match head.scope {
            SetScope::Fleet => Origin::Fleet,
            SetScope::Tenant(_) => Origin::Tenant,
        };
        ConstraintSet::compile_for(origin, &document.constraints).map_err(|faults| format!("{faults:?}"))
    }
}

/// The sets that bind one tenant's plans: the fleet's, then its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Binding(Vec<Arc<OperatorSet>>);

impl Binding {
    /// Those of these heads, in their order.
    pub(crate) fn from_sets(sets: Vec<Arc<OperatorSet>>) -> Self {
        Self(sets)
    }

    /// Which versions they are.
    pub(crate) fn heads(&self) -> Vec<SetHead> {
        self.0.iter().map(|set| set.head.clone()).collect()
    }

    /// Whether these are the versions that a transaction read.
    pub(crate) fn is(&self, heads: &[SetHead]) -> bool {
        self.0.iter().map(|set| &set.head).eq(heads)
    }

    /// The rules, where every set can be applied; else the first that cannot, and why.
    pub(crate) fn rules(&self) -> Result<Vec<&ConstraintSet>, String> {
        let rules = self.0.iter().map(|set| {
            set.rules.as_ref().map_err(|why| {
                let whose = match &set.head.scope {
                    SetScope::Fleet => "the fleet".to_owned(),
                    SetScope::Tenant(tenant) => format!("tenant {tenant}"),
                };
                format!(
                    "version {} of the constraint set of {whose} cannot be applied by this worker: {why}",
                    set.head.version
                )
            })
        });
        rules.collect()
    }

    /// The rules that can be applied. Before the guards ask [`Binding::rules`], nothing is decided by them.
    pub(crate) fn applicable(&self) -> impl Iterator<Item = &ConstraintSet> {
        self.0.iter().filter_map(|set| set.rules.as_ref().ok())
    }
}

/// The newest sets that this worker knows.
#[derive(Debug, Default)]
pub(crate) struct Operators {
    sets: RwLock<BTreeMap<SetScope, Arc<OperatorSet>>>,
}

impl Operators {
    /// Loads the newest versions; those that are known are not compiled again.
    pub(crate) async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        let rows = store.newest_constraint_sets().await?;
        let known = self.sets.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut sets = BTreeMap::new();
        for ConstraintSetRow { head, document, .. } in rows {
            let set = match known.get(&head.scope) {
                Some(known) if known.head == head => Arc::clone(known),
                _ => Arc::new(OperatorSet::new(head.clone(), &document)),
            };
            if let Err(why) = &set.rules {
                tracing::error!(scope = ?head.scope, version = head.version, why, "a constraint set cannot be applied");
            }
            sets.insert(head.scope, set);
        }
        *self.sets.write().unwrap_or_else(PoisonError::into_inner) = sets;
        Ok(())
    }

    /// What binds a tenant's plans, as far as is known here.
    pub(crate) fn binding(&self, tenant: &str) -> Binding {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        if sets.is_empty() {
            return Binding::default();
        }
        let of = |scope: SetScope| sets.get(&scope).map(Arc::clone);
        let fleet = of(SetScope::Fleet);
        let own = of(SetScope::Tenant(tenant.to_owned()));
        Binding(fleet.into_iter().chain(own).collect())
    }
}
