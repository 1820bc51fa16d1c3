//! Every table of the schema, and what each role may do with it besides reading.
//!
//! **Owns** that list. **May be called** by [`super`] alone. **Must never** let anybody change or delete an event, a
//! verdict, an entry of the ledger or a checkpoint: who owns the tables still can, and is not one of these roles.

use super::Role;

/// What a role may do with a table besides reading it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    pub(super) insert: bool,
    pub(super) update: Columns,
    pub(super) delete: bool,
}

/// Which columns may be changed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Columns {
    /// None.
    None,
    /// These.
    Only(&'static [&'static str]),
    /// All but those of these lists.
    Except(&'static [&'static [&'static str]]),
}

/// A table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    worker: Access,
    operator: Access,
}

impl Table {
    pub(super) const fn access(&self, role: Role) -> Access {
        match role {
            Role::Worker => self.worker,
            Role::Operator => self.operator,
            Role::Auditor => READ,
        }
    }
}

const READ: Access = Access { insert: false, update: Columns::None, delete: false };
const APPEND: Access = READ.insert();

impl Access {
    const fn insert(self) -> Self {
        Self { insert: true, ..self }
    }

    const fn delete(self) -> Self {
        Self { delete: true, ..self }
    }

    const fn only(self, columns: &'static [&'static str]) -> Self {
        Self { update: Columns::Only(columns), ..self }
    }

    const fn except(self, columns: &'static [&'static [&'static str]]) -> Self {
        Self { update: Columns::Except(columns), ..self }
    }
}

const fn table(name: &'static str, worker: Access, operator: Access) -> Table {
    Table { name, worker, operator }
}

/// What a plan version is, which nobody changes.
const PLAN: &[&str] = &[
    "plan_id",
    "plan_version",
    "tenant",
    "name",
    "priority",
    "currency",
    "budget_amount",
    "deadline",
    "plan_hash",
    "document",
    "readiness",
    "traceparent",
    "registered_at",
    "steps_total",
    "mode",
    "constraint_set_hash",
    "supersedes",
    "submitter",
];
/// What a verdict says of one.
const VERDICT: &[&str] = &["approval_decision", "approval_hash", "approval_expires_at", "approved_amount"];
const UNIT: &[&str] =
    &["plan_id", "plan_version", "kind", "step_index", "step_key", "connector", "action", "tenant"];
const ATTEMPT: &[&str] = &["plan_id", "plan_version", "kind", "step_index", "attempt", "idempotency_key"];
const ACCOUNT: &[&str] =
    &["account_id", "tenant", "currency", "plan_id", "plan_version", "period", "period_start"];
const RESERVATION: &[&str] = &["undo_amount", "action_open", "undo_open"];
const STREAM: &[&str] = &["plan_id", "plan_version", "partition_date", "traceparent"];

/// All of them, but for the partitions of the log, which nobody is granted: they are reached through the log.
pub(super) const TABLES: [Table; 30] = [
    table("plan_owner", APPEND, READ),
    table("execution_plan", APPEND.except(&[PLAN]), READ.except(&[PLAN, VERDICT])),
    table("plan_verdict", APPEND, READ),
    table("execution_step", APPEND.except(&[UNIT]), APPEND.except(&[UNIT])),
    table("step_attempt", APPEND.except(&[ATTEMPT]), APPEND.except(&[ATTEMPT])),
    table("constraint_snapshot", APPEND, READ),
    table("rollback_policy", APPEND.only(&["begun_at", "ended_at"]), READ.only(&["begun_at", "ended_at"])),
    // A claim that makes a tenant's account locks the limit that it copies, and PostgreSQL lets nobody lock a row who may
    // change nothing of it: when it was set is what binds nobody.
    table("budget_limit", READ.only(&["set_at"]), APPEND.only(&["amount", "set_at", "set_by"])),
    table("budget_account", APPEND.except(&[ACCOUNT]), READ.except(&[ACCOUNT])),
    table("budget_reservation", APPEND.only(RESERVATION), READ.only(RESERVATION)),
    table("budget_entry", APPEND, APPEND),
    table("budget_change", APPEND, APPEND),
    table("budget_snapshot", APPEND, APPEND),
    table("execution_event", APPEND, APPEND),
    table("event_stream", APPEND.except(&[STREAM]), READ.only(&["last_sequence", "last_hash"])),
    table("control_state", READ.delete(), APPEND.delete()),
    table("constraint_set", READ, APPEND),
    table("tenant_weight", READ, APPEND.except(&[&["tenant"]])),
    table("runtime_state", READ.only(&["era", "lost_at", "rebuilding_until"]), READ),
    table("reconciler_turn", READ.only(&["next_at"]), READ),
    table("two_person_act", READ, APPEND.delete()),
    table("control_request", READ, APPEND.only(&["confirmed_by", "confirmed_at"])),
    table("breaker_force", READ, APPEND.except(&[&["connector"]]).delete()),
    // Checkpoints of the log: what grew is noted by whoever appends, and sealed by a worker.
    table("stream_growth", APPEND.delete(), APPEND),
    // What is to be published: told by whoever appends, deleted by whoever published it.
    table("relay_due", APPEND.only(&["due"]).delete(), APPEND),
    table("audit_checkpoint", APPEND, READ),
    table("audit_leaf", APPEND, READ),
    table("checkpoint_turn", READ.only(&["next_at"]), READ),
    // Written by the owner's function alone.
    table("archived_month", READ, READ),
    // What `dat migrate` has done, for whoever wants to know.
    table("_sqlx_migrations", READ, READ),
];
