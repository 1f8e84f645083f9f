-- The sealed vault: what is in it is of no use without the key-encryption key, which is in no database.
CREATE TABLE sealed_versions (
  tenant_id text NOT NULL CHECK (tenant_id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
  secret_id uuid NOT NULL,
  version integer NOT NULL CHECK (version BETWEEN 1 AND 1000000),
  -- Names the key-encryption key that the data key is wrapped by.
  kek_id text CHECK (kek_id ~ '^[0-9a-f]{16}$'),
  -- AES-256-GCM: nonce (12 bytes), the data key (32), tag (16).
  wrapped_key bytea CHECK (octet_length(wrapped_key) = 60),
  -- The same by the data key: nonce, the fields as JSON, tag.
  sealed bytea CHECK (octet_length(sealed) > 28),
  written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- What was destroyed stays so: a write that comes late brings nothing back.
  destroyed_at timestamptz,
  PRIMARY KEY (tenant_id, secret_id, version),
  CHECK (num_nulls(kek_id, wrapped_key, sealed) = CASE WHEN destroyed_at IS NULL THEN 0 ELSE 3 END)
);
CREATE INDEX sealed_versions_kek ON sealed_versions (kek_id) WHERE kek_id IS NOT NULL;
CALL isolate_tenants('sealed_versions');
