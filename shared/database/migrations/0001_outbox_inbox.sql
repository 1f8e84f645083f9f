-- Runs in every service's schema before the service's own migrations; the search path names the schema.

-- The tenants of the current transaction; none when it set none.
CREATE FUNCTION muster_tenants() RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT coalesce(string_to_array(nullif(current_setting('muster.tenants', true), ''), ','), '{}'::text[])
$$;

-- Each table with a tenant_id calls this once. The sub-select makes the planner read the setting once a statement.
-- FORCE binds the owner too: a migration that touches rows says SET ROLE <schema>_system first, and RESET ROLE after.
CREATE PROCEDURE isolate_tenants(target regclass) LANGUAGE plpgsql AS $$
DECLARE
  login_role text := current_setting('muster.login_role');
  system_role text := current_setting('muster.system_role');
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', target);
  EXECUTE format(
    'CREATE POLICY tenant_isolation ON %s TO %I
       USING (tenant_id = ANY ((SELECT muster_tenants())::text[]))
       WITH CHECK (tenant_id = ANY ((SELECT muster_tenants())::text[]))', target, login_role);
  EXECUTE format('CREATE POLICY system_work ON %s TO %I USING (true) WITH CHECK (true)', target, system_role);
END
$$;
REVOKE ALL ON PROCEDURE isolate_tenants(regclass) FROM PUBLIC;

-- next_attempt_at has no index on purpose: leases move it, and without one those updates stay within their page.
CREATE TABLE outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  message_id text NOT NULL UNIQUE,
  type text NOT NULL,
  exchange text NOT NULL,
  routing_key text NOT NULL,
  ordering_key text,
  tenant_id text,
  body text NOT NULL,
  headers jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  attempts integer NOT NULL DEFAULT 0,
  last_verdict text
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX outbox_ordering_key ON outbox (ordering_key, id) WHERE ordering_key IS NOT NULL;
CALL isolate_tenants('outbox');

CREATE TABLE inbox (
  consumer text NOT NULL,
  message_id text NOT NULL,
  received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (consumer, message_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX inbox_received_at ON inbox USING brin (received_at) WITH (pages_per_range = 32);

-- The login role may add messages of its tenants to the outbox, and nothing else with either table.
DO $$
BEGIN
  EXECUTE format('REVOKE ALL ON outbox, inbox FROM %I', current_setting('muster.login_role'));
  EXECUTE format('GRANT INSERT ON outbox TO %I', current_setting('muster.login_role'));
END
$$;
