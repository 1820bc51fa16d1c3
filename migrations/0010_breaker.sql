-- Circuit breakers that an operator has forced. What a breaker does by itself is in Redis; what an operator says of it is
-- a row, read in every claim transaction like the stops of control_state.

CREATE TABLE breaker_force (
    connector text        PRIMARY KEY CHECK (connector <> ''),
    forced    text        NOT NULL CHECK (forced IN ('open', 'closed')),
    actor     text        NOT NULL CHECK (actor <> ''),
    reason    text        NOT NULL CHECK (reason <> ''),
    since     timestamptz NOT NULL
);
COMMENT ON TABLE breaker_force IS 'One row for each connector whose breaker an operator holds open or closed; without one it moves by itself.';
COMMENT ON COLUMN breaker_force.connector IS 'Which.';
COMMENT ON COLUMN breaker_force.forced IS 'open: nothing is claimed for it. closed: what its breaker says is ignored.';
COMMENT ON COLUMN breaker_force.actor IS 'Who forced it.';
COMMENT ON COLUMN breaker_force.reason IS 'Why.';
COMMENT ON COLUMN breaker_force.since IS 'Since when.';
