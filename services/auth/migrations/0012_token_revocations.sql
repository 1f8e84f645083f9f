-- Tokens that are void though they live. What a token was made from is told by one instant of its tenant, which every
-- revocation in the tenant moves on: whoever makes a token reads it in the statement that reads the account, and so by one
-- snapshot. A token with an earlier one was made from what was before, whenever and by whatever clock it was signed.
ALTER TABLE tenants ADD COLUMN tokens_as_of timestamptz NOT NULL DEFAULT date_trunc('milliseconds', clock_timestamp());

CREATE TABLE token_revocations (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  tenant_id text NOT NULL REFERENCES tenants (tenant_id),
  -- An account (user:<id>), or what tokens were exchanged for (api-key:<id>); NULL: everybody's in the tenant.
  subject text CHECK (length(subject) BETWEEN 1 AND 128),
  not_before timestamptz NOT NULL,
  -- Nobody has to remember it from then on.
  until timestamptz NOT NULL CHECK (until > not_before),
  reason text NOT NULL CHECK (reason ~ '^[a-z]+(-[a-z]+)*$'),
  -- Whether its event is written.
  told boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX token_revocations_whose ON token_revocations (tenant_id, coalesce(subject, ''));
CREATE INDEX token_revocations_untold ON token_revocations (id) WHERE NOT told;
CREATE INDEX token_revocations_until ON token_revocations (until);
CALL isolate_tenants('token_revocations');

-- The last one of a subject counts: it voids what those before it did.
CREATE FUNCTION revoke_tokens(of_tenant text, of_subject text, why text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  instant timestamptz;
BEGIN
  -- Under the row's lock, to the end of the transaction: the order of instants is that of commits.
  UPDATE tenants SET tokens_as_of =
      greatest(date_trunc('milliseconds', clock_timestamp()), tokens_as_of + interval '1 millisecond')
    WHERE tenant_id = of_tenant RETURNING tokens_as_of INTO instant;
  -- No token lives longer than an hour; a minute for clocks that differ.
  INSERT INTO token_revocations AS kept (tenant_id, subject, not_before, until, reason)
    VALUES (of_tenant, of_subject, instant, instant + interval '61 minutes', why)
    ON CONFLICT (tenant_id, coalesce(subject, '')) DO UPDATE
      SET not_before = excluded.not_before, until = excluded.until, reason = excluded.reason, told = false;
END
$$;

-- Triggers, so that whatever changes an account voids its tokens: a request, or an operator's own statement.
CREATE FUNCTION role_height(roles text[]) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN 'owner' = ANY (roles) THEN 3 WHEN 'admin' = ANY (roles) THEN 2 ELSE 1 END
$$;

CREATE FUNCTION account_changed() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF OLD.disabled_at IS NULL AND NEW.disabled_at IS NOT NULL THEN
    PERFORM revoke_tokens(NEW.tenant_id, NEW.kind || ':' || NEW.id, 'account-disabled');
  ELSIF role_height(NEW.roles) < role_height(OLD.roles) OR NOT OLD.permissions <@ NEW.permissions THEN
    PERFORM revoke_tokens(NEW.tenant_id, NEW.kind || ':' || NEW.id, 'account-lost-rights');
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER principals_revoke_tokens AFTER UPDATE OF disabled_at, roles, permissions ON principals
  FOR EACH ROW EXECUTE FUNCTION account_changed();

-- What was exchanged for this key or at this issuer alone: its holder's other tokens are good.
CREATE FUNCTION credential_ended() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM revoke_tokens(NEW.tenant_id, TG_ARGV[0] || ':' || NEW.id, TG_ARGV[1]);
  RETURN NULL;
END
$$;
CREATE TRIGGER api_keys_revoke_tokens AFTER UPDATE OF revoked_at ON api_keys
  FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL)
  EXECUTE FUNCTION credential_ended('api-key', 'api-key-revoked');
CREATE TRIGGER issuers_revoke_tokens AFTER UPDATE OF removed_at ON issuers
  FOR EACH ROW WHEN (OLD.removed_at IS NULL AND NEW.removed_at IS NOT NULL)
  EXECUTE FUNCTION credential_ended('issuer', 'issuer-removed');

CREATE FUNCTION tenant_suspended() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM revoke_tokens(NEW.tenant_id, NULL, 'tenant-suspended');
  RETURN NULL;
END
$$;
CREATE TRIGGER tenants_revoke_tokens AFTER UPDATE OF state ON tenants
  FOR EACH ROW WHEN (OLD.state = 'active' AND NEW.state = 'suspended') EXECUTE FUNCTION tenant_suspended();
