-- The ledger rolled up, so that an audit or a rebuild reads the last snapshot and what came after; and what the fleet
-- knows of Redis: which filling of it counts, and whether it was lost.

-- Every entry has a place on each account that it changed: the account's version, which rises under the account's lock
-- with every change. There is no order over all accounts, and none is needed: who sees an account at a version sees
-- every entry up to it, as both are written in one transaction.
ALTER TABLE budget_entry
    ADD COLUMN held bigint NOT NULL DEFAULT 0 CHECK (held BETWEEN 0 AND amount),
    ADD COLUMN account_versions bigint[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN budget_entry.held IS 'incurred: how much of it had been reserved; what is above is an overrun.';
COMMENT ON COLUMN budget_entry.account_versions IS 'The version that each of accounts came to by it; empty before migration 8.';

CREATE TABLE budget_change (
    account_id bigint      NOT NULL REFERENCES budget_account,
    version    bigint      NOT NULL CHECK (version >= 1),
    settled    bigint      NOT NULL,
    reserved   bigint      NOT NULL,
    overrun    bigint      NOT NULL CHECK (overrun >= 0),
    at         timestamptz NOT NULL,
    PRIMARY KEY (account_id, version)
);
COMMENT ON TABLE budget_change IS 'What one transaction changed of an account: the sum of its entries on it.';
COMMENT ON COLUMN budget_change.account_id IS 'Which.';
COMMENT ON COLUMN budget_change.version IS 'The version that the account came to by it.';
COMMENT ON COLUMN budget_change.settled IS 'How much more is settled; negative for a refund.';
COMMENT ON COLUMN budget_change.reserved IS 'How much more is reserved; negative where room was closed.';
COMMENT ON COLUMN budget_change.overrun IS 'How much of it was an overrun.';
COMMENT ON COLUMN budget_change.at IS 'When.';

ALTER TABLE budget_snapshot DROP CONSTRAINT budget_snapshot_pkey;
ALTER TABLE budget_snapshot DROP CONSTRAINT budget_snapshot_moment_check;
ALTER TABLE budget_snapshot
    ALTER COLUMN plan_id DROP NOT NULL,
    ALTER COLUMN plan_version DROP NOT NULL,
    ADD COLUMN account_id bigint REFERENCES budget_account,
    ADD COLUMN position bigint CHECK (position >= 0),
    ADD COLUMN overrun bigint,
    ADD CONSTRAINT budget_snapshot_moment_check CHECK (moment IN ('admitted', 'ended', 'opening', 'rolled_up')),
    ADD CONSTRAINT budget_snapshot_of_plan CHECK ((moment IN ('admitted', 'ended'))
        = (plan_id IS NOT NULL AND plan_version IS NOT NULL)),
    ADD CONSTRAINT budget_snapshot_of_account CHECK ((moment IN ('opening', 'rolled_up'))
        = (account_id IS NOT NULL AND position IS NOT NULL AND overrun IS NOT NULL));
CREATE UNIQUE INDEX budget_snapshot_plan ON budget_snapshot (plan_id, plan_version, moment) WHERE plan_id IS NOT NULL;
CREATE UNIQUE INDEX budget_snapshot_account ON budget_snapshot (account_id, position) WHERE account_id IS NOT NULL;
COMMENT ON TABLE budget_snapshot IS 'A plan''s account when it was admitted and when it ended; and every account rolled up, from time to time.';
COMMENT ON COLUMN budget_snapshot.plan_id IS 'admitted, ended: the plan.';
COMMENT ON COLUMN budget_snapshot.moment IS 'admitted or ended; rolled_up; opening: what was there before migration 8.';
COMMENT ON COLUMN budget_snapshot.account_id IS 'rolled_up, opening: the account.';
COMMENT ON COLUMN budget_snapshot.position IS 'The account''s version: every change up to it is in the figures.';
COMMENT ON COLUMN budget_snapshot.overrun IS 'Overrun up to then.';
INSERT INTO budget_snapshot (moment, account_id, position, limit_amount, settled, reserved, overrun, currency, taken_at)
SELECT 'opening', account_id, version, limit_amount, settled, reserved, overrun, currency, now()
FROM budget_account WHERE version > 0;

-- Tenants' accounts whose period turned. Nothing in it changes: updates of accounts stay HOT.
CREATE INDEX budget_account_period ON budget_account (period_start) WHERE period IS NOT NULL;

CREATE TABLE runtime_state (
    is_only          boolean     PRIMARY KEY DEFAULT true CHECK (is_only),
    era              bigint      NOT NULL DEFAULT 0 CHECK (era >= 0),
    lost_at          timestamptz,
    rebuilding_until timestamptz NOT NULL DEFAULT 'epoch'
);
INSERT INTO runtime_state DEFAULT VALUES;
COMMENT ON TABLE runtime_state IS 'One row: which filling of Redis counts. A claim that counts on token windows locks it.';
COMMENT ON COLUMN runtime_state.is_only IS 'True: there is one row.';
COMMENT ON COLUMN runtime_state.era IS 'The number of the filling; it rises before the ledger is read for a new one.';
COMMENT ON COLUMN runtime_state.lost_at IS 'When a loss was noticed that is not made good yet; else null.';
COMMENT ON COLUMN runtime_state.rebuilding_until IS 'A worker rebuilds until then; past it, another may.';

CREATE TABLE reconciler_turn (
    is_only boolean     PRIMARY KEY DEFAULT true CHECK (is_only),
    next_at timestamptz NOT NULL DEFAULT 'epoch'
);
INSERT INTO reconciler_turn DEFAULT VALUES;
COMMENT ON TABLE reconciler_turn IS 'One row: whose turn it is to reconcile. Whoever moves it on has the turn.';
COMMENT ON COLUMN reconciler_turn.is_only IS 'True: there is one row.';
COMMENT ON COLUMN reconciler_turn.next_at IS 'When the next turn is due.';
