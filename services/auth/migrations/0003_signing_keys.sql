-- Belongs to no tenant: only the service's own work sees it.
CREATE TABLE signing_keys (
  kid text PRIMARY KEY CHECK (kid ~ '^[A-Za-z0-9_.-]{1,128}$'),
  alg text NOT NULL CHECK (alg IN ('EdDSA', 'ES256')),
  public_jwk jsonb NOT NULL CHECK (NOT public_jwk ? 'd'),
  -- AES-256-GCM: nonce (12 bytes), ciphertext of the PKCS #8 key, tag (16 bytes).
  private_sealed bytea NOT NULL CHECK (octet_length(private_sealed) > 28),
  -- Names the key that sealed it, so that a wrong one is told from a damaged row.
  sealed_with text NOT NULL,
  -- next: published, so that verifiers know it before it signs. retired: signs no more, verifies until verify_until.
  status text NOT NULL CHECK (status IN ('next', 'active', 'retired')),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  activated_at timestamptz,
  retired_at timestamptz,
  verify_until timestamptz,
  CHECK ((status = 'next') = (activated_at IS NULL)),
  CHECK ((status = 'retired') = (retired_at IS NOT NULL)),
  CHECK ((status = 'retired') = (verify_until IS NOT NULL))
);
CREATE UNIQUE INDEX signing_keys_one_active ON signing_keys (status) WHERE status = 'active';
CREATE UNIQUE INDEX signing_keys_one_next ON signing_keys (status) WHERE status = 'next';

ALTER TABLE signing_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
DO $$
BEGIN
  EXECUTE format('CREATE POLICY system_work ON signing_keys TO %I USING (true) WITH CHECK (true)',
    current_setting('muster.system_role'));
  EXECUTE format('REVOKE ALL ON signing_keys FROM %I', current_setting('muster.login_role'));
END
$$;
