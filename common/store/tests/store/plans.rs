//! Plans, and what a producer, governance, the orchestrator and a worker would make of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use dat_plan::approval::Readiness;
use dat_plan::check::CheckedVerdict;
use dat_plan::clock::{Entropy, SeededEntropy};
use dat_plan::graph::Graph;
use dat_plan::{PlanDocument, PlanHash, PlanKey, UnitKey, UnitKind};
use dat_store::{
    Admission, ClaimRequest, Counting, Finding, Lease, Needed, NewUndo, RanStep, Registration, Seal,
    SealedStep, Settlement, StagedStep,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// A plan, with what is computed from its document.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) document: PlanDocument,
    sealed: Arc<[SealedStep]>,
    pub(crate) value: Value,
    pub(crate) hash: PlanHash,
    graph: Graph,
}

/// A step that needs these others, costs at most so much, and can be undone for at most `undo`.
pub(crate) fn step(key: &str, needs: &[&str], max_cost: i64, undo: i64) -> Value {
    json!({
        "key": key, "connector": "mux", "action": "do", "needs": needs, "max_cost": max_cost,
        "retry": {"max_attempts": 3, "initial_ms": 0},
        "compensation": {"action": "undo", "max_cost": undo, "retry": {"max_attempts": 2, "initial_ms": 0}},
    })
}

/// A plan of these steps, under a new id.
pub(crate) fn plan(tenant: &str, budget: i64, steps: Vec<Value>) -> Plan {
    Plan::of(json!({
        "plan_id": SeededEntropy::from_os().id(), "plan_version": 1, "tenant": tenant, "name": "a test",
        "budget": {"amount": budget, "currency": "usd"}, "steps": Value::Array(steps),
    }))
}

/// A plan of steps that need nothing, each costing at most `max_cost`.
pub(crate) fn wide(tenant: &str, budget: i64, steps: usize, max_cost: i64) -> Plan {
    plan(tenant, budget, (0..steps).map(|i| step(&format!("s{i}"), &[], max_cost, 0)).collect())
}

/// What a step that worked answered.
pub(crate) fn done(cost: i64) -> Finding {
    Finding::Done { result: json!({}), cost, refund: 0 }
}

/// An answer that may be tried again.
pub(crate) fn error(cost: i64) -> Finding {
    Finding::Error { cost, detail: "it did not work".to_owned(), retry_after_ms: 0 }
}

/// A final no.
pub(crate) fn refused() -> Finding {
    Finding::Refused { cost: 0, detail: "no".to_owned() }
}

impl Plan {
    /// The plan of a document.
    pub(crate) fn of(value: Value) -> Self {
        let document: PlanDocument = serde_json::from_value(value.clone()).unwrap();
        let graph = Graph::of(&document).unwrap();
        let sealed = SealedStep::all(&document);
        Self { hash: PlanHash::of(&value).unwrap(), sealed, graph, document, value }
    }

    /// The same plan with fields changed.
    pub(crate) fn with(&self, fields: Value) -> Self {
        let mut value = self.value.clone();
        let Value::Object(fields) = fields else { panic!("fields are an object") };
        value.as_object_mut().unwrap().extend(fields);
        Self::of(value)
    }

    /// Which plan version it is.
    pub(crate) fn key(&self) -> PlanKey {
        self.document.key()
    }

    /// A step's action.
    pub(crate) fn unit(&self, index: usize) -> UnitKey {
        UnitKey { plan: self.key(), kind: UnitKind::Action, index: as_index(index) }
    }

    /// A step's undo.
    pub(crate) fn undo(&self, index: usize) -> UnitKey {
        UnitKey { kind: UnitKind::Undo, ..self.unit(index) }
    }

    /// As Plan Builder hands it over.
    pub(crate) fn registration(&self) -> Registration {
        let steps = self.document.steps.len();
        Registration {
            document: self.document.clone(),
            body: self.value.to_string().into_bytes(),
            hash: self.hash.clone(),
            readiness: Readiness {
                steps,
                max_cost: 0,
                reversible: steps,
                irreversible: Vec::new(),
                warnings: Vec::new(),
            },
            package: Map::new(),
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
            message_id: None,
            submitter: None,
        }
    }

    /// An approval of it.
    pub(crate) fn approval(&self, decision: &str) -> CheckedVerdict {
        self.verdict(decision, "approved", &json!({}))
    }

    /// A verdict on it.
    pub(crate) fn verdict(&self, decision: &str, outcome: &str, fields: &Value) -> CheckedVerdict {
        let mut value = json!({
            "decision_id": decision, "plan_id": self.document.plan_id,
            "plan_version": self.document.plan_version, "plan_hash": self.hash, "outcome": outcome,
            "approver": "ann",
        });
        let fields = fields.as_object().unwrap().clone();
        value.as_object_mut().unwrap().extend(fields);
        CheckedVerdict { verdict: serde_json::from_value(value.clone()).unwrap(), value }
    }

    /// What the orchestrator stages, nothing in the way of it.
    pub(crate) fn admission(&self) -> Admission {
        let steps = self.document.steps.iter().enumerate().map(|(index, step)| StagedStep {
            key: step.key.0.clone(),
            connector: step.connector.clone(),
            action: step.action.clone(),
            waits_for: as_index(self.graph.needs(index).len()),
            not_before: step.not_before,
            max_cost: step.max_cost + step.undo_max_cost(),
        });
        Admission {
            plan: self.key(),
            hash: self.hash.clone(),
            priority: i16::from(self.document.priority),
            steps: steps.collect(),
            policy: ("automatic", "plan", "wait"),
            irreversible: Vec::new(),
            constraints: json!([]),
            constraints_hash: PlanHash::of(&json!([])).unwrap(),
            operators: Vec::new(),
            decision: json!({"passed": true}),
            blocked: None,
            violations: Vec::new(),
        }
    }

    /// What the approval `d1` sealed, if it was no tighter than the plan.
    pub(crate) fn seal(&self) -> Seal {
        Seal {
            hash: self.hash.clone(),
            decision_id: "d1".to_owned(),
            expires_at: None,
            approved_amount: None,
            limit: self.document.budget.amount,
            steps: Arc::clone(&self.sealed),
            digest: None,
        }
    }

    /// The request to run a unit of a plan that was approved otherwise.
    pub(crate) fn run_sealed(&self, unit: UnitKey, sealed: Seal) -> ClaimRequest<'static> {
        let mut request = self.run(unit);
        if let ClaimRequest::Run { seal, .. } = &mut request {
            *seal = Arc::new(sealed);
        }
        request
    }

    /// The request to run a unit.
    pub(crate) fn run(&self, unit: UnitKey) -> ClaimRequest<'static> {
        let step = &self.document.steps[usize::try_from(unit.index).unwrap()];
        ClaimRequest::Run {
            unit,
            seal: Arc::new(self.seal()),
            max_cost: step.max_cost,
            undo_max_cost: step.undo_max_cost(),
            needs: Needed::All,
            counting: Counting::default(),
            guard: None,
        }
    }

    /// What a worker hands to the committer.
    pub(crate) fn settlement(&self, lease: &Lease, finding: Finding) -> Settlement {
        let successors = match lease.unit.kind {
            UnitKind::Action => self.graph.successors(usize::try_from(lease.unit.index).unwrap()),
            UnitKind::Undo => &[],
        };
        let successors = successors.iter().map(|next| as_index(*next)).collect();
        Settlement { lease: lease.clone(), finding, successors, decision: None }
    }

    /// The undos of a rollback of scope `plan`, as the Rollback Coordinator makes them.
    pub(crate) fn undos(&self, ran: &[RanStep]) -> Vec<NewUndo> {
        let undone: BTreeSet<usize> = ran.iter().map(|step| usize::try_from(step.index).unwrap()).collect();
        self.graph
            .undo_order(&undone)
            .into_iter()
            .map(|node| {
                let step = &self.document.steps[node.step];
                NewUndo {
                    index: as_index(node.step),
                    key: step.key.0.clone(),
                    connector: step.connector.clone(),
                    action: "undo".to_owned(),
                    waits_for: as_index(node.waits_for),
                    unlocks: node.unlocks.into_iter().map(as_index).collect(),
                }
            })
            .collect()
    }

    /// The plan's id.
    pub(crate) fn id(&self) -> Uuid {
        self.document.plan_id
    }
}

fn as_index(place: usize) -> i32 {
    i32::try_from(place).unwrap()
}
