-- What secrets are called, whom they are bound to and who was given them. What they are is in the vault alone.
CREATE TABLE secrets (
  id uuid PRIMARY KEY,
  tenant_id text NOT NULL CHECK (tenant_id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
  name text NOT NULL CHECK (name ~ '^[A-Za-z][A-Za-z0-9_.-]{0,127}$'),
  description text NOT NULL CHECK (length(description) <= 500),
  -- making: its first version is on its way to the vault. abandoned: it never got there; seen by nobody, and soon gone.
  state text NOT NULL CHECK (state IN ('making', 'enabled', 'disabled', 'deleted', 'abandoned')),
  current_version integer CHECK (current_version BETWEEN 1 AND 1000000),
  -- The last number that was given to a version; none is given twice.
  last_version integer NOT NULL CHECK (last_version BETWEEN 1 AND 1000000),
  vault text NOT NULL CHECK (vault IN ('sealed', 'hashicorp', 'supabase')),
  created_by text NOT NULL CHECK (length(created_by) BETWEEN 1 AND 200),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  rotated_at timestamptz,
  -- What references a secret does so with its tenant: no row can belong to two.
  UNIQUE (tenant_id, id),
  CHECK ((state IN ('enabled', 'disabled')) = (current_version IS NOT NULL)),
  CHECK (current_version <= last_version)
);
CREATE UNIQUE INDEX secrets_name ON secrets (tenant_id, name) WHERE state NOT IN ('deleted', 'abandoned');
CREATE INDEX secrets_listing ON secrets (tenant_id, id DESC) WHERE state IN ('enabled', 'disabled');
CALL isolate_tenants('secrets');

CREATE TABLE versions (
  tenant_id text NOT NULL,
  secret_id uuid NOT NULL,
  version integer NOT NULL CHECK (version BETWEEN 1 AND 1000000),
  -- writing: on its way to the vault. kept: there. destroying: to be destroyed there, by whoever comes by. destroyed: it is.
  state text NOT NULL CHECK (state IN ('writing', 'kept', 'destroying', 'destroyed')),
  -- Whether anybody ever could have it: what never became a version leaves no trace when it is destroyed.
  was_kept boolean NOT NULL DEFAULT false,
  -- Names of its fields, in order; never values.
  fields text[] NOT NULL CHECK (cardinality(fields) BETWEEN 1 AND 16),
  created_by text NOT NULL CHECK (length(created_by) BETWEEN 1 AND 200),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  destroyed_at timestamptz,
  PRIMARY KEY (secret_id, version),
  FOREIGN KEY (tenant_id, secret_id) REFERENCES secrets (tenant_id, id),
  CHECK ((state = 'destroyed') = (destroyed_at IS NOT NULL)),
  CHECK (state <> 'kept' OR was_kept)
);
CREATE INDEX versions_unfinished ON versions (changed_at) WHERE state IN ('writing', 'destroying');
CALL isolate_tenants('versions');

CREATE TABLE bindings (
  id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  secret_id uuid NOT NULL,
  -- {"vm_uuid"}, {"labels"} or {"project_id"}
  target jsonb NOT NULL CHECK (target ?| ARRAY['vm_uuid', 'labels', 'project_id']),
  -- {"env"}, {"file"} or {"stdin"}
  appearance jsonb NOT NULL CHECK (appearance ?| ARRAY['env', 'file', 'stdin']),
  -- NULL: for references to any field.
  field text CHECK (length(field) BETWEEN 1 AND 64),
  -- SHA-256 of target, appearance and field: the same twice is once.
  sameness bytea NOT NULL CHECK (octet_length(sameness) = 32),
  created_by text NOT NULL CHECK (length(created_by) BETWEEN 1 AND 200),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (secret_id, sameness),
  FOREIGN KEY (tenant_id, secret_id) REFERENCES secrets (tenant_id, id)
);
CREATE INDEX bindings_listing ON bindings (tenant_id, id DESC);
CALL isolate_tenants('bindings');

-- Which attempt was given its secrets, and to whom: to nobody else, and never again.
CREATE TABLE handovers (
  tenant_id text NOT NULL,
  command_id uuid NOT NULL,
  attempt integer NOT NULL CHECK (attempt >= 1),
  agent_id uuid NOT NULL,
  nonce uuid NOT NULL,
  -- The public key that the material was sealed to.
  recipient text NOT NULL CHECK (recipient ~ '^[A-Za-z0-9_-]{43}$'),
  -- [{"reference", "secret_id", "version", "field", "as", "binding_id"}]: what the same question gets again.
  given jsonb NOT NULL CHECK (jsonb_typeof(given) = 'array'),
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (command_id, attempt)
);
CALL isolate_tenants('handovers');

CREATE TABLE leases (
  id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  secret_id uuid NOT NULL,
  version integer NOT NULL,
  command_id uuid NOT NULL,
  attempt integer NOT NULL CHECK (attempt >= 1),
  vm_uuid uuid NOT NULL,
  agent_id uuid NOT NULL,
  state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'ended', 'expired', 'revoked')),
  granted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  ended_at timestamptz,
  UNIQUE (command_id, attempt, secret_id, version),
  FOREIGN KEY (tenant_id, secret_id) REFERENCES secrets (tenant_id, id),
  FOREIGN KEY (command_id, attempt) REFERENCES handovers (command_id, attempt),
  FOREIGN KEY (secret_id, version) REFERENCES versions (secret_id, version),
  CHECK ((state = 'active') = (ended_at IS NULL))
);
CREATE INDEX leases_listing ON leases (tenant_id, id DESC);
CREATE INDEX leases_secret ON leases (secret_id, id DESC);
CREATE INDEX leases_active ON leases (expires_at) WHERE state = 'active';
CALL isolate_tenants('leases');

-- What was made under which Idempotency-Key, and what was answered: the same request again gets the same answer.
CREATE TABLE creations (
  tenant_id text NOT NULL,
  -- Who asked: the same key of another principal is another key.
  principal text NOT NULL CHECK (length(principal) BETWEEN 1 AND 200),
  kind text NOT NULL CHECK (kind IN ('secret', 'version', 'rotation', 'binding')),
  idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
  requested jsonb NOT NULL,
  -- HMAC-SHA256 of the material by a key that is in no table: a hash of it alone could be guessed. And by which key.
  fingerprint bytea CHECK (octet_length(fingerprint) = 32),
  fingerprint_key text,
  secret_id uuid NOT NULL,
  version integer,
  -- NULL while its material is on its way to the vault.
  answer jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, principal, kind, idempotency_key),
  FOREIGN KEY (tenant_id, secret_id) REFERENCES secrets (tenant_id, id),
  CHECK ((fingerprint IS NULL) = (fingerprint_key IS NULL)),
  CHECK (answer IS NOT NULL OR version IS NOT NULL)
);
CREATE INDEX creations_unanswered ON creations (secret_id, version) WHERE answer IS NULL;
CALL isolate_tenants('creations');

-- What was done with secrets, by whom. Added to, and never touched again.
CREATE TABLE audit_events (
  id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor text NOT NULL CHECK (length(actor) BETWEEN 1 AND 200),
  action text NOT NULL CHECK (action ~ '^[a-z]+(-[a-z]+)*\.[a-z]+(-[a-z]+)*$'),
  subject text NOT NULL CHECK (length(subject) BETWEEN 1 AND 200),
  details jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_events_tenant ON audit_events (tenant_id, at);
CALL isolate_tenants('audit_events');

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
DO $$
BEGIN
  EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON audit_events FROM %I, %I',
    current_setting('muster.login_role'), current_setting('muster.system_role'));
END
$$;
