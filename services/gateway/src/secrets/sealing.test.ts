import { MusterError } from "@muster/contracts/errors";
import type { Principal } from "@muster/contracts/principal";
import { sealedFor } from "@muster/contracts/secrets";
import { makeBoxKey, open, recipientOf, seal } from "@muster/sealing/box";
import { expect } from "chai";
import { describe, it } from "mocha";
import type { Ask } from "../asking.ts";
import { openSealing } from "./sealing.ts";

const material = { value: "canary-8d1f" };
const principal: Principal = { tenant_id: "acme", subject: "user:me", roles: ["admin"], permissions: [] };
const from = { context: { correlationId: "c" }, principal };

/** A service that answers for its key, which may change. */
function setup() {
  const keys = [makeBoxKey()];
  let asked = 0;
  const ask = (async () => {
    asked += 1;
    return await Promise.resolve({ x: keys.at(-1)?.x });
  }) as unknown as Ask;
  const sent: string[] = [];
  const take = async (sealed: string): Promise<unknown> => {
    sent.push(sealed);
    const key = keys.at(-1);
    if (key === undefined || recipientOf(sealed) !== key.x) throw new MusterError("SEALING_KEY_UNKNOWN");
    return JSON.parse(Buffer.from(await open(sealed, { key, about: sealedFor.write("acme") })).toString());
  };
  return { sealing: openSealing({ ask }), keys, sent, take, asked: () => asked };
}

describe("material at the gateway", () => {
  it("is sealed for the service and the caller's tenant, by a key that is asked for once", async () => {
    const { sealing, sent, take, asked } = setup();
    for (let n = 0; n < 3; n++) expect(await sealing.sealing(material, from, take)).to.deep.equal(material);
    expect(asked()).to.equal(1);
    const seen = sent.flatMap((box) =>
      box.split(".").map((part) => Buffer.from(part, "base64url").toString()),
    );
    expect([...sent, ...seen].join()).to.not.include("canary");
  });

  it("is sealed once more by a fresh key where the service has another now, and no more often", async () => {
    const { sealing, keys, take, asked } = setup();
    await sealing.sealing(material, from, take);
    keys.push(makeBoxKey());
    expect(await sealing.sealing(material, from, take)).to.deep.equal(material);
    expect(asked()).to.equal(2);
    let tries = 0;
    const never = () => {
      tries += 1;
      return Promise.reject(new MusterError("SEALING_KEY_UNKNOWN"));
    };
    const refused: unknown = await sealing.sealing(material, from, never).catch((error: unknown) => error);
    expect(refused).to.include({ code: "SEALING_KEY_UNKNOWN" });
    expect(tries).to.equal(2);
  });

  it("is read back from a box for this answer alone, and what does not open says nothing of itself", async () => {
    const { sealing } = setup();
    const key = sealing.newRecipient();
    const box = async (about: string, plain: string) => ({
      version: 2,
      sealed: await seal(Buffer.from(plain), { x: key.x, about }),
    });
    const about = sealedFor.read("acme", "s", 2);
    const o = { key, tenantId: "acme", secretId: "s" };
    expect(await sealing.opened(await box(about, JSON.stringify(material)), o)).to.deep.equal(material);
    const wrong = [
      box(sealedFor.read("acme", "s", 3), JSON.stringify(material)),
      box(sealedFor.read("bolt", "s", 2), JSON.stringify(material)),
      box(about, material.value),
    ];
    for (const one of wrong) {
      const refused: unknown = await sealing.opened(await one, o).catch((error: unknown) => error);
      expect(refused).to.include({ code: "CONTRACT_VIOLATION" });
      expect(refused).to.not.have.property("cause");
      expect(String(refused)).to.not.include("canary");
    }
  });
});
