-- What the consumers of this figure write for each message, in a schema of ours with roles and isolation.
CREATE TABLE effects (
  message_id text NOT NULL,
  tenant_id text NOT NULL,
  command_id uuid NOT NULL,
  vm_uuid uuid NOT NULL,
  state text NOT NULL,
  at timestamptz NOT NULL
);
CALL isolate_tenants('effects');
