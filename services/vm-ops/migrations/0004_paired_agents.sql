-- Agents as auth tells of them: what is not here is not paired, and nothing that it says counts.
CREATE TABLE paired_agents (
  tenant_id text NOT NULL,
  agent_id uuid NOT NULL,
  -- Of the last event that was taken: an older one says nothing new.
  revision integer NOT NULL CHECK (revision >= 1),
  state text NOT NULL CHECK (state IN ('paired', 'revoked')),
  -- Reports of an earlier pairing are refused.
  epoch integer NOT NULL CHECK (epoch >= 1),
  vm_uuids uuid[] NOT NULL CHECK (cardinality(vm_uuids) <= 500),
  changed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, agent_id)
);
CALL isolate_tenants('paired_agents');

-- An operator has paired the agent anew: its next hello is taken whatever its journal says.
ALTER TABLE agent_sessions ADD COLUMN released boolean NOT NULL DEFAULT false;
