-- A key that was revoked verifies nothing from that moment on. Its private half is destroyed; the row stays for a while, so
-- that a second revocation of the same key is told from one of a key that never was.
ALTER TABLE signing_keys
  DROP CONSTRAINT signing_keys_status_check,
  DROP CONSTRAINT signing_keys_check,
  DROP CONSTRAINT signing_keys_check1,
  DROP CONSTRAINT signing_keys_check2,
  ALTER COLUMN private_sealed DROP NOT NULL,
  ADD COLUMN revoked_at timestamptz,
  -- Somebody asked for a rotation that has to wait until the next key has been published for long enough.
  ADD COLUMN rotation_asked_at timestamptz,
  -- The longest life that anybody gave to a token signed with it.
  ADD COLUMN token_ttl_seconds integer NOT NULL DEFAULT 3600 CHECK (token_ttl_seconds BETWEEN 1 AND 3600);
ALTER TABLE signing_keys
  ADD CONSTRAINT signing_keys_status CHECK (status IN ('next', 'active', 'retired', 'revoked')),
  ADD CONSTRAINT signing_keys_activated
    CHECK (status = 'revoked' OR (status = 'next') = (activated_at IS NULL)),
  ADD CONSTRAINT signing_keys_retired
    CHECK (status = 'revoked' OR (status = 'retired') = (retired_at IS NOT NULL)),
  ADD CONSTRAINT signing_keys_verifies CHECK ((retired_at IS NULL) = (verify_until IS NULL)),
  ADD CONSTRAINT signing_keys_revoked
    CHECK ((status = 'revoked') = (revoked_at IS NOT NULL) AND (status = 'revoked') = (private_sealed IS NULL)),
  ADD CONSTRAINT signing_keys_asked CHECK (rotation_asked_at IS NULL OR status = 'active');
