-- The Telemetry & Audit Log, which is the outbox too: written in the transaction it describes, published by the relay.

CREATE TABLE execution_event (
    partition_date date        NOT NULL,
    plan_id        uuid        NOT NULL,
    plan_version   integer     NOT NULL,
    sequence       bigint      NOT NULL CHECK (sequence >= 1),
    kind           text        NOT NULL,
    at             timestamptz NOT NULL,
    data           jsonb       NOT NULL,
    hash           bytea       NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (partition_date, plan_id, plan_version, sequence)
) PARTITION BY RANGE (partition_date);

CREATE FUNCTION ensure_event_partition(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first date := date_trunc('month', day);
    name text := 'execution_event_' || to_char(first, 'YYYY_MM');
BEGIN
    -- One session at a time: two that find it missing would both try to make it.
    PERFORM pg_advisory_xact_lock(hashtext('ensure_event_partition'));
    IF to_regclass(name) IS NULL THEN
        EXECUTE format('CREATE TABLE %I PARTITION OF execution_event FOR VALUES FROM (%L) TO (%L)',
                       name, first, first + interval '1 month');
    END IF;
END $$;
COMMENT ON FUNCTION ensure_event_partition IS 'Makes the monthly partition that holds a day, if it is missing. The sweeper calls it ahead of time.';
SELECT ensure_event_partition(current_date);
SELECT ensure_event_partition((current_date + interval '1 month')::date);
-- What no monthly partition holds (a clock far off) is kept all the same.
CREATE TABLE execution_event_other PARTITION OF execution_event DEFAULT;

-- A row each, so that every partition has it too, also for statements that name the partition.
CREATE TRIGGER execution_event_append_only
    BEFORE UPDATE OR DELETE ON execution_event
    FOR EACH ROW EXECUTE FUNCTION refuse_change('the log is append-only');
CREATE TRIGGER execution_event_never_emptied
    BEFORE TRUNCATE ON execution_event
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('the log is append-only');

COMMENT ON TABLE execution_event IS 'Append-only: every decision, spend, state change and operator act.';
COMMENT ON COLUMN execution_event.partition_date IS 'The day the stream began, so that a partition can be detached when all its plans have ended.';
COMMENT ON COLUMN execution_event.plan_id IS 'The plan; all zeros for the control stream.';
COMMENT ON COLUMN execution_event.plan_version IS 'Its version; 0 for the control stream.';
COMMENT ON COLUMN execution_event.sequence IS 'Place in the plan version''s stream, from 1, without a gap.';
COMMENT ON COLUMN execution_event.kind IS 'The routing key, e.g. step.completed.';
COMMENT ON COLUMN execution_event.at IS 'When it happened.';
COMMENT ON COLUMN execution_event.data IS 'What is published as data.';
COMMENT ON COLUMN execution_event.hash IS 'SHA-256 over the hash before it and the RFC 8785 form of the envelope.';

CREATE TABLE event_stream (
    plan_id        uuid    NOT NULL,
    plan_version   integer NOT NULL,
    partition_date date    NOT NULL,
    last_sequence  bigint  NOT NULL CHECK (last_sequence >= 0),
    last_hash      bytea   NOT NULL CHECK (length(last_hash) = 32),
    relayed        bigint  NOT NULL DEFAULT 0,
    relay_epoch    bigint  NOT NULL DEFAULT 0,
    relay_until    timestamptz NOT NULL,
    PRIMARY KEY (plan_id, plan_version),
    CHECK (relayed BETWEEN 0 AND last_sequence)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01);
-- Streams with something to publish, those first that were looked at longest ago. A quiet stream is not in it.
CREATE INDEX event_stream_behind ON event_stream (relay_until) WHERE relayed < last_sequence;
INSERT INTO event_stream (plan_id, plan_version, partition_date, last_sequence, last_hash, relay_until)
VALUES ('00000000-0000-0000-0000-000000000000', 0, current_date, 0, decode(repeat('00', 32), 'hex'), now());
COMMENT ON TABLE event_stream IS 'Where each stream of events ends, and how far it was published.';
COMMENT ON COLUMN event_stream.plan_id IS 'The plan; all zeros for the control stream.';
COMMENT ON COLUMN event_stream.plan_version IS 'Its version.';
COMMENT ON COLUMN event_stream.partition_date IS 'The day it began: where its events lie.';
COMMENT ON COLUMN event_stream.last_sequence IS 'The last event''s place.';
COMMENT ON COLUMN event_stream.last_hash IS 'The last event''s hash.';
COMMENT ON COLUMN event_stream.relayed IS 'All up to here were confirmed by the broker.';
COMMENT ON COLUMN event_stream.relay_epoch IS 'Rises with every claim of a relay and fences its progress.';
COMMENT ON COLUMN event_stream.relay_until IS 'A relay has claimed it until then; in the past, when one last did.';
