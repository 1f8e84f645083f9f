-- What a VM runs when the secret has another version: {"action", "params", "timeout_seconds"}
ALTER TABLE bindings ADD COLUMN follow_up jsonb CHECK (follow_up ?& ARRAY['action', 'params']);
ALTER TABLE bindings ADD CHECK (follow_up IS NULL OR target ? 'vm_uuid');

-- Those that have follow-ups: from the version that was current to the one that took its place, and back where one fails.
CREATE TABLE rotations (
  id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  secret_id uuid NOT NULL,
  state text NOT NULL DEFAULT 'running'
    CHECK (state IN ('running', 'rolling_back', 'succeeded', 'failed', 'rolled_back')),
  reason text CHECK (reason IN ('follow_up_failed', 'rollback_failed', 'superseded')),
  from_version integer NOT NULL,
  to_version integer NOT NULL,
  rollback boolean NOT NULL,
  -- Who rotated: the follow-ups are his commands.
  requested_by text NOT NULL CHECK (length(requested_by) BETWEEN 1 AND 200),
  correlation_id text NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  traceparent text CHECK (length(traceparent) <= 128),
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamptz,
  UNIQUE (tenant_id, id),
  FOREIGN KEY (tenant_id, secret_id) REFERENCES secrets (tenant_id, id),
  FOREIGN KEY (secret_id, from_version) REFERENCES versions (secret_id, version),
  FOREIGN KEY (secret_id, to_version) REFERENCES versions (secret_id, version),
  CHECK ((state IN ('running', 'rolling_back')) = (ended_at IS NULL))
);
CREATE UNIQUE INDEX rotations_running ON rotations (secret_id) WHERE ended_at IS NULL;
CREATE INDEX rotations_listing ON rotations (secret_id, id DESC);
CALL isolate_tenants('rotations');

CREATE TABLE follow_ups (
  tenant_id text NOT NULL,
  rotation_id uuid NOT NULL,
  -- Whose follow-up it is; the binding itself may be gone.
  binding_id uuid NOT NULL,
  -- 1: to the new version. 2: back to the one before.
  round integer NOT NULL CHECK (round IN (1, 2)),
  vm_uuid uuid NOT NULL,
  version integer NOT NULL CHECK (version BETWEEN 1 AND 1000000),
  -- As the binding said when the rotation began: the same question gets the same answer.
  command jsonb NOT NULL CHECK (jsonb_typeof(command) = 'object'),
  -- pending: not known to be accepted. running: accepted. skipped: never sent, and never will be.
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'succeeded', 'failed', 'skipped')),
  -- Pending, and vm-ops may have it: an answer is to be had before anything is concluded.
  asked boolean NOT NULL DEFAULT false,
  command_id uuid,
  code text CHECK (length(code) <= 64),
  -- Of the command that ended, as far as it was heard.
  effect text CHECK (effect IN ('none', 'partial', 'unknown', 'applied')),
  attempt integer,
  late boolean,
  tries integer NOT NULL DEFAULT 0,
  -- When it is to be sent, or asked after.
  due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamptz,
  PRIMARY KEY (rotation_id, binding_id, round),
  FOREIGN KEY (tenant_id, rotation_id) REFERENCES rotations (tenant_id, id),
  CHECK ((state IN ('pending', 'running')) = (ended_at IS NULL)),
  CHECK (state NOT IN ('running', 'succeeded') OR command_id IS NOT NULL),
  CHECK ((attempt IS NULL) = (late IS NULL))
);
CREATE INDEX follow_ups_due ON follow_ups (due_at) WHERE state IN ('pending', 'running');
CREATE INDEX follow_ups_command ON follow_ups (command_id);
CALL isolate_tenants('follow_ups');
