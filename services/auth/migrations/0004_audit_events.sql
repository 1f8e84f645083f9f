-- What was changed, by whom. Added to, and never touched again.
CREATE TABLE audit_events (
  id uuid PRIMARY KEY,
  -- NULL: of the system itself, a signing key for example.
  tenant_id text REFERENCES tenants (tenant_id),
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
