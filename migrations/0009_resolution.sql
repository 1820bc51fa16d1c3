-- What operators settle, answers that came too late, and acts that take two.

ALTER TABLE step_attempt ADD COLUMN late_at timestamptz;
COMMENT ON COLUMN step_attempt.late_at IS 'When an answer came that was too late to count and not what is on record; its event is written once.';

ALTER TABLE execution_step
    ADD COLUMN forgiven integer NOT NULL DEFAULT 0 CHECK (forgiven >= 0),
    ADD COLUMN forgiven_lost integer NOT NULL DEFAULT 0 CHECK (forgiven_lost >= 0),
    ADD CONSTRAINT execution_step_forgiven CHECK (forgiven + forgiven_lost <= attempts);
COMMENT ON COLUMN execution_step.forgiven IS 'Attempts that count no more, because an operator let the undo be tried anew; lost ones are apart.';
COMMENT ON COLUMN execution_step.forgiven_lost IS 'Lost attempts that count no more.';

CREATE TABLE two_person_act (
    act          text        PRIMARY KEY CHECK (act IN (
        'pause', 'resume', 'abort', 'disable_connector', 'enable_connector', 'resolve')),
    valid_for_ms bigint      NOT NULL CHECK (valid_for_ms BETWEEN 1000 AND 2592000000),
    set_by       text        NOT NULL CHECK (set_by <> ''),
    set_at       timestamptz NOT NULL
);
COMMENT ON TABLE two_person_act IS 'Acts that a second operator must confirm; no row, one is enough. While there is any, changing them takes two as well.';
COMMENT ON COLUMN two_person_act.act IS 'The word of its event, after control.';
COMMENT ON COLUMN two_person_act.valid_for_ms IS 'How long a request waits for the second operator.';
COMMENT ON COLUMN two_person_act.set_by IS 'Who said so.';
COMMENT ON COLUMN two_person_act.set_at IS 'When.';

CREATE TABLE control_request (
    request_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    act          text        NOT NULL,
    scope        text        NOT NULL,
    subject      text        NOT NULL,
    payload      jsonb,
    actor        text        NOT NULL CHECK (actor <> ''),
    reason       text        NOT NULL CHECK (reason <> ''),
    requested_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL CHECK (expires_at > requested_at),
    confirmed_by text        CHECK (confirmed_by <> ''),
    confirmed_at timestamptz,
    CHECK ((confirmed_by IS NULL) = (confirmed_at IS NULL)),
    CHECK (confirmed_at IS NULL OR confirmed_at < expires_at),
    -- Two persons are two names, however they are written.
    CHECK (confirmed_by IS NULL OR lower(btrim(confirmed_by)) <> lower(btrim(actor)))
);
CREATE INDEX control_request_open ON control_request (request_id) WHERE confirmed_at IS NULL;
COMMENT ON TABLE control_request IS 'Acts that were asked for by one operator, and came into force only if a second confirmed them.';
COMMENT ON COLUMN control_request.request_id IS 'What the second operator names.';
COMMENT ON COLUMN control_request.act IS 'The act; two_person for a change of two_person_act.';
COMMENT ON COLUMN control_request.scope IS 'What it is about: fleet, tenant, plan, connector.';
COMMENT ON COLUMN control_request.subject IS 'Which one; empty for the fleet.';
COMMENT ON COLUMN control_request.payload IS 'What else the act needs to know.';
COMMENT ON COLUMN control_request.actor IS 'Who asked.';
COMMENT ON COLUMN control_request.reason IS 'Why.';
COMMENT ON COLUMN control_request.requested_at IS 'When.';
COMMENT ON COLUMN control_request.expires_at IS 'It can be confirmed before this.';
COMMENT ON COLUMN control_request.confirmed_by IS 'The second operator.';
COMMENT ON COLUMN control_request.confirmed_at IS 'Since when it is in force.';
