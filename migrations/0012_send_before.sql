-- Until when an attempt may send: a probe that believes "not done" must know the latest moment at which the request could
-- still be accepted, and how long the lease was that it was sent under is no row's to say any more once it was renewed.

ALTER TABLE step_attempt ADD COLUMN send_before timestamptz;
COMMENT ON COLUMN step_attempt.send_before IS 'The request left before this or never: the end of the lease as it was claimed. Null for attempts of earlier versions and by hand.';

COMMENT ON COLUMN control_request.act IS 'The act; set_two_person for a change of two_person_act.';
