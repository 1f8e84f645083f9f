-- What references a key does so with its tenant; the index behind it also serves the listing, newest first.
ALTER TABLE api_keys ADD CONSTRAINT api_keys_tenant UNIQUE (tenant_id, id);
DROP INDEX api_keys_listing;

-- What one exchange began: each use of its token ends that token and gives the next one.
CREATE TABLE refresh_families (
  id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  principal_id uuid NOT NULL,
  -- What was exchanged: once that is revoked or has expired, the family gives nothing more.
  api_key_id uuid NOT NULL,
  -- Names of a role and permissions that its tokens carry at most; NULL is all that the key carries.
  scope text[] CHECK (cardinality(scope) <= 65),
  -- How often it was used: the token of this generation is the one that works.
  uses integer NOT NULL DEFAULT 0 CHECK (uses BETWEEN 0 AND 10000),
  -- Of the last use: when, by which request (SHA-256), and what the next token was made with. The same request again gets
  -- the same answer.
  used_at timestamptz,
  used_by bytea CHECK (octet_length(used_by) = 32),
  salt bytea CHECK (octet_length(salt) = 32),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- However much it is used.
  expires_at timestamptz NOT NULL,
  -- Unless it is used before; at once where it is revoked.
  ends_at timestamptz NOT NULL CHECK (ends_at <= expires_at),
  revoked_at timestamptz,
  UNIQUE (tenant_id, id),
  FOREIGN KEY (tenant_id, principal_id) REFERENCES principals (tenant_id, id),
  FOREIGN KEY (tenant_id, api_key_id) REFERENCES api_keys (tenant_id, id),
  CHECK ((uses = 0) = (used_at IS NULL) AND (uses = 0) = (used_by IS NULL) AND (uses = 0) = (salt IS NULL))
);
CREATE INDEX refresh_families_principal ON refresh_families (tenant_id, principal_id, ends_at);
CREATE INDEX refresh_families_ended ON refresh_families (ends_at);
CALL isolate_tenants('refresh_families');

-- Every token of a family that still lives, so that a used one is known when it comes again.
CREATE TABLE refresh_tokens (
  -- SHA-256 over the SHA-256 of the token, as for keys.
  hash bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
  tenant_id text NOT NULL,
  family_id uuid NOT NULL,
  generation integer NOT NULL CHECK (generation BETWEEN 0 AND 10000),
  UNIQUE (tenant_id, family_id, generation),
  FOREIGN KEY (tenant_id, family_id) REFERENCES refresh_families (tenant_id, id)
);
CALL isolate_tenants('refresh_tokens');
