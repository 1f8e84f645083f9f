import { randomUUID } from "node:crypto";
import { inspect } from "node:util";
import { materialBytesMax, secretValueBytesMax } from "@muster/contracts/secrets";
import type { Material } from "@muster/contracts/secrets";
import { expect } from "chai";
import { VaultError } from "../../src/vaults/vault.ts";
import type { Place, Vault } from "../../src/vaults/vault.ts";

/** One vault's server, and clients of it. */
export interface VaultHouse {
  open(): Promise<Vault>;
  close(): Promise<void>;
}

export const patience = (): AbortSignal => AbortSignal.timeout(20_000);
export const newPlace = (more: Partial<Place> = {}): Place => ({
  tenantId: "acme",
  secretId: randomUUID(),
  version: 1,
  ...more,
});

/** The fault of what it throws; anything but a VaultError is thrown on. */
export async function faultOf(work: Promise<unknown>): Promise<string> {
  return await work.then(
    () => "none",
    (error: unknown) => {
      if (error instanceof VaultError) return error.fault;
      throw error;
    },
  );
}

async function using(
  openHouse: () => Promise<VaultHouse>,
  work: (vault: Vault, house: VaultHouse) => Promise<void>,
): Promise<void> {
  const house = await openHouse();
  const vault = await house.open();
  try {
    await work(vault, house);
  } finally {
    await vault.close();
    await house.close();
  }
}

/** What every vault does. Run on each; one that is declared in conformance.int.test.ts is covered. */
export function describeVault(name: string, openHouse: () => Promise<VaultHouse>): void {
  const itDoes = (title: string, work: (vault: Vault, house: VaultHouse) => Promise<void>) =>
    it(title, () => using(openHouse, work));

  describe(`the vault ${name}`, () => {
    itDoes("can be asked", async (vault) => {
      await vault.check(patience());
    });
    describeKeeping(itDoes);
    describeDestroying(itDoes);
    describeConcurrency(itDoes);
    describeEnding(itDoes);
  });
}

type ItDoes = (title: string, work: (vault: Vault, house: VaultHouse) => Promise<void>) => void;

function describeKeeping(itDoes: ItDoes): void {
  itDoes("gives back what it keeps, to any client of it", async (vault, house) => {
    const place = newPlace();
    const fields = { user: "app", password: "correct horse" };
    await vault.write(place, fields, patience());
    expect(await vault.read(place, patience())).to.deep.equal(fields);
    const other = await house.open();
    expect(await other.read(place, patience())).to.deep.equal(fields);
    await other.close();
  });

  itDoes("keeps every text as it is", async (vault) => {
    const place = newPlace();
    const fields: Material = {
      "lines.pem": "-----BEGIN X-----\r\n\tabc=\n-----END X-----\n",
      quotes: `"'\\\`$(id)\${x}<&>\u2028\u2029`,
      control: "\u0001\u001f\u007f\u0080",
      languages: "Grüße, 世界, مرحبا, 𝄞, e\u0301, \ufeff",
      json: '{"a":null}',
      number: "007",
    };
    await vault.write(place, fields, patience());
    expect(await vault.read(place, patience())).to.deep.equal(fields);
  });

  itDoes("keeps the largest material, whatever it is made of", async (vault) => {
    for (const text of ["<", "ü", '"', "\u0001"]) {
      const place = newPlace();
      // In JSON each is as long as it gets; material is bounded as JSON.
      const size =
        Math.floor(materialBytesMax / 4 / Buffer.byteLength(JSON.stringify(text).slice(1, -1))) - 16;
      const value = text.repeat(Math.min(size, Math.floor(secretValueBytesMax / Buffer.byteLength(text))));
      const fields = { a: value, b: value, c: value, d: value };
      await vault.write(place, fields, patience());
      expect(await vault.read(place, patience())).to.deep.equal(fields);
      await vault.destroy(place, patience());
    }
  });

  itDoes("takes the same again as done, in whatever order its fields are", async (vault) => {
    const place = newPlace();
    await vault.write(place, { a: "1", b: "2" }, patience());
    await vault.write(place, { b: "2", a: "1" }, patience());
    expect(await vault.read(place, patience())).to.deep.equal({ a: "1", b: "2" });
  });

  itDoes("refuses other material for a place that has some, and leaves that alone", async (vault) => {
    const place = newPlace();
    await vault.write(place, { value: "first" }, patience());
    const others: Material[] = [{ value: "second" }, { value: "first", more: "x" }, { other: "first" }];
    for (const other of others) {
      expect(await faultOf(vault.write(place, other, patience()))).to.equal("conflict");
    }
    expect(await vault.read(place, patience())).to.deep.equal({ value: "first" });
  });

  itDoes("says missing of what it was never given", async (vault) => {
    const place = newPlace();
    expect(await faultOf(vault.read(place, patience()))).to.equal("missing");
    await vault.write(place, { value: "x" }, patience());
    expect(await faultOf(vault.read({ ...place, version: 2 }, patience()))).to.equal("missing");
    expect(await faultOf(vault.read({ ...place, secretId: randomUUID() }, patience()))).to.equal("missing");
  });

  itDoes("keeps tenants apart, and versions", async (vault) => {
    const place = newPlace({ tenantId: "one" });
    const other = { ...place, tenantId: "one-1" };
    const next = { ...place, version: 11 };
    await vault.write(place, { value: "of one" }, patience());
    expect(await faultOf(vault.read(other, patience()))).to.equal("missing");
    await vault.write(other, { value: "of another" }, patience());
    await vault.write(next, { value: "the eleventh" }, patience());
    expect(await vault.read(place, patience())).to.deep.equal({ value: "of one" });
    expect(await vault.read(other, patience())).to.deep.equal({ value: "of another" });
    await vault.destroy(other, patience());
    expect(await vault.read(place, patience())).to.deep.equal({ value: "of one" });
    expect(await vault.read(next, patience())).to.deep.equal({ value: "the eleventh" });
  });
}

function describeDestroying(itDoes: ItDoes): void {
  itDoes("destroys for good, and again, and what was never there", async (vault) => {
    const place = newPlace();
    await vault.write(place, { value: "gone soon" }, patience());
    await vault.destroy(place, patience());
    expect(await faultOf(vault.read(place, patience()))).to.equal("missing");
    await vault.destroy(place, patience());
    await vault.destroy(newPlace(), patience());
    expect(await faultOf(vault.read(place, patience()))).to.equal("missing");
  });
}

function describeConcurrency(itDoes: ItDoes): void {
  itDoes("keeps one of twenty that write one place at once", async (vault) => {
    const place = newPlace();
    const faults = await Promise.all(
      Array.from({ length: 20 }, (_, i) => faultOf(vault.write(place, { value: `writer ${i}` }, patience()))),
    );
    const winners = faults.flatMap((fault, i) => (fault === "none" ? [i] : []));
    expect(winners).to.have.length(1);
    expect(faults.filter((fault) => fault === "conflict")).to.have.length(19);
    expect(await vault.read(place, patience())).to.deep.equal({ value: `writer ${winners[0]}` });
  });

  itDoes("is done for all of twenty that write the same at once", async (vault) => {
    const place = newPlace();
    await Promise.all(Array.from({ length: 20 }, () => vault.write(place, { value: "same" }, patience())));
    expect(await vault.read(place, patience())).to.deep.equal({ value: "same" });
  });

  itDoes("never gives half of what is written or destroyed meanwhile", async (vault) => {
    const place = newPlace();
    const fields = { a: "1".repeat(10_000), b: "2".repeat(10_000) };
    const reads = Array.from({ length: 20 }, () =>
      vault.read(place, patience()).catch((error: unknown) => {
        if (error instanceof VaultError && error.fault === "missing") return undefined;
        throw error;
      }),
    );
    await Promise.all([vault.write(place, fields, patience()), ...reads]);
    await Promise.all([vault.destroy(place, patience()), vault.destroy(place, patience())]);
    for (const read of await Promise.all(reads)) if (read !== undefined) expect(read).to.deep.equal(fields);
    expect(await faultOf(vault.read(place, patience()))).to.equal("missing");
  });
}

function describeEnding(itDoes: ItDoes): void {
  itDoes("ends a call that is given up, and what that call did is whole or nothing", async (vault) => {
    const place = newPlace();
    const over = AbortSignal.abort(new Error("given up"));
    for (const call of [
      () => vault.check(over),
      () => vault.write(place, { value: "x" }, over),
      () => vault.read(place, over),
      () => vault.destroy(place, over),
    ]) {
      expect(await faultOf(call())).to.equal("unavailable");
    }
    const given = new AbortController();
    const writing = faultOf(vault.write(place, { value: "x" }, given.signal));
    given.abort();
    expect(await writing).to.be.oneOf(["unavailable", "none"]);
    await vault.write(place, { value: "x" }, patience());
    expect(await vault.read(place, patience())).to.deep.equal({ value: "x" });
  });

  itDoes("answers nothing once it is closed, however often", async (vault) => {
    const place = newPlace();
    await vault.write(place, { value: "x" }, patience());
    await Promise.all([vault.close(), vault.close()]);
    expect(await faultOf(vault.read(place, patience()))).to.equal("unavailable");
    expect(await faultOf(vault.write(place, { value: "x" }, patience()))).to.equal("unavailable");
    expect(await faultOf(vault.destroy(place, patience()))).to.equal("unavailable");
    expect(await faultOf(vault.check(patience()))).to.equal("unavailable");
  });

  itDoes("has no material in what it throws", async (vault) => {
    const place = newPlace();
    const canaries = ["canary-6f1e", "canary-9b2d"];
    await vault.write(place, { value: "canary-6f1e" }, patience());
    const thrown = await vault
      .write(place, { value: "canary-9b2d" }, patience())
      .catch((error: unknown) => error);
    await vault.close();
    const late = await vault
      .write(place, { value: "canary-6f1e" }, patience())
      .catch((error: unknown) => error);
    const text = inspect([thrown, late], { depth: Infinity, showHidden: true });
    for (const canary of canaries) expect(text).not.to.include(canary);
  });
}
