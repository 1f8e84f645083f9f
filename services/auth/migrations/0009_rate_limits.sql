-- What was counted of late, by limit and by whom it counts. Each row is a bucket that leaks (GCRA, ITU-T I.371): one time,
-- by this server's clock, says how full it is, so that replicas share it and nothing has to be reset.
-- Belongs to no tenant: only the service's own work sees it. Not logged: a crash forgets it, and a window begins anew.
CREATE UNLOGGED TABLE rate_limits (
  name text NOT NULL CHECK (name ~ '^[a-z]+(-[a-z]+)*$'),
  key text NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
  -- When nothing is left of what was counted.
  clear_at timestamptz NOT NULL,
  -- That it is full was told, and is not told again before.
  told_until timestamptz NOT NULL DEFAULT '-infinity',
  -- The answer to whoever took last: how many, and whether that filled it for the first time in a window.
  given integer NOT NULL,
  filled boolean NOT NULL,
  PRIMARY KEY (name, key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

ALTER TABLE rate_limits ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
DO $$
BEGIN
  EXECUTE format('CREATE POLICY system_work ON rate_limits TO %I USING (true) WITH CHECK (true)',
    current_setting('muster.system_role'));
  EXECUTE format('REVOKE ALL ON rate_limits FROM %I', current_setting('muster.login_role'));
END
$$;

-- How many more fit at `now` into a bucket that holds `units_max` and is empty after `window_seconds`.
CREATE FUNCTION rate_limit_room(clear_at timestamptz, now timestamptz, units_max integer, window_seconds integer)
RETURNS integer LANGUAGE sql IMMUTABLE AS $$
  SELECT greatest(0, least(units_max, floor(
    units_max - extract(epoch FROM clear_at - now)::float8 * units_max / window_seconds + 0.001)))::integer
$$;
