-- Who serves which VM, and the life of every command.

-- One row of settings that replicas share: the key that claim tokens are derived from, and the watch over outages.
CREATE TABLE claim_key (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  secret bytea NOT NULL CHECK (octet_length(secret) = 32)
);

-- Touched every few seconds while the database and the broker both answer. A gap is an outage: until
-- amnesty_until no lease is judged lost, and nothing counts as unclaimed from before resumed_at.
CREATE TABLE liveness (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  touched_at timestamptz NOT NULL,
  resumed_at timestamptz NOT NULL,
  amnesty_until timestamptz NOT NULL,
  outages integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE vms (
  tenant_id text NOT NULL,
  vm_uuid uuid NOT NULL,
  name text NOT NULL,
  labels jsonb NOT NULL DEFAULT '{}',
  state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'retired')),
  -- +1 at retirement: what was rung for an epoch before is refused at the claim.
  epoch integer NOT NULL DEFAULT 1 CHECK (epoch >= 1),
  concurrency integer NOT NULL DEFAULT 1 CHECK (concurrency BETWEEN 1 AND 64),
  agent_id uuid,
  idempotency_key text,
  -- The whole of the first request as JSON text, to say what a second one under the same key has different.
  requested text NOT NULL,
  registered_at timestamptz NOT NULL DEFAULT now(),
  retired_at timestamptz,
  queue_ready_at timestamptz,
  queue_removed_at timestamptz,
  PRIMARY KEY (tenant_id, vm_uuid),
  CHECK ((state = 'retired') = (retired_at IS NOT NULL))
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX vms_idempotency ON vms (tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX vms_listing ON vms (tenant_id, registered_at DESC, vm_uuid DESC);
CREATE INDEX vms_labels ON vms USING gin (labels jsonb_path_ops);
CREATE INDEX vms_of_agent ON vms (tenant_id, agent_id) WHERE agent_id IS NOT NULL;
CREATE INDEX vms_without_queue ON vms (registered_at) WHERE state = 'active' AND queue_ready_at IS NULL;
CREATE INDEX vms_with_old_queue ON vms (retired_at) WHERE state = 'retired' AND queue_removed_at IS NULL;
CREATE INDEX vms_retired ON vms (retired_at) WHERE state = 'retired';
CALL isolate_tenants('vms');

CREATE TABLE agent_sessions (
  tenant_id text NOT NULL,
  agent_id uuid NOT NULL,
  generation integer NOT NULL CHECK (generation >= 1),
  -- The newest generation that an agent has shown to know: a session behind it is a clone or an old snapshot.
  used_generation integer NOT NULL DEFAULT 0,
  session_id uuid NOT NULL,
  boot_id text NOT NULL,
  journal_id uuid NOT NULL,
  journal_seq bigint NOT NULL,
  version text NOT NULL,
  -- [{name, actions}], as the agent said.
  drivers text NOT NULL,
  actions text[] NOT NULL,
  online boolean NOT NULL DEFAULT true,
  -- An agent has the whole time to claim from here, however long its doorbells have waited.
  online_since timestamptz NOT NULL DEFAULT now(),
  quarantined_at timestamptz,
  quarantine_reason text,
  started_at timestamptz NOT NULL DEFAULT now(),
  last_seen_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, agent_id),
  CHECK ((quarantined_at IS NULL) = (quarantine_reason IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX agent_sessions_online ON agent_sessions (tenant_id, agent_id) WHERE online AND quarantined_at IS NULL;
CALL isolate_tenants('agent_sessions');

-- VMs are never deleted, so commands need no foreign key to them; it would lock a row more per command.
CREATE TABLE commands (
  tenant_id text NOT NULL,
  id uuid NOT NULL,
  vm_uuid uuid NOT NULL,
  -- The order of acceptance; per VM it is the order of commit, for the VM's row is locked meanwhile.
  seq bigint GENERATED ALWAYS AS IDENTITY,
  action text NOT NULL,
  lane text NOT NULL CHECK (lane IN ('work', 'control')),
  retry_safety text NOT NULL CHECK (retry_safety IN ('safe', 'verify', 'never')),
  -- Canonical JSON as text: payload_sha256 is over these bytes, and JSON text may hold what jsonb refuses (\u0000).
  params text NOT NULL,
  payload_sha256 text NOT NULL CHECK (payload_sha256 ~ '^[0-9a-f]{64}$'),
  payload_bytes integer NOT NULL,
  state text NOT NULL CHECK (state IN ('awaiting_approval', 'queued', 'dispatched', 'running', 'denied',
    'succeeded', 'failed', 'expired', 'cancelled', 'dead_lettered')),
  -- What the indexes go by: it stays while a queued command is confirmed, so that this update touches no index.
  phase text NOT NULL GENERATED ALWAYS AS (CASE
    WHEN state IN ('awaiting_approval', 'queued', 'dispatched') THEN 'waiting'
    WHEN state = 'running' THEN 'running' ELSE 'ended' END) STORED,
  desired text NOT NULL DEFAULT 'run' CHECK (desired IN ('run', 'cancel')),
  reason text NOT NULL,
  effect text NOT NULL DEFAULT 'none' CHECK (effect IN ('none', 'partial', 'unknown', 'applied')),
  effect_carried text NOT NULL DEFAULT 'none' CHECK (effect_carried IN ('none', 'partial', 'unknown', 'applied')),
  attempt integer NOT NULL DEFAULT 1 CHECK (attempt >= 1),
  requeues integer NOT NULL DEFAULT 0 CHECK (requeues >= 0),
  abandons integer NOT NULL DEFAULT 0 CHECK (abandons >= 0),
  late boolean NOT NULL DEFAULT false,
  idempotency_key text,
  timeout_ms bigint NOT NULL CHECK (timeout_ms > 0),
  expires_in_ms bigint NOT NULL CHECK (expires_in_ms > 0),
  -- As asked for; null where the action's default was taken. For naming what differs under one idempotency key.
  timeout_asked_ms bigint,
  expires_in_asked_ms bigint,
  environment text,
  project_id text,
  requested_by text NOT NULL,
  correlation_id text NOT NULL,
  traceparent text,
  accepted_at timestamptz NOT NULL DEFAULT now(),
  -- Moves when the command is put back by an operator; the first answer to a request is made of accepted_at.
  expires_at timestamptz NOT NULL,
  dispatched_at timestamptz,
  started_at timestamptz,
  lease_renewed_at timestamptz,
  lease_expires_at timestamptz,
  run_until timestamptz,
  cancel_requested_at timestamptz,
  finished_at timestamptz,
  agent_id uuid,
  generation integer,
  claim_nonce uuid,
  exit_code integer,
  run_ms bigint,
  result text,
  PRIMARY KEY (tenant_id, id),
  CONSTRAINT commands_running_is_leased CHECK ((state = 'running') = (lease_expires_at IS NOT NULL)),
  CONSTRAINT commands_running_is_claimed CHECK (state <> 'running' OR (claim_nonce IS NOT NULL
    AND agent_id IS NOT NULL AND lease_renewed_at IS NOT NULL AND run_until IS NOT NULL AND started_at IS NOT NULL)),
  CONSTRAINT commands_ended_has_end CHECK ((state IN ('denied', 'succeeded', 'failed', 'expired', 'cancelled',
    'dead_lettered')) = (finished_at IS NOT NULL)),
  CONSTRAINT commands_waiting_is_unclaimed CHECK (state NOT IN ('awaiting_approval', 'queued', 'dispatched')
    OR (claim_nonce IS NULL AND desired = 'run' AND result IS NULL)),
  CONSTRAINT commands_dispatched_has_time CHECK (state <> 'dispatched' OR dispatched_at IS NOT NULL)
) WITH (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05,
        autovacuum_vacuum_cost_delay = 0);
CREATE UNIQUE INDEX commands_idempotency ON commands (tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX commands_of_vm ON commands (tenant_id, vm_uuid, id);
CREATE INDEX commands_waiting ON commands (tenant_id, vm_uuid, seq) WHERE phase = 'waiting';
CREATE INDEX commands_expiring ON commands (expires_at) WHERE phase = 'waiting';
CREATE INDEX commands_running ON commands (tenant_id, vm_uuid) WHERE phase = 'running';
CREATE INDEX commands_leases ON commands (lease_renewed_at) WHERE phase = 'running';
CREATE INDEX commands_overdue ON commands (run_until) WHERE phase = 'running';
CREATE INDEX commands_cancelling ON commands (cancel_requested_at) WHERE phase = 'running' AND desired = 'cancel';
CALL isolate_tenants('commands');

CREATE TABLE command_events (
  tenant_id text NOT NULL,
  command_id uuid NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  from_state text,
  to_state text NOT NULL,
  attempt integer NOT NULL,
  reason text NOT NULL,
  rule text NOT NULL,
  actor text NOT NULL,
  -- A JSON object as text.
  details text NOT NULL DEFAULT '{}',
  PRIMARY KEY (tenant_id, command_id, id)
);
CREATE INDEX command_events_at ON command_events USING brin (at) WITH (pages_per_range = 32);
CALL isolate_tenants('command_events');

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON command_events
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A result of a claim that a newer attempt has overtaken: kept, counted, and never a change of state.
CREATE TABLE orphan_results (
  tenant_id text NOT NULL,
  command_id uuid NOT NULL,
  attempt integer NOT NULL,
  agent_id uuid NOT NULL,
  outcome text NOT NULL,
  reason text NOT NULL,
  effect text NOT NULL,
  result text NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, command_id, attempt)
);
CALL isolate_tenants('orphan_results');

CREATE TABLE command_streams (
  tenant_id text NOT NULL,
  command_id uuid NOT NULL,
  attempt integer NOT NULL,
  stream text NOT NULL CHECK (stream IN ('stdout', 'stderr')),
  next_offset bigint NOT NULL DEFAULT 0 CHECK (next_offset >= 0),
  -- Chunks that start before this are the head and stay; what lies between head and tail is cut.
  cut_before bigint NOT NULL DEFAULT 0,
  complete boolean NOT NULL DEFAULT false,
  PRIMARY KEY (tenant_id, command_id, attempt, stream)
) WITH (fillfactor = 50);
CALL isolate_tenants('command_streams');

CREATE TABLE command_output (
  tenant_id text NOT NULL,
  command_id uuid NOT NULL,
  attempt integer NOT NULL,
  stream text NOT NULL CHECK (stream IN ('stdout', 'stderr')),
  start_offset bigint NOT NULL CHECK (start_offset >= 0),
  bytes bytea NOT NULL CHECK (octet_length(bytes) BETWEEN 1 AND 65536),
  PRIMARY KEY (tenant_id, command_id, attempt, stream, start_offset)
);
-- Output is compressed where it is kept for long, not on its way in.
ALTER TABLE command_output ALTER COLUMN bytes SET STORAGE EXTERNAL;
CALL isolate_tenants('command_output');

DO $$
DECLARE
  login_role text := current_setting('muster.login_role');
  system_role text := current_setting('muster.system_role');
BEGIN
  EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON command_events FROM %I, %I', login_role, system_role);
  EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON orphan_results FROM %I, %I', login_role, system_role);
  EXECUTE format('REVOKE ALL ON claim_key, liveness FROM %I', login_role);
END
$$;
