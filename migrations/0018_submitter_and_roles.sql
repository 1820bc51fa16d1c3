-- Who submitted a plan version; and what a role needs that may write the log and own none of it.

ALTER TABLE execution_plan ADD COLUMN submitter text CHECK (submitter <> '');
COMMENT ON COLUMN execution_plan.submitter IS 'Who submitted it first: the AMQP property user_id, which the broker has compared with the login. Null where the submission had none, or an older worker registered the plan.';

CREATE TRIGGER execution_plan_submitter_immutable
    BEFORE UPDATE OF submitter ON execution_plan
    FOR EACH ROW EXECUTE FUNCTION refuse_change('a registered plan version never changes; submit a new version');

-- Partitions belong to whoever owns the log: a worker that owned one could empty it. So the function makes them as its
-- owner, with names that no caller's search_path can turn to something else, and only for whom 'dat migrate' grants it to.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION ensure_event_partition(date) SECURITY DEFINER SET search_path = %I, pg_temp',
                   current_schema());
END $$;
REVOKE EXECUTE ON FUNCTION ensure_event_partition(date) FROM PUBLIC;
