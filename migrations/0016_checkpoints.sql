-- Checkpoints of the log: which streams grew since they were last sealed, and what was sealed.

CREATE TABLE stream_growth (
    growth_id     bigint    GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    plan_ids      uuid[]    NOT NULL,
    plan_versions integer[] NOT NULL CHECK (cardinality(plan_versions) = cardinality(plan_ids))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
COMMENT ON TABLE stream_growth IS 'A row a transaction that wrote to the log, until that is sealed: whoever writes only inserts and waits for nobody, whoever seals reads only what grew.';
COMMENT ON COLUMN stream_growth.growth_id IS 'The order in which they are sealed, about that of time. Each row is deleted by its own id: none is passed over.';
COMMENT ON COLUMN stream_growth.plan_ids IS 'The streams that it wrote to.';
COMMENT ON COLUMN stream_growth.plan_versions IS 'Their versions.';
-- What is there already is sealed by the first checkpoints.
INSERT INTO stream_growth (plan_ids, plan_versions)
SELECT array_agg(plan_id ORDER BY plan_id, plan_version), array_agg(plan_version ORDER BY plan_id, plan_version)
FROM (SELECT plan_id, plan_version, (row_number() OVER (ORDER BY plan_id, plan_version) - 1) / 1000 AS part
      FROM event_stream WHERE last_sequence > 0) AS present
GROUP BY part;

CREATE TABLE audit_checkpoint (
    number    bigint      PRIMARY KEY CHECK (number >= 1),
    format    integer     NOT NULL,
    origin    text        NOT NULL,
    at        timestamptz NOT NULL,
    leaves    integer     NOT NULL CHECK (leaves >= 1),
    root      bytea       NOT NULL CHECK (length(root) = 32),
    previous  bytea       NOT NULL CHECK (length(previous) = 32),
    key_id    text,
    signature text,
    CHECK ((key_id IS NULL) = (signature IS NULL))
);
COMMENT ON TABLE audit_checkpoint IS 'Append-only: each seals what grew under a root and is chained to the one before. Published as audit.checkpoint.';
COMMENT ON COLUMN audit_checkpoint.number IS 'Its place in the chain, from 1, without a gap.';
COMMENT ON COLUMN audit_checkpoint.format IS 'The form that its hash and signature are over.';
COMMENT ON COLUMN audit_checkpoint.origin IS 'Whose log: the fleet''s namespace.';
COMMENT ON COLUMN audit_checkpoint.at IS 'When it was made; never before the one before it.';
COMMENT ON COLUMN audit_checkpoint.leaves IS 'How many leaves it has.';
COMMENT ON COLUMN audit_checkpoint.root IS 'The root of the Merkle tree over its leaves (RFC 9162, SHA-256).';
COMMENT ON COLUMN audit_checkpoint.previous IS 'The hash of the checkpoint before; zeros for the first.';
COMMENT ON COLUMN audit_checkpoint.key_id IS 'The key that signed it; null where none is configured.';
COMMENT ON COLUMN audit_checkpoint.signature IS 'Ed25519 over the RFC 8785 form of the checkpoint without this, base64.';

-- No foreign keys: they would lock a row for each leaf, and the audit checks more than they could.
CREATE TABLE audit_leaf (
    number        bigint  NOT NULL,
    place         integer NOT NULL CHECK (place >= 0),
    plan_id       uuid    NOT NULL,
    plan_version  integer NOT NULL,
    last_sequence bigint  NOT NULL CHECK (last_sequence >= 1),
    last_hash     bytea   NOT NULL CHECK (length(last_hash) = 32),
    PRIMARY KEY (number, place)
);
-- A stream's leaves in the order of its events: its last one, and the audit, which reads both side by side.
CREATE UNIQUE INDEX audit_leaf_stream ON audit_leaf (plan_id, plan_version, last_sequence);
COMMENT ON TABLE audit_leaf IS 'Append-only: where each stream that a checkpoint seals ended.';
COMMENT ON COLUMN audit_leaf.number IS 'The checkpoint.';
COMMENT ON COLUMN audit_leaf.place IS 'Its place in the tree, from 0.';
COMMENT ON COLUMN audit_leaf.plan_id IS 'The stream''s plan; all zeros for the control stream.';
COMMENT ON COLUMN audit_leaf.plan_version IS 'Its version.';
COMMENT ON COLUMN audit_leaf.last_sequence IS 'The last event''s place.';
COMMENT ON COLUMN audit_leaf.last_hash IS 'The last event''s hash.';

CREATE TRIGGER audit_checkpoint_append_only
    BEFORE UPDATE OR DELETE ON audit_checkpoint
    FOR EACH ROW EXECUTE FUNCTION refuse_change('checkpoints are append-only');
CREATE TRIGGER audit_checkpoint_never_emptied
    BEFORE TRUNCATE ON audit_checkpoint
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('checkpoints are append-only');
CREATE TRIGGER audit_leaf_append_only
    BEFORE UPDATE OR DELETE ON audit_leaf
    FOR EACH ROW EXECUTE FUNCTION refuse_change('checkpoints are append-only');
CREATE TRIGGER audit_leaf_never_emptied
    BEFORE TRUNCATE ON audit_leaf
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('checkpoints are append-only');

CREATE TABLE checkpoint_turn (
    is_only boolean     PRIMARY KEY DEFAULT true CHECK (is_only),
    next_at timestamptz NOT NULL DEFAULT 'epoch'
);
INSERT INTO checkpoint_turn DEFAULT VALUES;
COMMENT ON TABLE checkpoint_turn IS 'One row: whoever seals holds it locked until it commits; nobody waits for it.';
COMMENT ON COLUMN checkpoint_turn.is_only IS 'True: there is one row.';
COMMENT ON COLUMN checkpoint_turn.next_at IS 'When the next checkpoint is due.';
