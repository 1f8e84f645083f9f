-- Dead letters: messages that the broker or a consumer gave up, and commands that vm-ops gave up.
-- A row without a tenant is nobody's: only the system role sees it.
CREATE TABLE dead_letters (
  id uuid PRIMARY KEY,
  tenant_id text,
  kind text NOT NULL CHECK (kind IN ('message', 'command')),
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'replayed', 'discarded')),
  -- The same for every copy of one death: a second copy makes no second row.
  death_key text NOT NULL UNIQUE,
  queue text NOT NULL,
  queue_kind text NOT NULL CHECK (queue_kind IN ('service', 'vm', 'agents', 'command')),
  reason text NOT NULL,
  exchange text NOT NULL,
  routing_key text NOT NULL,
  type text NOT NULL,
  message_id text NOT NULL,
  content_type text,
  command_id uuid,
  vm_uuid uuid,
  -- Of a doorbell: what it rang for.
  command_attempt integer,
  command_kind text CHECK (command_kind IN ('run', 'cancel')),
  correlation_id text,
  last_error text,
  deaths integer NOT NULL DEFAULT 0,
  headers jsonb NOT NULL DEFAULT '{}',
  history jsonb NOT NULL DEFAULT '[]',
  body bytea NOT NULL,
  -- Of the whole body; more than octet_length(body) when it was cut.
  body_bytes bigint NOT NULL CHECK (body_bytes >= octet_length(body)),
  died_at timestamptz NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  replays integer NOT NULL DEFAULT 0,
  -- A replay through vm-ops is under way until then; afterwards anyone may try again.
  replaying_until timestamptz,
  replaying_by text,
  settled_at timestamptz,
  settled_by text,
  settle_reason text,
  CHECK ((state = 'open') = (settled_at IS NULL)),
  CHECK ((settled_at IS NULL) = (settled_by IS NULL)),
  CHECK (kind = 'message' OR command_id IS NOT NULL)
);
CREATE INDEX dead_letters_tenant ON dead_letters (tenant_id, id);
CREATE INDEX dead_letters_open ON dead_letters (queue_kind) WHERE state = 'open';
CREATE INDEX dead_letters_open_tenant ON dead_letters (tenant_id, id) WHERE state = 'open';
CREATE INDEX dead_letters_command ON dead_letters (command_id) WHERE command_id IS NOT NULL;
CALL isolate_tenants('dead_letters');

-- Who did what to a dead letter. Only ever added to.
CREATE TABLE dead_letter_audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  dead_letter_id uuid NOT NULL REFERENCES dead_letters (id),
  tenant_id text,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor text NOT NULL,
  action text NOT NULL CHECK (action IN ('recorded', 'replay_requested', 'replay_refused', 'replayed', 'discarded')),
  note text
);
CREATE INDEX dead_letter_audit_of ON dead_letter_audit (dead_letter_id, id);
CALL isolate_tenants('dead_letter_audit');

-- Sweeps that someone asked for: the request, then the answer. Only ever added to.
CREATE TABLE sweep_audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id uuid NOT NULL,
  tenant_id text NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor text NOT NULL,
  action text NOT NULL CHECK (action IN ('requested', 'answered', 'failed')),
  details jsonb NOT NULL
);
CREATE UNIQUE INDEX sweep_audit_run ON sweep_audit (run_id, action);
CALL isolate_tenants('sweep_audit');

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is only ever added to', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON dead_letter_audit
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON sweep_audit
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What each agent last said of itself.
CREATE TABLE presence (
  -- UUIDv7 of the first heartbeat: the order of listings.
  id uuid NOT NULL UNIQUE,
  tenant_id text NOT NULL,
  agent_id uuid NOT NULL,
  state text NOT NULL CHECK (state IN ('online', 'suspect', 'lost', 'stopped')),
  generation bigint NOT NULL CHECK (generation >= 1),
  session_id uuid NOT NULL,
  version text NOT NULL,
  drivers jsonb NOT NULL,
  vm_uuids jsonb NOT NULL,
  running integer NOT NULL,
  load_1m double precision NOT NULL,
  clock_skew_ms bigint NOT NULL,
  journal_writable boolean NOT NULL,
  journal_double_starts bigint NOT NULL,
  journal_unacknowledged bigint NOT NULL,
  first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  lost_at timestamptz,
  PRIMARY KEY (tenant_id, agent_id),
  CHECK ((state IN ('lost', 'stopped')) = (lost_at IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX presence_live ON presence (last_seen_at) WHERE state IN ('online', 'suspect');
CALL isolate_tenants('presence');

-- Since when someone listens to heartbeats without a gap: no agent is judged lost for our own absence.
CREATE TABLE presence_watch (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  attended_since timestamptz NOT NULL,
  attended_at timestamptz NOT NULL
);

-- Requests of tenants read everything of theirs and settle dead letters; the rest is the system's work.
DO $$
DECLARE
  login_role text := current_setting('muster.login_role');
BEGIN
  EXECUTE format('REVOKE ALL ON dead_letters, dead_letter_audit, sweep_audit, presence, presence_watch FROM %I', login_role);
  EXECUTE format('GRANT SELECT, UPDATE ON dead_letters TO %I', login_role);
  EXECUTE format('GRANT SELECT, INSERT ON dead_letter_audit, sweep_audit TO %I', login_role);
  EXECUTE format('GRANT SELECT ON presence TO %I', login_role);
END
$$;
