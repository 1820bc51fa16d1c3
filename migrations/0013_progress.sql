-- How far a long action is, by its connector's word. It is no state, and no event: see dat-store's `progress`.

ALTER TABLE step_attempt
    ADD COLUMN progress_done bigint CHECK (progress_done >= 0),
    ADD COLUMN progress_total bigint CHECK (progress_total >= 0),
    ADD COLUMN progress_message text,
    ADD COLUMN progress_at timestamptz,
    ADD CONSTRAINT step_attempt_progress CHECK (
        progress_at IS NOT NULL OR num_nonnulls(progress_done, progress_total, progress_message) = 0);
COMMENT ON COLUMN step_attempt.progress_done IS 'So much of it is done, as its connector counts; null where it does not count.';
COMMENT ON COLUMN step_attempt.progress_total IS 'Of so much.';
COMMENT ON COLUMN step_attempt.progress_message IS 'What it is at, for people.';
COMMENT ON COLUMN step_attempt.progress_at IS 'When the last report was stored; null where none was.';
