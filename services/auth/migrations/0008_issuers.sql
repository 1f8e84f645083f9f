-- Issuers outside whose tokens a tenant takes. A row is never changed: another audience or table of roles is another row.
CREATE TABLE issuers (
  id uuid PRIMARY KEY,
  tenant_id text NOT NULL REFERENCES tenants (tenant_id),
  -- As tokens have it in `iss` and `aud`.
  issuer text NOT NULL CHECK (length(issuer) BETWEEN 1 AND 512),
  audience text NOT NULL CHECK (length(audience) BETWEEN 1 AND 256),
  -- NULL: what its discovery document says.
  jwks_uri text CHECK (length(jwks_uri) BETWEEN 1 AND 512),
  algorithms text[] NOT NULL CHECK (
    algorithms <@ ARRAY['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA']
    AND cardinality(algorithms) BETWEEN 1 AND 10),
  -- Where the claim is that must be this tenant's id; NULL: all its tokens are for this tenant.
  tenant_claim text CHECK (length(tenant_claim) BETWEEN 1 AND 512),
  roles_claim text NOT NULL CHECK (length(roles_claim) BETWEEN 1 AND 512),
  -- [{"value", "role", "permissions"}]
  role_map jsonb NOT NULL CHECK (jsonb_typeof(role_map) = 'array' AND jsonb_array_length(role_map) BETWEEN 1 AND 100),
  role_max text NOT NULL CHECK (role_max IN ('member', 'admin', 'owner')),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  removed_at timestamptz
);
CREATE UNIQUE INDEX issuers_trusted ON issuers (issuer, audience, tenant_id) WHERE removed_at IS NULL;
CREATE INDEX issuers_listing ON issuers (tenant_id, id DESC);
CALL isolate_tenants('issuers');

-- A user whom an issuer vouches for: who it is to the issuer, and when the newest token was made that anybody presented.
-- It belongs to the issuer's address, not to a row of `issuers`: an issuer that is removed and trusted again brings no
-- second account, nor one back that was disabled.
ALTER TABLE principals
  ADD COLUMN external_issuer text CHECK (length(external_issuer) BETWEEN 1 AND 512),
  ADD COLUMN external_subject text CHECK (length(external_subject) BETWEEN 1 AND 255),
  ADD COLUMN external_issued_at timestamptz,
  DROP CONSTRAINT principals_check,
  ADD CONSTRAINT principals_email CHECK
    (email IS NULL OR kind = 'user' AND external_issuer IS NULL),
  ADD CONSTRAINT principals_user CHECK
    (kind <> 'user' OR (email IS NULL) = (external_issuer IS NOT NULL)),
  ADD CONSTRAINT principals_external CHECK
    (num_nulls(external_issuer, external_subject, external_issued_at) IN (0, 3)
     AND (external_issuer IS NULL OR kind = 'user'));
CREATE UNIQUE INDEX principals_external_subject ON principals (tenant_id, external_issuer, external_subject)
  WHERE external_issuer IS NOT NULL;

ALTER TABLE creations
  DROP CONSTRAINT creations_kind_check,
  ADD CONSTRAINT creations_kind CHECK (kind IN ('api-key', 'user', 'service-account', 'tenant', 'issuer'));
