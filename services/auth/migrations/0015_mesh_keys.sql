-- Public halves of the keys by which processes of other services vouch for their callers. The private halves never leave those
-- processes. Belongs to no tenant: only the service's own work sees it.
CREATE TABLE mesh_keys (
  -- RFC 7638: nobody chooses a name.
  kid text PRIMARY KEY CHECK (kid ~ '^[A-Za-z0-9_-]{43}$'),
  -- Whose tokens it verifies: who registered it, as the broker vouches for it.
  service text NOT NULL CHECK (service ~ '^[a-z]+(-[a-z]+)*$'),
  -- The point on Ed25519, in base64url.
  x text NOT NULL CHECK (x ~ '^[A-Za-z0-9_-]{43}$'),
  registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL
);
CREATE INDEX mesh_keys_by_expiry ON mesh_keys (expires_at);

ALTER TABLE mesh_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
DO $$
BEGIN
  EXECUTE format('CREATE POLICY system_work ON mesh_keys TO %I USING (true) WITH CHECK (true)',
    current_setting('muster.system_role'));
  EXECUTE format('REVOKE ALL ON mesh_keys FROM %I', current_setting('muster.login_role'));
END
$$;

-- A revocation is remembered until the last token that it voids has expired by itself. What a service signs for another is
-- made from an access token that may be in its last second, and lives on for 11 minutes at most; reliability signs from that one.
CREATE OR REPLACE FUNCTION revoke_tokens(of_tenant text, of_subject text, why text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  instant timestamptz;
BEGIN
  -- Under the row's lock, to the end of the transaction: the order of instants is that of commits.
  UPDATE tenants SET tokens_as_of =
      greatest(date_trunc('milliseconds', clock_timestamp()), tokens_as_of + interval '1 millisecond')
    WHERE tenant_id = of_tenant RETURNING tokens_as_of INTO instant;
  -- An hour, twice 11 minutes, and the rest for clocks that differ.
  INSERT INTO token_revocations AS kept (tenant_id, subject, not_before, until, reason)
    VALUES (of_tenant, of_subject, instant, instant + interval '85 minutes', why)
    ON CONFLICT (tenant_id, coalesce(subject, '')) DO UPDATE
      SET not_before = excluded.not_before, until = excluded.until, reason = excluded.reason, told = false;
END
$$;
