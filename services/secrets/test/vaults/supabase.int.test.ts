import { expect } from "chai";
import { openSupabaseVault } from "../../src/vaults/supabase/vault.ts";
import { type VaultError } from "../../src/vaults/vault.ts";
import { faultOf, newPlace, patience } from "./conformance.ts";
import { setupSupabase } from "./houses.ts";

const place = newPlace();
const fields = { value: "canary-e81d" };

async function sqlstateOf(work: Promise<unknown>): Promise<string> {
  return await work.then(
    () => "none",
    (error: unknown) => String((error as { code?: string }).code),
  );
}

describe("the vault supabase: its function", () => {
  it("may be called with the service-role key alone", async () => {
    const { server, vault, close } = await setupSupabase();
    await vault.write(place, fields, patience());
    for (const key of [server.anonKey, "no-key-at-all"]) {
      const options = { url: server.url, serviceRoleKey: key, rpcName: "muster_vault", prefix: "muster" };
      const stranger = openSupabaseVault(options);
      expect(await faultOf(stranger.read(place, patience()))).to.equal("refused");
      expect(await faultOf(stranger.write(newPlace(), fields, patience()))).to.equal("refused");
      expect(await faultOf(stranger.destroy(place, patience()))).to.equal("refused");
      expect(await faultOf(stranger.check(patience()))).to.equal("refused");
      await stranger.close();
    }
    expect(await vault.read(place, patience())).to.deep.equal(fields);
    const rights = await server.admin.query<{ who: string; may: boolean }>(
      `SELECT r AS who, has_function_privilege(r, 'public.muster_vault(text, text, text)', 'EXECUTE') AS may
         FROM unnest(ARRAY['anon', 'authenticated', 'service_role']) AS r ORDER BY r`,
    );
    expect(rights.map(({ who, may }) => `${who} ${may}`)).to.deep.equal([
      "anon false",
      "authenticated false",
      "service_role true",
    ]);
    await close();
  });

  it("runs with its owner's rights and looks nothing up by a search path", async () => {
    const { server, close } = await setupSupabase();
    const [made] = await server.admin.query<{ definer: boolean; config: string[] }>(
      "SELECT prosecdef AS definer, proconfig AS config FROM pg_proc WHERE proname = 'muster_vault'",
    );
    expect(made).to.deep.equal({ definer: true, config: ['search_path=""'] });
    await close();
  });

  it("opens no name that is not a version's place", async () => {
    const { server, close } = await setupSupabase();
    const call = (operation: string, name: string | null, material: string | null) =>
      server.admin.query("SELECT * FROM public.muster_vault($1, $2, $3)", [operation, name, material]);
    await server.admin.run("SELECT vault.create_secret('of somebody else', 'stripe_key')");
    for (const name of ["stripe_key", "", null, "muster/acme/x/1", `muster/acme/${place.secretId}/0`]) {
      for (const operation of ["read", "write", "destroy"]) {
        expect(await sqlstateOf(call(operation, name, "x")), `${operation} ${name}`).to.equal("22023");
      }
    }
    expect(await sqlstateOf(call("list", `muster/acme/${place.secretId}/1`, null))).to.equal("22023");
    expect(await sqlstateOf(call("write", `muster/acme/${place.secretId}/1`, null))).to.equal("22023");
    expect(await server.admin.query("SELECT name FROM vault.secrets")).to.deep.equal([
      { name: "stripe_key" },
    ]);
    await close();
  });

  it("gives none of the material back to who writes", async () => {
    const { server, vault, close } = await setupSupabase();
    await vault.write(place, fields, patience());
    const name = `muster/acme/${place.secretId}/1`;
    const rows = await server.admin.query("SELECT * FROM public.muster_vault('write', $1, 'another')", [
      name,
    ]);
    expect(rows).to.deep.equal([{ outcome: "conflict", content: null }]);
    await close();
  });

  it("is applied again without a loss", async () => {
    const { server, vault, close } = await setupSupabase();
    await vault.write(place, fields, patience());
    await server.admin.run(server.wrapper);
    expect(await vault.read(place, patience())).to.deep.equal(fields);
    await close();
  });
});

describe("the vault supabase: what it says", () => {
  it("names the file to apply where the function is not there, which is never a missing secret", async () => {
    const { server, vault, close } = await setupSupabase();
    await server.admin.run("DROP FUNCTION public.muster_vault(text, text, text)");
    for (const call of [() => vault.check(patience()), () => vault.read(place, patience())]) {
      const thrown = await call().catch((error: unknown) => error);
      expect((thrown as VaultError).fault).to.equal("refused");
      expect((thrown as VaultError).message).to.include("infra/supabase/muster_vault.sql");
    }
    await close();
  });

  it("takes what is kept there and is not ours for garbled, and says none of it", async () => {
    const { server, vault, close } = await setupSupabase();
    for (const kept of [
      "canary-plain",
      '{"value":"canary"}',
      '[["value",1]]',
      '[["bad name!","canary"]]',
      "[]",
    ]) {
      const other = newPlace();
      await server.admin.query("SELECT vault.create_secret($1, $2)", [
        kept,
        `muster/acme/${other.secretId}/1`,
      ]);
      const thrown = await vault.read(other, patience()).catch((error: unknown) => error);
      expect((thrown as VaultError).fault, kept).to.equal("garbled");
      expect((thrown as VaultError).message).not.to.include("canary");
    }
    await close();
  });

  it("is unavailable while its database is", async () => {
    const { server, vault, close } = await setupSupabase();
    await server.admin.run("BEGIN; LOCK TABLE vault.secrets IN ACCESS EXCLUSIVE MODE");
    expect(await faultOf(vault.read(place, AbortSignal.timeout(200)))).to.equal("unavailable");
    await server.admin.run("ROLLBACK");
    await vault.write(place, fields, patience());
    await close();
  });
});
