-- A key is its prefix, which may be shown, and a hash. The key itself is known to its holder alone.
CREATE TABLE api_keys (
  id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  principal_id uuid NOT NULL,
  prefix text NOT NULL UNIQUE CHECK (prefix ~ '^[a-z0-9]{10}$'),
  -- SHA-256 over the SHA-256 of the key: what the gateway sends is not enough to recognise the row, nor the row to log in.
  hash bytea NOT NULL CHECK (octet_length(hash) = 32),
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
  -- Scopes: the key carries no role above this, and only these permissions; NULL is all that its principal has.
  role_max text CHECK (role_max IN ('member', 'admin', 'owner')),
  permissions text[] CHECK (cardinality(permissions) <= 64),
  expires_at timestamptz,
  revoked_at timestamptz,
  -- Written at most once a minute.
  last_used_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  FOREIGN KEY (tenant_id, principal_id) REFERENCES principals (tenant_id, id)
);
CREATE INDEX api_keys_principal ON api_keys (tenant_id, principal_id);
CALL isolate_tenants('api_keys');
