-- Budgets: PostgreSQL has the last word. The claim transaction locks the accounts and reserves, or the step does not run.

CREATE TABLE budget_limit (
    tenant   text        NOT NULL,
    currency text        NOT NULL,
    period   text        NOT NULL CHECK (period IN ('day', 'month', 'year')),
    amount   bigint      NOT NULL CHECK (amount BETWEEN 0 AND 9007199254740991),
    set_at   timestamptz NOT NULL,
    set_by   text        NOT NULL,
    PRIMARY KEY (tenant, currency, period)
);
COMMENT ON TABLE budget_limit IS 'What a tenant may spend in a calendar period; no row, no limit. Each set is an event.';
COMMENT ON COLUMN budget_limit.tenant IS 'Who.';
COMMENT ON COLUMN budget_limit.currency IS 'Of what.';
COMMENT ON COLUMN budget_limit.period IS 'The calendar period, UTC.';
COMMENT ON COLUMN budget_limit.amount IS 'How much, smallest unit.';
COMMENT ON COLUMN budget_limit.set_at IS 'Since when.';
COMMENT ON COLUMN budget_limit.set_by IS 'Who set it.';

CREATE TABLE budget_account (
    account_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant       text        NOT NULL,
    currency     text        NOT NULL,
    plan_id      uuid,
    plan_version integer,
    period       text        CHECK (period IN ('day', 'month', 'year')),
    period_start date,
    limit_amount bigint      NOT NULL CHECK (limit_amount BETWEEN 0 AND 9007199254740991),
    settled      bigint      NOT NULL DEFAULT 0,
    reserved     bigint      NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    overrun      bigint      NOT NULL DEFAULT 0 CHECK (overrun >= 0),
    version      bigint      NOT NULL DEFAULT 0,
    FOREIGN KEY (plan_id, plan_version) REFERENCES execution_plan,
    -- One of the two kinds: a plan version's account, or a tenant's of one period.
    CHECK ((plan_id IS NOT NULL AND plan_version IS NOT NULL AND period IS NULL AND period_start IS NULL)
        OR (plan_id IS NULL AND plan_version IS NULL AND period IS NOT NULL AND period_start IS NOT NULL)),
    -- Invariant 3. A tenant's limit may be lowered under what is already spent; a plan's never changes.
    CHECK (plan_id IS NULL OR settled + reserved <= limit_amount + overrun)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01);
CREATE UNIQUE INDEX budget_account_plan ON budget_account (plan_id, plan_version) WHERE plan_id IS NOT NULL;
CREATE UNIQUE INDEX budget_account_tenant ON budget_account (tenant, currency, period, period_start)
    WHERE period IS NOT NULL;
COMMENT ON TABLE budget_account IS 'What may be, is and will be spent: by a plan version, or by a tenant in a period.';
COMMENT ON COLUMN budget_account.account_id IS 'Locks are taken in this order, after the plans''.';
COMMENT ON COLUMN budget_account.tenant IS 'Who pays.';
COMMENT ON COLUMN budget_account.currency IS 'Of what.';
COMMENT ON COLUMN budget_account.plan_id IS 'A plan''s account; null for a tenant''s.';
COMMENT ON COLUMN budget_account.plan_version IS 'Its version.';
COMMENT ON COLUMN budget_account.period IS 'A tenant''s account: the kind of period.';
COMMENT ON COLUMN budget_account.period_start IS 'Its first day, UTC.';
COMMENT ON COLUMN budget_account.limit_amount IS 'The most; for a plan the tighter of document and verdict.';
COMMENT ON COLUMN budget_account.settled IS 'Spent, net of refunds.';
COMMENT ON COLUMN budget_account.reserved IS 'Held by open reservations.';
COMMENT ON COLUMN budget_account.overrun IS 'Spent beyond what was reserved, as connectors reported it.';
COMMENT ON COLUMN budget_account.version IS 'Rises with every change; live copies are replaced only by newer ones.';

CREATE TABLE budget_reservation (
    plan_id       uuid        NOT NULL,
    plan_version  integer     NOT NULL,
    step_index    integer     NOT NULL,
    attempt       integer     NOT NULL,
    action_amount bigint      NOT NULL CHECK (action_amount >= 0),
    undo_amount   bigint      NOT NULL CHECK (undo_amount >= 0),
    action_open   boolean     NOT NULL,
    undo_open     boolean     NOT NULL,
    accounts      bigint[]    NOT NULL,
    reserved_at   timestamptz NOT NULL,
    PRIMARY KEY (plan_id, plan_version, step_index, attempt),
    FOREIGN KEY (plan_id, plan_version) REFERENCES execution_plan
) WITH (fillfactor = 80);
CREATE INDEX budget_reservation_open ON budget_reservation (plan_id, plan_version) WHERE action_open OR undo_open;
-- What token windows are rebuilt from: the last hour, wherever it lies in the table.
CREATE INDEX budget_reservation_recent ON budget_reservation USING brin (reserved_at);
COMMENT ON TABLE budget_reservation IS 'One row a reservation; its id is step and attempt.';
COMMENT ON COLUMN budget_reservation.plan_id IS 'The plan.';
COMMENT ON COLUMN budget_reservation.plan_version IS 'Its version.';
COMMENT ON COLUMN budget_reservation.step_index IS 'The step.';
COMMENT ON COLUMN budget_reservation.attempt IS 'The attempt.';
COMMENT ON COLUMN budget_reservation.action_amount IS 'Held for the action: its max_cost.';
COMMENT ON COLUMN budget_reservation.undo_amount IS 'Held for the undo: its max_cost, or 0 where an earlier attempt holds it.';
COMMENT ON COLUMN budget_reservation.action_open IS 'The action''s part is not yet spent or released.';
COMMENT ON COLUMN budget_reservation.undo_open IS 'The undo''s part is held until the undo or the plan''s end.';
COMMENT ON COLUMN budget_reservation.accounts IS 'The accounts it holds room in: the period is fixed here.';
COMMENT ON COLUMN budget_reservation.reserved_at IS 'When.';

CREATE TABLE budget_entry (
    plan_id      uuid        NOT NULL,
    plan_version integer     NOT NULL,
    kind         text        NOT NULL CHECK (kind IN ('action', 'undo')),
    step_index   integer     NOT NULL,
    attempt      integer     NOT NULL,
    entry        text        NOT NULL CHECK (entry IN ('reserved', 'incurred', 'released', 'refund')),
    part         text        NOT NULL CHECK (part IN ('action', 'undo')),
    amount       bigint      NOT NULL CHECK (amount > 0),
    tenant       text        NOT NULL,
    currency     text        NOT NULL,
    accounts     bigint[]    NOT NULL,
    at           timestamptz NOT NULL,
    -- Idempotent by step and attempt: the same entry cannot be written twice.
    PRIMARY KEY (plan_id, plan_version, kind, step_index, attempt, entry, part),
    FOREIGN KEY (plan_id, plan_version) REFERENCES execution_plan
);
COMMENT ON TABLE budget_entry IS 'The ledger: every change of an account, once.';
COMMENT ON COLUMN budget_entry.plan_id IS 'The plan.';
COMMENT ON COLUMN budget_entry.plan_version IS 'Its version.';
COMMENT ON COLUMN budget_entry.kind IS 'The unit that caused it: action or undo.';
COMMENT ON COLUMN budget_entry.step_index IS 'The unit''s index.';
COMMENT ON COLUMN budget_entry.attempt IS 'Its attempt.';
COMMENT ON COLUMN budget_entry.entry IS 'reserved, incurred, released or refund.';
COMMENT ON COLUMN budget_entry.part IS 'Which part of the reservation it concerns.';
COMMENT ON COLUMN budget_entry.amount IS 'How much, smallest unit, above 0.';
COMMENT ON COLUMN budget_entry.tenant IS 'Who pays.';
COMMENT ON COLUMN budget_entry.currency IS 'Of what.';
COMMENT ON COLUMN budget_entry.accounts IS 'The accounts it changed.';
COMMENT ON COLUMN budget_entry.at IS 'When.';

CREATE TABLE budget_snapshot (
    plan_id      uuid        NOT NULL,
    plan_version integer     NOT NULL,
    moment       text        NOT NULL CHECK (moment IN ('admitted', 'ended')),
    limit_amount bigint      NOT NULL,
    settled      bigint      NOT NULL,
    reserved     bigint      NOT NULL,
    currency     text        NOT NULL,
    taken_at     timestamptz NOT NULL,
    PRIMARY KEY (plan_id, plan_version, moment),
    FOREIGN KEY (plan_id, plan_version) REFERENCES execution_plan,
    -- When a plan is over every reservation is closed.
    CHECK (moment <> 'ended' OR reserved = 0)
);
COMMENT ON TABLE budget_snapshot IS 'A plan''s account when it was admitted and when it ended.';
COMMENT ON COLUMN budget_snapshot.plan_id IS 'The plan.';
COMMENT ON COLUMN budget_snapshot.plan_version IS 'Its version.';
COMMENT ON COLUMN budget_snapshot.moment IS 'admitted or ended.';
COMMENT ON COLUMN budget_snapshot.limit_amount IS 'The limit then.';
COMMENT ON COLUMN budget_snapshot.settled IS 'Spent then, net of refunds.';
COMMENT ON COLUMN budget_snapshot.reserved IS 'Held then.';
COMMENT ON COLUMN budget_snapshot.currency IS 'Of what.';
COMMENT ON COLUMN budget_snapshot.taken_at IS 'When.';
