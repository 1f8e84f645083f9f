CREATE TABLE things (
  id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  label text NOT NULL CONSTRAINT things_label_not_empty CHECK (label <> ''),
  amount bigint NOT NULL DEFAULT 0
);
CALL isolate_tenants('things');

-- Counts what handlers did, of all tenants.
CREATE TABLE effects (
  message_id text NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A commit with a row of this table takes so long.
CREATE TABLE slow_commits (
  seconds float8 NOT NULL
);
CREATE FUNCTION sleep_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_sleep(NEW.seconds);
  RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER slow_commits_sleep AFTER INSERT ON slow_commits
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sleep_at_commit();
