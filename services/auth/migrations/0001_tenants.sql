-- Who exists. Everything belongs to exactly one tenant.
CREATE TABLE tenants (
  tenant_id text PRIMARY KEY CHECK (tenant_id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
  state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'suspended')),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CALL isolate_tenants('tenants');

CREATE TABLE principals (
  id uuid PRIMARY KEY,
  tenant_id text NOT NULL REFERENCES tenants (tenant_id),
  kind text NOT NULL CHECK (kind IN ('user', 'service-account')),
  -- Lower case; users have one, service accounts have a name only.
  email text CHECK (email = lower(email) AND length(email) BETWEEN 3 AND 254),
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 254),
  roles text[] NOT NULL CHECK (roles <@ ARRAY['member', 'admin', 'owner'] AND cardinality(roles) BETWEEN 1 AND 3),
  permissions text[] NOT NULL DEFAULT '{}' CHECK (cardinality(permissions) <= 64),
  disabled_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- What references a principal does so with its tenant: no row can belong to two.
  UNIQUE (tenant_id, id),
  CHECK ((kind = 'user') = (email IS NOT NULL))
);
CREATE UNIQUE INDEX principals_email ON principals (tenant_id, email) WHERE email IS NOT NULL;
CALL isolate_tenants('principals');
