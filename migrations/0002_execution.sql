-- Execution: units of work (steps and undos), their attempts, and what was bound to a plan when it was approved.

CREATE TABLE execution_step (
    plan_id        uuid        NOT NULL,
    plan_version   integer     NOT NULL,
    kind           text        NOT NULL CHECK (kind IN ('action', 'undo')),
    step_index     integer     NOT NULL CHECK (step_index >= 0),
    step_key       text        NOT NULL,
    connector      text        NOT NULL,
    action         text        NOT NULL,
    tenant         text        NOT NULL,
    priority       smallint    NOT NULL CHECK (priority BETWEEN 0 AND 10),
    state          text        NOT NULL CHECK (state IN (
        'pending', 'ready', 'running', 'completed', 'failed', 'unknown',
        'compensating', 'rolled_back', 'stuck', 'skipped')),
    waits_for      integer     NOT NULL CHECK (waits_for >= 0),
    unlocks        integer[],
    not_before     timestamptz NOT NULL,
    wait_reason    text,
    rate_slot      timestamptz,
    ready_at       timestamptz,
    started_at     timestamptz,
    ended_at       timestamptz,
    attempts       integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    lost           integer     NOT NULL DEFAULT 0 CHECK (lost BETWEEN 0 AND attempts),
    key_number     integer     NOT NULL DEFAULT 1 CHECK (key_number >= 1),
    sent           boolean     NOT NULL DEFAULT false,
    needs_decision boolean     NOT NULL DEFAULT false,
    last_outcome   text        CHECK (last_outcome IN ('ok', 'error', 'refused', 'unknown', 'timed_out', 'lost')),
    retry_after_ms bigint      NOT NULL DEFAULT 0,
    probes         integer     NOT NULL DEFAULT 0,
    lease_epoch    bigint      NOT NULL DEFAULT 0,
    lease_until    timestamptz,
    worker         text,
    cost           bigint      NOT NULL DEFAULT 0,
    refund         bigint      NOT NULL DEFAULT 0,
    result         jsonb,
    detail         text,
    PRIMARY KEY (plan_id, plan_version, kind, step_index),
    FOREIGN KEY (plan_id, plan_version) REFERENCES execution_plan,
    -- The state rules of dat-plan's `StepState`, once more.
    CHECK (state <> 'pending' OR attempts = 0),
    CHECK (state <> 'running' OR (lease_until IS NOT NULL AND worker IS NOT NULL AND attempts >= 1
                                  AND started_at IS NOT NULL)),
    CHECK (state NOT IN ('running', 'unknown') OR attempts >= 1),
    CHECK (state <> 'unknown' OR (sent AND needs_decision)),
    CHECK (state NOT IN ('completed', 'compensating', 'rolled_back') OR sent),
    CHECK (state <> 'completed' OR (ended_at IS NOT NULL AND result IS NOT NULL)),
    CHECK (state <> 'skipped' OR NOT sent),
    CHECK (NOT needs_decision OR state IN ('failed', 'unknown')),
    CHECK (kind = 'action' OR state NOT IN ('compensating', 'rolled_back')),
    CHECK (state <> 'ready' OR (waits_for = 0 AND ready_at IS NOT NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);

-- Every index below is partial over what is still to be done: finished rows are in none of them, however many there are.
-- The claim's order: tenants apart, then priority, then who waits longest. lease_until is in no index: renewals stay HOT.
CREATE INDEX execution_step_due ON execution_step
    (tenant, priority DESC, not_before, plan_id, plan_version, kind, step_index) WHERE state = 'ready';
CREATE INDEX execution_step_undecided ON execution_step (not_before) WHERE needs_decision;
CREATE INDEX execution_step_running ON execution_step (plan_id, plan_version) WHERE state = 'running';
CREATE INDEX execution_step_unlocked ON execution_step (plan_id, plan_version)
    WHERE state = 'pending' AND waits_for = 0;

COMMENT ON TABLE execution_step IS 'One row a unit of work: each step''s action, and each undo.';
COMMENT ON COLUMN execution_step.plan_id IS 'The plan.';
COMMENT ON COLUMN execution_step.plan_version IS 'Its version.';
COMMENT ON COLUMN execution_step.kind IS 'action, or undo (a compensation, or a step of rollback.steps).';
COMMENT ON COLUMN execution_step.step_index IS 'Place in the document''s steps; for an undo of the step undone; rollback.steps follow after the last step.';
COMMENT ON COLUMN execution_step.step_key IS 'The key in the document.';
COMMENT ON COLUMN execution_step.connector IS 'Copied from the document: a disabled connector is left out of claims.';
COMMENT ON COLUMN execution_step.action IS 'Copied from the document, for windows, figures and people.';
COMMENT ON COLUMN execution_step.tenant IS 'Copied from the plan: claims are fair between tenants.';
COMMENT ON COLUMN execution_step.priority IS 'The plan''s; 10 for undos, which go first.';
COMMENT ON COLUMN execution_step.state IS 'The lifecycle of DESIGN section 2; dat-plan StepState has the arrows.';
COMMENT ON COLUMN execution_step.waits_for IS 'Units it needs that have not completed.';
COMMENT ON COLUMN execution_step.unlocks IS 'Undos only: indexes of the undos that wait for this one. An action''s come from the document.';
COMMENT ON COLUMN execution_step.not_before IS 'Not claimed (ready) or not probed (unknown) before.';
COMMENT ON COLUMN execution_step.wait_reason IS 'Why it is not due, for explain and watch.';
COMMENT ON COLUMN execution_step.rate_slot IS 'The slot that the rate limit gave it; serves one claim.';
COMMENT ON COLUMN execution_step.ready_at IS 'When it last became ready.';
COMMENT ON COLUMN execution_step.started_at IS 'When the last attempt was claimed.';
COMMENT ON COLUMN execution_step.ended_at IS 'When it completed, failed for good, or was skipped.';
COMMENT ON COLUMN execution_step.attempts IS 'Attempts started, lost ones included.';
COMMENT ON COLUMN execution_step.lost IS 'Attempts whose lease ran out and whose probe sealed them: not counted in max_attempts.';
COMMENT ON COLUMN execution_step.key_number IS 'n of the idempotency key; rises after a seal.';
COMMENT ON COLUMN execution_step.sent IS 'Some attempt may have been sent: it is undone on rollback, and can be undone only then.';
COMMENT ON COLUMN execution_step.needs_decision IS 'Failed and not decided, or unknown and to be probed: the Rollback Coordinator''s work.';
COMMENT ON COLUMN execution_step.last_outcome IS 'How the last attempt ended.';
COMMENT ON COLUMN execution_step.retry_after_ms IS 'What the outside system asked to wait, milliseconds.';
COMMENT ON COLUMN execution_step.probes IS 'Probes of the present unknown outcome that could not tell.';
COMMENT ON COLUMN execution_step.lease_epoch IS 'Rises with every claim and fences every write.';
COMMENT ON COLUMN execution_step.lease_until IS 'The holder may act until then; renewed while the attempt runs.';
COMMENT ON COLUMN execution_step.worker IS 'Who holds or last held the lease.';
COMMENT ON COLUMN execution_step.cost IS 'Sum over all attempts, smallest unit.';
COMMENT ON COLUMN execution_step.refund IS 'What came back, smallest unit.';
COMMENT ON COLUMN execution_step.result IS 'What the connector answered, {} where nothing.';
COMMENT ON COLUMN execution_step.detail IS 'The last message for people.';

CREATE TABLE step_attempt (
    plan_id         uuid        NOT NULL,
    plan_version    integer     NOT NULL,
    kind            text        NOT NULL CHECK (kind IN ('action', 'undo')),
    step_index      integer     NOT NULL,
    attempt         integer     NOT NULL CHECK (attempt >= 1),
    worker          text        NOT NULL,
    lease_epoch     bigint      NOT NULL,
    idempotency_key text        NOT NULL,
    started_at      timestamptz NOT NULL,
    ended_at        timestamptz,
    outcome         text        CHECK (outcome IN ('ok', 'error', 'refused', 'unknown', 'timed_out', 'lost')),
    cost            bigint      NOT NULL DEFAULT 0,
    detail          text,
    PRIMARY KEY (plan_id, plan_version, kind, step_index, attempt),
    FOREIGN KEY (plan_id, plan_version, kind, step_index) REFERENCES execution_step,
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
);
COMMENT ON TABLE step_attempt IS 'Every attempt of every unit.';
COMMENT ON COLUMN step_attempt.plan_id IS 'The plan.';
COMMENT ON COLUMN step_attempt.plan_version IS 'Its version.';
COMMENT ON COLUMN step_attempt.kind IS 'action or undo.';
COMMENT ON COLUMN step_attempt.step_index IS 'The unit''s index.';
COMMENT ON COLUMN step_attempt.attempt IS 'From 1.';
COMMENT ON COLUMN step_attempt.worker IS 'Who tried.';
COMMENT ON COLUMN step_attempt.lease_epoch IS 'Under which lease.';
COMMENT ON COLUMN step_attempt.idempotency_key IS 'What was sent to the outside system.';
COMMENT ON COLUMN step_attempt.started_at IS 'When it was claimed.';
COMMENT ON COLUMN step_attempt.ended_at IS 'When its outcome was recorded.';
COMMENT ON COLUMN step_attempt.outcome IS 'How it ended; unknown until a probe settled it.';
COMMENT ON COLUMN step_attempt.cost IS 'What it cost, smallest unit.';
COMMENT ON COLUMN step_attempt.detail IS 'For people.';

CREATE TABLE constraint_snapshot (
    plan_id      uuid        NOT NULL,
    plan_version integer     NOT NULL,
    content_hash text        NOT NULL CHECK (content_hash ~ '^sha256:[0-9a-f]{64}$'),
    constraints  jsonb       NOT NULL,
    taken_at     timestamptz NOT NULL,
    PRIMARY KEY (plan_id, plan_version),
    FOREIGN KEY (plan_id, plan_version) REFERENCES execution_plan
);
COMMENT ON TABLE constraint_snapshot IS 'The constraints bound to a plan version when it was approved: its own and the verdict''s.';
COMMENT ON COLUMN constraint_snapshot.plan_id IS 'The plan.';
COMMENT ON COLUMN constraint_snapshot.plan_version IS 'Its version.';
COMMENT ON COLUMN constraint_snapshot.content_hash IS 'SHA-256 over the RFC 8785 form of constraints; every decision names it.';
COMMENT ON COLUMN constraint_snapshot.constraints IS 'The list, in the plan document''s form.';
COMMENT ON COLUMN constraint_snapshot.taken_at IS 'When it was bound.';

CREATE TABLE rollback_policy (
    plan_id      uuid        NOT NULL,
    plan_version integer     NOT NULL,
    type         text        NOT NULL CHECK (type IN ('automatic', 'manual', 'compensating')),
    scope        text        NOT NULL CHECK (scope IN ('plan', 'step')),
    on_unknown   text        NOT NULL CHECK (on_unknown IN ('wait', 'rollback')),
    irreversible text[]      NOT NULL,
    begun_at     timestamptz,
    ended_at     timestamptz,
    PRIMARY KEY (plan_id, plan_version),
    FOREIGN KEY (plan_id, plan_version) REFERENCES execution_plan,
    CHECK (ended_at IS NULL OR begun_at IS NOT NULL)
);
COMMENT ON TABLE rollback_policy IS 'How a plan version is unwound, and whether it is being.';
COMMENT ON COLUMN rollback_policy.plan_id IS 'The plan.';
COMMENT ON COLUMN rollback_policy.plan_version IS 'Its version.';
COMMENT ON COLUMN rollback_policy.type IS 'automatic, manual (paused until an operator says) or compensating (the plan''s own list).';
COMMENT ON COLUMN rollback_policy.scope IS 'plan (everything that completed) or step (only what failed).';
COMMENT ON COLUMN rollback_policy.on_unknown IS 'What to do with an outcome that nobody can tell.';
COMMENT ON COLUMN rollback_policy.irreversible IS 'Keys of the steps that cannot be undone.';
COMMENT ON COLUMN rollback_policy.begun_at IS 'When the rollback began.';
COMMENT ON COLUMN rollback_policy.ended_at IS 'When it was done.';
