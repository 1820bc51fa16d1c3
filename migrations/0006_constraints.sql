-- Operators' constraint sets, and what is counted for rules that count.

CREATE TABLE constraint_set (
    scope        text        NOT NULL CHECK (scope IN ('fleet', 'tenant')),
    subject      text        NOT NULL,
    version      integer     NOT NULL CHECK (version >= 1),
    content_hash text        NOT NULL CHECK (content_hash ~ '^sha256:[0-9a-f]{64}$'),
    document     jsonb       NOT NULL,
    set_at       timestamptz NOT NULL,
    set_by       text        NOT NULL CHECK (set_by <> ''),
    reason       text        NOT NULL CHECK (reason <> ''),
    PRIMARY KEY (scope, subject, version),
    CHECK ((scope = 'fleet') = (subject = ''))
);
-- A decision names the set that it applied by its hash.
CREATE INDEX constraint_set_hash ON constraint_set (content_hash);
CREATE TRIGGER constraint_set_immutable
    BEFORE UPDATE OR DELETE ON constraint_set
    FOR EACH ROW EXECUTE FUNCTION refuse_change('a registered constraint set never changes; set a new version');
COMMENT ON TABLE constraint_set IS 'The rules of operators, for the fleet or a tenant: immutable versions, the newest applies.';
COMMENT ON COLUMN constraint_set.scope IS 'fleet or tenant.';
COMMENT ON COLUMN constraint_set.subject IS 'Which tenant; empty for the fleet.';
COMMENT ON COLUMN constraint_set.version IS 'From 1, without a gap.';
COMMENT ON COLUMN constraint_set.content_hash IS 'SHA-256 over the RFC 8785 form of the document.';
COMMENT ON COLUMN constraint_set.document IS 'The constraint document as given.';
COMMENT ON COLUMN constraint_set.set_at IS 'Since when.';
COMMENT ON COLUMN constraint_set.set_by IS 'Who set it.';
COMMENT ON COLUMN constraint_set.reason IS 'Why.';

ALTER TABLE constraint_snapshot ADD COLUMN operator_sets jsonb NOT NULL DEFAULT '[]';
COMMENT ON COLUMN constraint_snapshot.operator_sets IS 'The operator sets in force then: scope, subject, version and hash of each.';

ALTER TABLE execution_step ADD COLUMN counted_as text[];
COMMENT ON COLUMN execution_step.counted_as IS 'The counters of concurrency rules that count the present attempt; means nothing once it is over.';
-- What counts now: at most as many rows as there are attempts in flight.
CREATE INDEX execution_step_counted ON execution_step (plan_id, plan_version)
    WHERE counted_as IS NOT NULL AND state IN ('running', 'unknown');

-- A third kind of account: what a spend rule allows in a period. Its own columns, so that an older worker's statements
-- over tenants' accounts find only those.
ALTER TABLE budget_account ADD COLUMN cap_key text, ADD COLUMN cap_period text, ADD COLUMN cap_start date;
ALTER TABLE budget_account DROP CONSTRAINT budget_account_check;
ALTER TABLE budget_account ADD CONSTRAINT budget_account_kind CHECK (
    CASE WHEN cap_key IS NOT NULL
         THEN cap_period IN ('day', 'month', 'year', 'total') AND cap_start IS NOT NULL
              AND plan_id IS NULL AND plan_version IS NULL AND period IS NULL AND period_start IS NULL
         ELSE cap_period IS NULL AND cap_start IS NULL
              AND ((plan_id IS NOT NULL AND plan_version IS NOT NULL AND period IS NULL AND period_start IS NULL)
                OR (plan_id IS NULL AND plan_version IS NULL AND period IS NOT NULL AND period_start IS NOT NULL))
    END);
CREATE UNIQUE INDEX budget_account_cap ON budget_account (cap_key, currency, cap_period, cap_start)
    WHERE cap_key IS NOT NULL;
COMMENT ON COLUMN budget_account.cap_key IS 'A spend rule''s account: what is counted together.';
COMMENT ON COLUMN budget_account.cap_period IS 'In how long: a calendar period, or total.';
COMMENT ON COLUMN budget_account.cap_start IS 'The period''s first day, UTC; 1970-01-01 for total.';
