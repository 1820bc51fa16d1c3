-- Retention: months of the log whose plans ended long ago are exported and detached. Their checkpoints and leaves stay.

-- The months are found by it, and what is in one.
CREATE INDEX event_stream_month ON event_stream (partition_date);

-- The control stream never ends: it lies in the partition that is never detached.
ALTER TABLE execution_event DISABLE TRIGGER execution_event_append_only;
UPDATE execution_event SET partition_date = '9999-12-31'
WHERE plan_id = '00000000-0000-0000-0000-000000000000' AND plan_version = 0;
ALTER TABLE execution_event ENABLE TRIGGER execution_event_append_only;
UPDATE event_stream SET partition_date = '9999-12-31'
WHERE plan_id = '00000000-0000-0000-0000-000000000000' AND plan_version = 0;

CREATE TABLE archived_month (
    first       date        PRIMARY KEY CHECK (extract(day FROM first) = 1),
    archived_at timestamptz NOT NULL,
    streams     bigint      NOT NULL CHECK (streams >= 0),
    events      bigint      NOT NULL CHECK (events >= 0)
);
COMMENT ON TABLE archived_month IS 'Append-only: months of the log that were exported and detached. What became of their streams is told by checkpoints and by the exported files.';
COMMENT ON COLUMN archived_month.first IS 'The month''s first day.';
COMMENT ON COLUMN archived_month.archived_at IS 'When it was detached.';
COMMENT ON COLUMN archived_month.streams IS 'How many streams it held.';
COMMENT ON COLUMN archived_month.events IS 'How many events it held.';
CREATE TRIGGER archived_month_append_only
    BEFORE UPDATE OR DELETE ON archived_month
    FOR EACH ROW EXECUTE FUNCTION refuse_change('months that were archived stay so');
CREATE TRIGGER archived_month_never_emptied
    BEFORE TRUNCATE ON archived_month
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('months that were archived stay so');

-- As whoever owns the log: operators may have a month detached, and nothing else done to its tables.
CREATE FUNCTION detach_event_month(month date, at timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    name text := 'execution_event_' || to_char(month, 'YYYY_MM');
    open_streams bigint;
    counted archived_month;
BEGIN
    -- Nobody makes partitions meanwhile, nor detaches another.
    PERFORM pg_advisory_xact_lock(hashtext('ensure_event_partition'));
    -- Nobody writes to it from here on: whoever would waits, and not for long (lock_timeout).
    EXECUTE format('LOCK TABLE execution_event, %I IN ACCESS EXCLUSIVE MODE', name);
    SELECT count(*) INTO open_streams
    FROM event_stream s
    JOIN execution_plan p USING (plan_id, plan_version)
    WHERE s.partition_date >= month AND s.partition_date < month + interval '1 month'
      AND (p.state <> 'archived' OR s.relayed < s.last_sequence OR NOT EXISTS (
          SELECT FROM audit_leaf l
          WHERE l.plan_id = s.plan_id AND l.plan_version = s.plan_version AND l.last_sequence = s.last_sequence));
    IF open_streams > 0 THEN
        RAISE EXCEPTION '% streams of % are not archived, published and sealed', open_streams, name
            USING ERRCODE = 'restrict_violation';
    END IF;
    counted.first := month;
    counted.archived_at := at;
    SELECT count(*) INTO counted.streams FROM event_stream s
    WHERE s.partition_date >= month AND s.partition_date < month + interval '1 month';
    EXECUTE format('SELECT count(*) FROM %I', name) INTO counted.events;
    INSERT INTO archived_month SELECT counted.*;
    EXECUTE format('ALTER TABLE execution_event DETACH PARTITION %I', name);
    -- The triggers of the log went with it.
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON %I
                    FOR EACH ROW EXECUTE FUNCTION refuse_change(%L)', name, 'the log is append-only');
    EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON %I
                    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change(%L)', name, 'the log is append-only');
    RETURN counted.events;
END $$;
COMMENT ON FUNCTION detach_event_month IS 'Detaches a month of the log, all of whose plans are archived, published and sealed; gives how many events it held. Its table stays, by itself, until someone drops it.';
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION detach_event_month(date, timestamptz) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE EXECUTE ON FUNCTION detach_event_month FROM PUBLIC;
