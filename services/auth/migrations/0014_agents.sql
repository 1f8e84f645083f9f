-- Agents: paired by a code, known by the key that never leaves their host.
CREATE TABLE agents (
  id uuid PRIMARY KEY,
  tenant_id text NOT NULL REFERENCES tenants (tenant_id),
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
  -- Ed25519, in base64url; and its thumbprint (RFC 7638).
  public_key text NOT NULL CHECK (public_key ~ '^[A-Za-z0-9_-]{43}$'),
  key_thumbprint text NOT NULL CHECK (key_thumbprint ~ '^[A-Za-z0-9_-]{43}$'),
  -- +1 with each pairing: what an earlier key got is of no use from then on.
  epoch integer NOT NULL DEFAULT 1 CHECK (epoch BETWEEN 1 AND 1000000),
  -- +1 with each change: events that overtake each other are known by it.
  revision integer NOT NULL DEFAULT 1 CHECK (revision >= 1),
  vm_uuids uuid[] NOT NULL CHECK (cardinality(vm_uuids) BETWEEN 1 AND 500),
  paired_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  revoked_at timestamptz,
  last_token_at timestamptz,
  -- When the last token of this epoch has expired; NULL before the first.
  token_until timestamptz,
  UNIQUE (tenant_id, id)
);
CALL isolate_tenants('agents');

CREATE TABLE pairing_codes (
  id uuid PRIMARY KEY,
  tenant_id text NOT NULL REFERENCES tenants (tenant_id),
  -- SHA-256 over the SHA-256 of the code, as for keys.
  hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
  agent_id uuid NOT NULL,
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
  vm_uuids uuid[] NOT NULL CHECK (cardinality(vm_uuids) BETWEEN 1 AND 500),
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  used_at timestamptz,
  -- By which key it was used, and what epoch came of it: the same request again gets the same answer.
  used_by text CHECK (used_by ~ '^[A-Za-z0-9_-]{43}$'),
  used_epoch integer,
  CHECK (num_nulls(used_at, used_by, used_epoch) IN (0, 3))
);
CREATE INDEX pairing_codes_expiring ON pairing_codes (expires_at);
CREATE INDEX pairing_codes_tenant ON pairing_codes (tenant_id, expires_at);
CALL isolate_tenants('pairing_codes');

-- Assertions that were used; each is of use once.
CREATE TABLE agent_assertions (
  tenant_id text NOT NULL,
  agent_id uuid NOT NULL,
  -- SHA-256 of its jti.
  jti bytea NOT NULL CHECK (octet_length(jti) = 32),
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (agent_id, jti),
  FOREIGN KEY (tenant_id, agent_id) REFERENCES agents (tenant_id, id)
);
CREATE INDEX agent_assertions_expiring ON agent_assertions (expires_at);
CALL isolate_tenants('agent_assertions');

-- Logins that the broker has to refuse, and whose connections it has to close: tokens of theirs may live until then.
CREATE TABLE broker_evictions (
  login text PRIMARY KEY CHECK (login ~ '^agent-[0-9a-f-]{36}-[0-9]+$'),
  tenant_id text NOT NULL REFERENCES tenants (tenant_id),
  asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  closed_at timestamptz,
  until timestamptz NOT NULL
);
CREATE INDEX broker_evictions_open ON broker_evictions (asked_at) WHERE closed_at IS NULL;
CREATE INDEX broker_evictions_over ON broker_evictions (until) WHERE closed_at IS NOT NULL;
CALL isolate_tenants('broker_evictions');

ALTER TABLE creations
  DROP CONSTRAINT creations_kind,
  ADD CONSTRAINT creations_kind CHECK
    (kind IN ('api-key', 'user', 'service-account', 'tenant', 'issuer', 'pairing-code'));
