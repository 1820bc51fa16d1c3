-- What is to be published is found by rows a transaction writes and whoever published it deletes, instead of by an
-- index of streams: an index of what changes with every event made every change of a stream's head a new entry in each
-- of its indexes (no HOT update), and every look at it a walk over the dead ones.
CREATE TABLE relay_due (
    due_id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    plan_ids      uuid[]      NOT NULL,
    plan_versions integer[]   NOT NULL CHECK (cardinality(plan_versions) = cardinality(plan_ids)),
    due           timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.01);
COMMENT ON TABLE relay_due IS 'Streams that a transaction wrote to, until all of it was published.';
COMMENT ON COLUMN relay_due.due_id IS 'In the order of writing, nearly.';
COMMENT ON COLUMN relay_due.plan_ids IS 'The streams'' plans.';
COMMENT ON COLUMN relay_due.plan_versions IS 'Their versions.';
COMMENT ON COLUMN relay_due.due IS 'From when on any relay may look: before, the writer''s own publishes it.';

INSERT INTO relay_due (plan_ids, plan_versions, due)
SELECT array_agg(plan_id), array_agg(plan_version), '-infinity' FROM event_stream
WHERE relayed < last_sequence HAVING count(*) > 0;

DROP INDEX event_stream_behind;
ALTER TABLE event_stream
    ADD COLUMN relay_owner uuid,
    ADD COLUMN traceparent text NOT NULL DEFAULT '';
UPDATE event_stream s SET traceparent = p.traceparent
FROM execution_plan p
WHERE p.plan_id = s.plan_id AND p.plan_version = s.plan_version AND p.state <> 'archived';
UPDATE event_stream SET relay_until = to_timestamp(0) WHERE relayed = last_sequence;
COMMENT ON COLUMN event_stream.relay_owner IS 'The process whose relay has claimed it, and which hands it what it writes; null where nobody has.';
COMMENT ON COLUMN event_stream.traceparent IS 'The trace context of the submission; empty for the control stream.';
COMMENT ON COLUMN event_stream.relay_until IS 'A relay has claimed it until then; 1970 where it was published to its end.';
