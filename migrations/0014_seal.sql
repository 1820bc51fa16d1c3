-- What governance was told and what was superseded: so that a verdict is held against the rules that its approver saw,
-- and an older version is told from the one in force.

ALTER TABLE execution_plan
    ADD COLUMN constraint_set_hash text CHECK (constraint_set_hash ~ '^sha256:[0-9a-f]{64}$'),
    ADD COLUMN supersedes integer CHECK (supersedes < plan_version);
COMMENT ON COLUMN execution_plan.constraint_set_hash IS 'The operators'' constraint sets that the approval package named, as one hash; null where an older worker registered the plan: then the package in the log says it.';
COMMENT ON COLUMN execution_plan.supersedes IS 'The newest version of the plan that was registered before this one and has a lower number; null for the first.';

CREATE TRIGGER execution_plan_seal_immutable
    BEFORE UPDATE OF constraint_set_hash, supersedes ON execution_plan
    FOR EACH ROW EXECUTE FUNCTION refuse_change('a registered plan version never changes; submit a new version');

-- A verdict is evidence. What it says is never changed, and it is never taken away.
CREATE TRIGGER plan_verdict_immutable
    BEFORE UPDATE OR DELETE ON plan_verdict
    FOR EACH ROW EXECUTE FUNCTION refuse_change('a verdict never changes; governance revokes it');
