-- The Plan Registry: immutable plan versions, who owns a plan id, and what governance said.

CREATE TABLE plan_owner (
    plan_id uuid PRIMARY KEY,
    tenant  text NOT NULL CHECK (tenant <> '')
);
COMMENT ON TABLE plan_owner IS 'A plan id belongs to one tenant for ever (invariant 9).';
COMMENT ON COLUMN plan_owner.plan_id IS 'The plan, all versions.';
COMMENT ON COLUMN plan_owner.tenant IS 'Who owns it.';

CREATE TABLE execution_plan (
    plan_id              uuid        NOT NULL REFERENCES plan_owner,
    plan_version         integer     NOT NULL CHECK (plan_version >= 1),
    tenant               text        NOT NULL,
    name                 text        NOT NULL,
    state                text        NOT NULL CHECK (state IN (
        'draft', 'submitted_for_approval', 'approved', 'rejected', 'staged', 'executing', 'paused',
        'rolling_back', 'completed', 'aborted', 'stuck', 'archived')),
    priority             smallint    NOT NULL CHECK (priority BETWEEN 0 AND 9),
    currency             text        NOT NULL,
    budget_amount        bigint      NOT NULL CHECK (budget_amount BETWEEN 0 AND 9007199254740991),
    approved_amount      bigint      CHECK (approved_amount BETWEEN 0 AND budget_amount),
    deadline             timestamptz,
    plan_hash            text        NOT NULL CHECK (plan_hash ~ '^sha256:[0-9a-f]{64}$'),
    document             bytea       NOT NULL,
    readiness            jsonb       NOT NULL,
    traceparent          text        NOT NULL,
    registered_at        timestamptz NOT NULL,
    state_since          timestamptz NOT NULL,
    started_at           timestamptz,
    ended_at             timestamptz,
    approval_decision    text,
    approval_hash        text,
    approval_expires_at  timestamptz,
    revoked_at           timestamptz,
    steps_total          integer     NOT NULL CHECK (steps_total >= 1),
    steps_done           integer     NOT NULL DEFAULT 0,
    undos_open           integer     NOT NULL DEFAULT 0 CHECK (undos_open >= 0),
    undo_begun           boolean     NOT NULL DEFAULT false,
    wake_at              timestamptz,
    wait_reason          text,
    end_reason           text,
    PRIMARY KEY (plan_id, plan_version),
    -- The state rules of dat-plan's `PlanState`, once more.
    CHECK (steps_done BETWEEN 0 AND steps_total),
    CHECK (state <> 'completed' OR steps_done = steps_total),
    CHECK ((state IN ('completed', 'rejected', 'aborted', 'archived')) = (ended_at IS NOT NULL)),
    CHECK (state NOT IN ('approved', 'staged', 'executing', 'paused', 'rolling_back', 'stuck', 'completed')
           OR (approval_decision IS NOT NULL AND approval_hash = plan_hash)),
    CHECK (state NOT IN ('executing', 'paused', 'rolling_back', 'stuck', 'completed') OR started_at IS NOT NULL),
    CHECK (state <> 'aborted' OR undos_open = 0),
    CHECK (ended_at IS NULL OR wake_at IS NULL)
) WITH (fillfactor = 80, toast_tuple_target = 256, autovacuum_vacuum_scale_factor = 0.01);
-- Out of line and not compressed: updates of the state never copy the document, and reading it costs no decompression.
ALTER TABLE execution_plan ALTER COLUMN document SET STORAGE EXTERNAL;

-- Invariant 9: at most one version of a plan is active.
CREATE UNIQUE INDEX execution_plan_one_active ON execution_plan (plan_id)
    WHERE state IN ('staged', 'executing', 'paused', 'rolling_back', 'stuck');
-- The sweeper's view: plans it must look at, and when. Ended plans have no wake_at, so they are not in it.
CREATE INDEX execution_plan_wake ON execution_plan (wake_at) WHERE wake_at IS NOT NULL;
-- Lists for people, newest first.
CREATE INDEX execution_plan_registered ON execution_plan (registered_at);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'restrict_violation';
END $$;

-- Fires only for statements that name these columns: changes of state cost nothing.
CREATE TRIGGER execution_plan_immutable
    BEFORE UPDATE OF plan_id, plan_version, tenant, plan_hash, document, registered_at ON execution_plan
    FOR EACH ROW EXECUTE FUNCTION refuse_change('a registered plan version never changes; submit a new version');

COMMENT ON TABLE execution_plan IS 'One row a plan version: the document as submitted, and where it stands.';
COMMENT ON COLUMN execution_plan.plan_id IS 'The plan.';
COMMENT ON COLUMN execution_plan.plan_version IS 'Its version, from 1.';
COMMENT ON COLUMN execution_plan.tenant IS 'Who pays; equals plan_owner.tenant.';
COMMENT ON COLUMN execution_plan.name IS 'For people.';
COMMENT ON COLUMN execution_plan.state IS 'The lifecycle of DESIGN section 2; dat-plan PlanState has the arrows.';
COMMENT ON COLUMN execution_plan.priority IS '0 (last) to 9 (first), within the tenant.';
COMMENT ON COLUMN execution_plan.currency IS 'The budget''s currency; all amounts of the plan are in its smallest unit.';
COMMENT ON COLUMN execution_plan.budget_amount IS 'The budget of the document.';
COMMENT ON COLUMN execution_plan.approved_amount IS 'The tighter budget of the verdict, where it gives one.';
COMMENT ON COLUMN execution_plan.deadline IS 'Past it nothing forward starts and the plan is rolled back.';
COMMENT ON COLUMN execution_plan.plan_hash IS 'SHA-256 over the RFC 8785 form of the document.';
COMMENT ON COLUMN execution_plan.document IS 'The bytes as submitted. Workers execute from these, after hashing them.';
COMMENT ON COLUMN execution_plan.readiness IS 'Plan Builder''s report.';
COMMENT ON COLUMN execution_plan.traceparent IS 'W3C trace context of the submission, or one made for it.';
COMMENT ON COLUMN execution_plan.registered_at IS 'When it was registered; its day picks the log''s partition.';
COMMENT ON COLUMN execution_plan.state_since IS 'When it came to its state.';
COMMENT ON COLUMN execution_plan.started_at IS 'When it was admitted.';
COMMENT ON COLUMN execution_plan.ended_at IS 'When it came to an end; null while it has not.';
COMMENT ON COLUMN execution_plan.approval_decision IS 'decision_id of the verdict that binds.';
COMMENT ON COLUMN execution_plan.approval_hash IS 'The plan hash that the approver named.';
COMMENT ON COLUMN execution_plan.approval_expires_at IS 'Past it the approval counts as revoked.';
COMMENT ON COLUMN execution_plan.revoked_at IS 'When a revocation came; nothing forward starts after it.';
COMMENT ON COLUMN execution_plan.steps_total IS 'Steps of the document.';
COMMENT ON COLUMN execution_plan.steps_done IS 'Steps completed.';
COMMENT ON COLUMN execution_plan.undos_open IS 'Undos that have not completed.';
COMMENT ON COLUMN execution_plan.undo_begun IS 'The undos are registered: it is done once, when nothing is in flight.';
COMMENT ON COLUMN execution_plan.wake_at IS 'When the sweeper must look at it: admission, deadline, expiry, rollback.';
COMMENT ON COLUMN execution_plan.wait_reason IS 'What it waits for, for explain and watch.';
COMMENT ON COLUMN execution_plan.end_reason IS 'Why it was rejected, rolled back or aborted.';

CREATE TABLE plan_verdict (
    plan_id      uuid        NOT NULL,
    plan_version integer     NOT NULL,
    decision_id  text        NOT NULL,
    outcome      text        NOT NULL CHECK (outcome IN ('approved', 'rejected', 'revoked')),
    plan_hash    text        NOT NULL,
    approver     text        NOT NULL,
    verdict      jsonb       NOT NULL,
    received_at  timestamptz NOT NULL,
    -- A revocation may come under the id of the decision that it takes back.
    PRIMARY KEY (plan_id, plan_version, decision_id, outcome),
    FOREIGN KEY (plan_id, plan_version) REFERENCES execution_plan
);
-- Between approved and rejected the first verdict wins; a revocation may come besides.
CREATE UNIQUE INDEX plan_verdict_first_wins ON plan_verdict (plan_id, plan_version) WHERE outcome <> 'revoked';
COMMENT ON TABLE plan_verdict IS 'The verdicts that bind. One that conflicts or matches nothing is parked, not stored.';
COMMENT ON COLUMN plan_verdict.plan_id IS 'The plan judged.';
COMMENT ON COLUMN plan_verdict.plan_version IS 'Its version.';
COMMENT ON COLUMN plan_verdict.decision_id IS 'Governance''s id of the decision; the same verdict twice is one row.';
COMMENT ON COLUMN plan_verdict.outcome IS 'approved, rejected or revoked.';
COMMENT ON COLUMN plan_verdict.plan_hash IS 'What was judged; equals execution_plan.plan_hash.';
COMMENT ON COLUMN plan_verdict.approver IS 'Who judged.';
COMMENT ON COLUMN plan_verdict.verdict IS 'The verdict as received.';
COMMENT ON COLUMN plan_verdict.received_at IS 'When it was bound.';
