//! Documents, hashed and compiled: what a worker executes from.
//!
//! Rows hold state only. A worker reads the bytes that were submitted, hashes them itself, checks that the stored verdict
//! approves that hash and is believed, and executes what it hashed within what that verdict says. The claim transaction
//! holds the plan's row against both, and looks whether the stored bytes changed since. Altered rows therefore run
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use dat_guards::{Conditions, ConstraintSet, PlanFacts, Reads, ResultsRead, When};
use dat_plan::document::{Compensation, Mode, Retry, RollbackKind};
use dat_plan::graph::Graph;
use dat_plan::seal::{self, BrokenSeal};
use dat_plan::signing::KeyRing;
use dat_plan::{PlanDocument, PlanHash, PlanKey, UnitKey, UnitKind, references};
use dat_store::{Needed, SEAL_BROKEN, Seal, Sealed, SealedStep, Store, StoreError};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::{Map, Value, json};

use crate::operators::Binding;

/// How many bytes of documents a worker keeps.
const CACHE_BYTES: u64 = 128 * 1024 * 1024;

/// Up to so many bytes of a stored document every claim looks whether they changed.
const LOOKED_AT_ALWAYS: usize = 16 * 1024;
/// Of a larger one, a worker's claims look at so many bytes a second at most.
const LOOKED_AT_A_SECOND: usize = 1024 * 1024;

/// A plan that can be executed.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) document: PlanDocument,
    /// Computed here, from the bytes.
    pub(crate) hash: PlanHash,
    pub(crate) graph: Graph,
    /// The plan's own constraints and the verdict's.
    pub(crate) constraints: ConstraintSet,
    pub(crate) constraints_json: Value,
    pub(crate) constraints_hash: PlanHash,
    pub(crate) facts: PlanFacts,
    pub(crate) steps: Vec<PreparedStep>,
    /// What was approved: for claims that look at the stored bytes, and for those that do not.
    seal: [Arc<Seal>; 2],
    /// When a claim last looked at the stored bytes, milliseconds since 1970.
    looked_at: AtomicI64,
    bytes: usize,
}

/// Why nothing of a plan is executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// The document cannot be executed, whoever approved it.
    #[error("its stored document cannot be executed: {0}")]
    Document(String),
    /// Nobody who is believed here approved this document.
    #[error(transparent)]
    Seal(#[from] BrokenSeal),
}

/// What a step needs besides its document.
#[derive(Debug)]
pub(crate) struct PreparedStep {
    pub(crate) before: Conditions,
    pub(crate) after: Conditions,
    /// The results that its parameters and predicates read.
    pub(crate) needs: Needed,
}

/// What a unit does: a step's action, a compensation, or a step of the rollback's own list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnitSpec<'a> {
    pub(crate) connector: &'a str,
    pub(crate) action: &'a str,
    pub(crate) parameters: &'a Map<String, Value>,
    pub(crate) max_cost: i64,
    pub(crate) retry: &'a Retry,
    pub(crate) timeout_ms: u64,
}

impl Prepared {
    /// Reads what is stored, hashes it, and checks that it is what was approved.
    fn new(sealed: &Sealed, keys: &KeyRing) -> Result<Self, Broken> {
        let value: Value = serde_json::from_slice(&sealed.body).map_err(unfit)?;
        let hash = PlanHash::of(&value).map_err(unfit)?;
        let stored = sealed.approval.as_ref().ok_or(BrokenSeal::NoVerdict)?;
        let verdict = seal::approved(sealed.plan, &hash, &stored.verdict, stored.received_at, keys)?;
        let document: PlanDocument = serde_json::from_value(value).map_err(unfit)?;
        let graph = Graph::of(&document).map_err(unfit)?;
        let mut constraints = document.constraints.clone();
        constraints.extend(verdict.constraints.unwrap_or_default());
        let approved_amount = verdict.budget.map(|budget| budget.amount);
        let seal = Seal {
            hash: hash.clone(),
            decision_id: verdict.decision_id,
            expires_at: verdict.expires_at,
            approved_amount,
            limit: approved_amount.unwrap_or(document.budget.amount),
            steps: SealedStep::all(&document),
            digest: sealed.digest.clone(),
        };
        let set = ConstraintSet::compile(&constraints).map_err(|faults| unfit(format!("{faults:?}")))?;
        let constraints_json = json!(constraints);
        let constraints_hash = PlanHash::of(&constraints_json).map_err(unfit)?;
        let mut prepared = Self {
            facts: PlanFacts::of(&document),
            steps: Vec::with_capacity(document.steps.len()),
            constraints: set,
            constraints_json,
            constraints_hash,
            graph,
            hash,
            document,
            seal: [Arc::new(seal.clone()), Arc::new(Seal { digest: None, ..seal })],
            looked_at: AtomicI64::new(0),
            bytes: sealed.body.len(),
        };
        let index: BTreeMap<String, i32> =
            prepared.document.steps.iter().map(|s| s.key.0.clone()).zip(0..).collect();
        for step in &prepared.document.steps {
            let compile = |when, texts: &[String]| {
                Conditions::compile(when, texts).map_err(|faults| unfit(format!("{faults:?}")))
            };
            let before = compile(When::Before, &step.preconditions)?;
            let after = compile(When::After, &step.postconditions)?;
            let reads = prepared.constraints.reads().union(&before.reads()).union(&after.reads());
            let needs = needed(&step.parameters, &reads, &index);
            prepared.steps.push(PreparedStep { before, after, needs });
        }
        Ok(prepared)
    }

    /// What a claim made now holds the rows against. Every claim looks whether the stored bytes changed since they were
    /// checked; of a large document, not so often that it costs more than it executes.
    pub(crate) fn seal(&self, now: DateTime<Utc>) -> Arc<Seal> {
        let [looks, trusts] = &self.seal;
        let (now, last) = (now.timestamp_millis(), self.looked_at.load(Ordering::Relaxed));
        let pause = self.bytes.saturating_mul(1_000) / LOOKED_AT_A_SECOND;
        let is_due = self.bytes <= LOOKED_AT_ALWAYS || now - last >= i64::try_from(pause).unwrap_or(i64::MAX);
        if !is_due {
            return Arc::clone(trusts);
        }
        self.looked_at.store(now, Ordering::Relaxed);
        Arc::clone(looks)
    }

    /// Whether it goes its way without effects or spend.
    pub(crate) fn is_dry(&self) -> bool {
        self.document.mode == Mode::Dry
    }

    /// The most that the steps of the document up to this one may cost, with their undos.
    pub(crate) fn cost_up_to(&self, index: usize) -> i64 {
        let costs =
            self.document.steps.iter().take(index + 1).map(|s| s.max_cost.saturating_add(s.undo_max_cost()));
        costs.fold(0, i64::saturating_add)
    }

    /// Whether any constraint applies.
    pub(crate) fn has_constraints(&self) -> bool {
        self.constraints_json.as_array().is_some_and(|list| !list.is_empty())
    }

    /// What the unit does, by the document; nothing where the document has no such unit.
    pub(crate) fn unit(&self, unit: UnitKey) -> Option<UnitSpec<'_>> {
        let index = usize::try_from(unit.index).ok()?;
        if unit.kind == UnitKind::Undo && self.document.rollback.kind == RollbackKind::Compensating {
            let place = index.checked_sub(self.document.steps.len())?;
            let step = self.document.rollback.steps.get(place)?;
            return Some(UnitSpec {
                connector: &step.connector,
                action: &step.action,
                parameters: &step.parameters,
                max_cost: step.max_cost,
                retry: &step.retry,
                timeout_ms: UNDO_TIMEOUT_MS,
            });
        }
        let step = self.document.steps.get(index)?;
        match unit.kind {
            UnitKind::Action => Some(UnitSpec {
                connector: &step.connector,
                action: &step.action,
                parameters: &step.parameters,
                max_cost: step.max_cost,
                retry: &step.retry,
                timeout_ms: step.timeout_ms,
            }),
            UnitKind::Undo => {
                let undo: &Compensation = step.compensation.as_ref()?;
                Some(UnitSpec {
                    connector: undo.connector.as_deref().unwrap_or(&step.connector),
                    action: &undo.action,
                    parameters: &undo.parameters,
                    max_cost: undo.max_cost,
                    retry: &undo.retry,
                    timeout_ms: step.timeout_ms,
                })
            }
        }
    }

    /// The steps that wait for a unit, by index: none for an undo, whose followers its row names.
    pub(crate) fn successors(&self, unit: UnitKey) -> Vec<i32> {
        match (unit.kind, usize::try_from(unit.index)) {
            (UnitKind::Action, Ok(index)) if index < self.graph.len() => {
                self.graph.successors(index).iter().filter_map(|next| i32::try_from(*next).ok()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The results that a unit needs, those that operators' rules read among them.
    pub(crate) fn needs(&self, unit: UnitKey, operators: &Binding) -> Needed {
        let step = usize::try_from(unit.index).ok().and_then(|index| self.steps.get(index));
        match (unit.kind, step) {
            (UnitKind::Action, Some(step)) => {
                let reads =
                    operators.applicable().fold(Reads::default(), |reads, set| reads.union(&set.reads()));
                // Which keys a plan has is not an operator's to know: a rule that reads results reads any.
                if reads.results.any() { Needed::All } else { step.needs.clone() }
            }
            (UnitKind::Undo, _) => {
                let index = self.document.steps.iter().map(|s| s.key.0.clone()).zip(0..).collect();
                let none = Map::new();
                let parameters = self.unit(unit).map_or(&none, |spec| spec.parameters);
                needed(parameters, &NOTHING_READ, &index)
            }
            (UnitKind::Action, None) => Needed::Steps(Vec::new()),
        }
    }
}

/// How long one attempt of a step of the rollback's own list may take: the contract's default.
const UNDO_TIMEOUT_MS: u64 = 30_000;

const NOTHING_READ: Reads = Reads {
    now: false,
    step: false,
    budget: false,
    results: ResultsRead::Of(std::collections::BTreeSet::new()),
};

fn needed(parameters: &Map<String, Value>, reads: &Reads, index: &BTreeMap<String, i32>) -> Needed {
    let mut keys = Vec::new();
    references::named(parameters, &mut keys);
    match &reads.results {
        ResultsRead::All => return Needed::All,
        ResultsRead::Of(more) => keys.extend(more.iter().cloned()),
    }
    let mut steps: Vec<i32> = keys.iter().filter_map(|key| index.get(key).copied()).collect();
    steps.sort_unstable();
    steps.dedup();
    Needed::Steps(steps)
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<PlanKey, Arc<Prepared>> for ByBytes {
    fn weight(&self, _: &PlanKey, plan: &Arc<Prepared>) -> u64 {
        // A parsed document takes several times its text.
        plan.bytes as u64 * 8 + 1_024
    }
}

/// The documents that this worker executes from, bounded in bytes.
#[derive(Debug)]
pub(crate) struct Documents {
    keys: KeyRing,
    cache: Cache<PlanKey, Arc<Prepared>, ByBytes>,
}

/// What can be executed of the plans asked for, and why of the others nothing is.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) plans: BTreeMap<PlanKey, Arc<Prepared>>,
    pub(crate) broken: BTreeMap<PlanKey, Broken>,
}

impl Found {
    /// Why nothing of a plan is executed, as its units and the plan itself say it while they wait.
    pub(crate) fn why_not(&self, plan: &PlanKey) -> String {
        match self.broken.get(plan) {
            Some(why) => format!("{SEAL_BROKEN}{why}"),
            None => format!("{SEAL_BROKEN}it is not there"),
        }
    }
}

impl Documents {
    /// With the keys that verdicts must be signed with; none, and unsigned ones are believed.
    pub(crate) fn new(keys: KeyRing) -> Self {
        Self { keys, cache: Cache::with_weighter(10_000, CACHE_BYTES, ByBytes) }
    }

    /// The plans asked for, from the cache or the registry. Only of approved plans: the verdict belongs to what is
    /// cached. Of one whose document or verdict was altered nothing runs.
    pub(crate) async fn get(
        &self,
        store: &Store,
        plans: impl IntoIterator<Item = PlanKey>,
    ) -> Result<Found, StoreError> {
        let mut found = Found::default();
        let mut missing = Vec::new();
        for plan in plans {
            if found.plans.contains_key(&plan) || missing.contains(&plan) {
                continue;
            }
            match self.cache.get(&plan) {
                Some(prepared) => {
                    found.plans.insert(plan, prepared);
                }
                None => missing.push(plan),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        for sealed in store.sealed(&missing).await? {
            match Prepared::new(&sealed, &self.keys) {
                Ok(prepared) => {
                    let prepared = Arc::new(prepared);
                    self.cache.insert(sealed.plan, Arc::clone(&prepared));
                    found.plans.insert(sealed.plan, prepared);
                }
                Err(broken) => {
                    tracing::error!(plan = %sealed.plan, %broken, "nothing of this plan is executed");
                    found.broken.insert(sealed.plan, broken);
                }
            }
        }
        Ok(found)
    }
}

/// A document that cannot be executed.
#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn unfit(why: impl ToString) -> Broken {
    Broken::Document(why.to_string())
}
