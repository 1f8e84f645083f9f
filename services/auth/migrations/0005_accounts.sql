-- What was made under which Idempotency-Key, and what was answered: the same request again gets the same answer.
-- A secret is never part of it.
CREATE TABLE creations (
  tenant_id text NOT NULL,
  -- Who asked: the same key of another principal is another key.
  principal_id uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('api-key', 'user', 'service-account', 'tenant')),
  idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
  requested jsonb NOT NULL,
  answer jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, principal_id, kind, idempotency_key),
  FOREIGN KEY (tenant_id, principal_id) REFERENCES principals (tenant_id, id)
);
CALL isolate_tenants('creations');

-- Ids are UUIDv7: newest first is by id.
CREATE INDEX principals_listing ON principals (tenant_id, kind, id DESC);
CREATE INDEX api_keys_listing ON api_keys (tenant_id, id DESC);
