-- Control: what operators stopped. Read in every claim transaction; each act is an event as well.

CREATE TABLE control_state (
    scope   text        NOT NULL CHECK (scope IN ('fleet', 'tenant', 'plan', 'connector')),
    subject text        NOT NULL,
    actor   text        NOT NULL CHECK (actor <> ''),
    reason  text        NOT NULL CHECK (reason <> ''),
    since   timestamptz NOT NULL,
    PRIMARY KEY (scope, subject),
    CHECK ((scope = 'fleet') = (subject = ''))
);
COMMENT ON TABLE control_state IS 'One row for each stop in force: a pause of the fleet, a tenant or a plan, or a disabled connector.';
COMMENT ON COLUMN control_state.scope IS 'What is stopped.';
COMMENT ON COLUMN control_state.subject IS 'Which one: tenant, plan id, connector; empty for the fleet.';
COMMENT ON COLUMN control_state.actor IS 'Who stopped it.';
COMMENT ON COLUMN control_state.reason IS 'Why.';
COMMENT ON COLUMN control_state.since IS 'Since when.';
