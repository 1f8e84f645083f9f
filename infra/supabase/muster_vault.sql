-- The door through which Muster keeps material in Supabase Vault: apply it once, as the project's owner, in the SQL editor.
-- PostgREST calls it by its name with the service-role key; what it is given are bind parameters. It opens no name but Muster's.
-- Applying it again replaces it and keeps what is in the vault.

BEGIN;

CREATE OR REPLACE FUNCTION public.muster_vault(operation text, name text DEFAULT NULL, material text DEFAULT NULL)
RETURNS TABLE (outcome text, content text)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = ''
AS $muster$
BEGIN
  IF operation = 'check' THEN
    PERFORM 1 FROM vault.decrypted_secrets AS s WHERE s.name = 'muster-check';
    outcome := 'ready';
    RETURN NEXT;
    RETURN;
  END IF;
  -- prefix/tenant/secret/version
  IF name IS NULL OR length(name) > 300
     OR name !~ '^[A-Za-z0-9_./-]+/[a-z0-9][a-z0-9-]*/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[1-9][0-9]*$' THEN
    RAISE EXCEPTION 'not a place of a version' USING ERRCODE = '22023';
  END IF;

  IF operation = 'write' THEN
    IF material IS NULL OR material = '' THEN
      RAISE EXCEPTION 'no material' USING ERRCODE = '22023';
    END IF;
    BEGIN
      PERFORM vault.create_secret(material, name, 'Muster');
      outcome := 'kept';
    EXCEPTION WHEN unique_violation THEN
      SELECT CASE WHEN s.decrypted_secret = material THEN 'kept' ELSE 'conflict' END INTO outcome
        FROM vault.decrypted_secrets AS s WHERE s.name = muster_vault.name;
      -- It was destroyed in between: whoever asked asks again.
      IF outcome IS NULL THEN
        RAISE EXCEPTION 'changed meanwhile' USING ERRCODE = '40001';
      END IF;
    END;
    RETURN NEXT;
  ELSIF operation = 'read' THEN
    RETURN QUERY SELECT 'kept'::text, s.decrypted_secret::text
      FROM vault.decrypted_secrets AS s WHERE s.name = muster_vault.name;
  ELSIF operation = 'destroy' THEN
    DELETE FROM vault.secrets AS s WHERE s.name = muster_vault.name;
    IF FOUND THEN
      outcome := 'destroyed';
      RETURN NEXT;
    END IF;
  ELSE
    RAISE EXCEPTION 'unknown operation' USING ERRCODE = '22023';
  END IF;
END
$muster$;

COMMENT ON FUNCTION public.muster_vault(text, text, text) IS 'Muster keeps, reads and destroys material in vault.';

-- Supabase grants new functions to everybody who may use the API.
REVOKE ALL ON FUNCTION public.muster_vault(text, text, text) FROM PUBLIC, anon, authenticated;
GRANT EXECUTE ON FUNCTION public.muster_vault(text, text, text) TO service_role;

NOTIFY pgrst, 'reload schema';

COMMIT;
