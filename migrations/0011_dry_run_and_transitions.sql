-- Dry runs: which plan versions go the whole way without effects and without spend. And the arrows of both lifecycles.

ALTER TABLE execution_plan ADD COLUMN mode text NOT NULL DEFAULT 'live' CHECK (mode IN ('live', 'dry'));
COMMENT ON COLUMN execution_plan.mode IS 'live, or dry: the same way without effects or spend. Copied from the document for events and people; workers go by the document that they hashed.';

CREATE TRIGGER execution_plan_mode_immutable
    BEFORE UPDATE OF mode ON execution_plan
    FOR EACH ROW EXECUTE FUNCTION refuse_change('a registered plan version never changes; submit a new version');

-- The arrows of dat-plan's `PlanState` and `StepState`, once more. What a row may hold in a state its CHECKs say; what state
-- it may come from these say. The condition is looked at for each row, the function called for none that is legal.
CREATE FUNCTION refuse_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% cannot go from % to %', TG_TABLE_NAME, OLD.state, NEW.state USING ERRCODE = 'check_violation';
END $$;

CREATE TRIGGER execution_plan_transition
    BEFORE UPDATE OF state ON execution_plan
    FOR EACH ROW
    -- Two arrows in one transaction are written once: staged and admitted, resumed and found complete.
    WHEN (OLD.state <> NEW.state AND OLD.state || '>' || NEW.state <> ALL (ARRAY[
        'draft>submitted_for_approval', 'draft>aborted',
        'submitted_for_approval>approved', 'submitted_for_approval>rejected', 'submitted_for_approval>aborted',
        'approved>staged', 'approved>aborted', 'approved>executing',
        'staged>executing', 'staged>aborted',
        'executing>completed', 'executing>rolling_back', 'executing>paused',
        'paused>executing', 'paused>rolling_back', 'paused>completed',
        'rolling_back>aborted', 'rolling_back>stuck',
        'stuck>rolling_back', 'stuck>aborted',
        'rejected>archived',
        'completed>archived',
        'aborted>archived']))
    EXECUTE FUNCTION refuse_transition();

CREATE TRIGGER execution_step_transition
    BEFORE UPDATE OF state ON execution_step
    FOR EACH ROW
    WHEN (OLD.state <> NEW.state AND OLD.state || '>' || NEW.state <> ALL (ARRAY[
        'pending>ready', 'pending>skipped',
        'ready>running', 'ready>failed', 'ready>skipped',
        'running>completed', 'running>failed', 'running>unknown',
        'unknown>completed', 'unknown>failed',
        'failed>ready', 'failed>compensating', 'failed>stuck',
        'completed>compensating',
        'compensating>rolled_back', 'compensating>stuck',
        'stuck>compensating', 'stuck>rolled_back', 'stuck>ready']))
    EXECUTE FUNCTION refuse_transition();
