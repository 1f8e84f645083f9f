-- One key for one kind of token: a key that signs what the broker takes verifies nothing at the services, and the other way round.
ALTER TABLE signing_keys
  ADD COLUMN kind text NOT NULL DEFAULT 'access' CHECK (kind IN ('access', 'broker'));
DROP INDEX signing_keys_one_active;
DROP INDEX signing_keys_one_next;
CREATE UNIQUE INDEX signing_keys_one_active ON signing_keys (kind) WHERE status = 'active';
CREATE UNIQUE INDEX signing_keys_one_next ON signing_keys (kind) WHERE status = 'next';
