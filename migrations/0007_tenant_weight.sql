-- Fairness: what a tenant's share of the claims is, and a short way to the steps whose rate slot has come.

CREATE TABLE tenant_weight (
    tenant text        PRIMARY KEY,
    weight smallint    NOT NULL CHECK (weight BETWEEN 1 AND 100),
    set_at timestamptz NOT NULL,
    set_by text        NOT NULL CHECK (set_by <> '')
);
COMMENT ON TABLE tenant_weight IS 'How much of the claims a tenant gets beside others that have work too; a tenant without a row has weight 1.';
COMMENT ON COLUMN tenant_weight.tenant IS 'The tenant.';
COMMENT ON COLUMN tenant_weight.weight IS 'Claims for each claim of a tenant of weight 1.';
COMMENT ON COLUMN tenant_weight.set_at IS 'When it was set; each act is an event of the control stream as well.';
COMMENT ON COLUMN tenant_weight.set_by IS 'Who set it.';

-- A slot serves for a short time only: its step must not wait behind thousands that are due and hold none.
CREATE INDEX execution_step_slotted ON execution_step (tenant, rate_slot)
    WHERE state = 'ready' AND rate_slot IS NOT NULL;
