import { randomBytes } from "node:crypto";
import { uuidv7 } from "@muster/contracts/ids";
import { expect } from "chai";
import { describe, it } from "mocha";
import { keyOf } from "../../keys/keys.ts";
import { openVersion, rewrap, sealVersion } from "./envelope.ts";

const kek = keyOf(randomBytes(32));
const other = keyOf(randomBytes(32));
const place = { tenantId: "acme", secretId: uuidv7(), version: 3 };
const plain = Buffer.from("what nobody may read");

describe("a sealed version", () => {
  it("opens in its place by its key, and is never the same twice", () => {
    const [one, again] = [sealVersion(plain, place, kek), sealVersion(plain, place, kek)];
    expect(openVersion(one, place, kek)).to.deep.equal(plain);
    expect(one.kekId).to.equal(kek.id);
    expect(one.sealed).to.not.deep.equal(again.sealed);
    expect(one.wrappedKey).to.not.deep.equal(again.wrappedKey);
    expect(Buffer.concat([one.sealed, one.wrappedKey]).includes("nobody")).to.equal(false);
  });

  const elsewhere = [
    { ...place, tenantId: "bolt" },
    { ...place, secretId: uuidv7() },
    { ...place, version: 4 },
  ];
  it("opens in no other place, by no other key, and in no other company", () => {
    const sealed = sealVersion(plain, place, kek);
    for (const wrong of elsewhere) expect(() => openVersion(sealed, wrong, kek)).to.throw();
    expect(() => openVersion(sealed, place, other)).to.throw();
    const { wrappedKey } = sealVersion(plain, place, kek);
    expect(() => openVersion({ ...sealed, wrappedKey }, place, kek)).to.throw();
  });

  it("does not open when a bit of it was changed", () => {
    const sealed = sealVersion(plain, place, kek);
    for (const part of ["wrappedKey", "sealed"] as const) {
      for (const at of [0, 12, sealed[part].length - 1]) {
        const changed = Buffer.from(sealed[part]);
        changed[at] = (changed[at] ?? 0) ^ 1;
        expect(() => openVersion({ ...sealed, [part]: changed }, place, kek), `${part} ${at}`).to.throw();
      }
    }
  });

  it("opens by the new key alone once its data key is wrapped anew", () => {
    const sealed = sealVersion(plain, place, kek);
    const anew = { ...sealed, wrappedKey: rewrap(sealed.wrappedKey, place, { from: kek, to: other }) };
    expect(openVersion(anew, place, other)).to.deep.equal(plain);
    expect(() => openVersion(anew, place, kek)).to.throw();
    expect(() => rewrap(anew.wrappedKey, place, { from: kek, to: other })).to.throw();
  });
});
