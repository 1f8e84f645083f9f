import { expect } from "chai";
import { describe, it } from "mocha";
import { deriveBoxKey, makeBoxKey, NotOpened, open, recipientOf, seal } from "./box.ts";

const about = "muster.test:one";
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString("utf8");
const plain = Buffer.from("what nobody may read");

async function refusal(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => "opened",
    (error: unknown) => error,
  );
}

describe("a sealed box", () => {
  it("opens for its reader alone, about what it was sealed for", async () => {
    const key = makeBoxKey();
    const box = await seal(plain, { x: key.x, about });
    expect(text(await open(box, { key, about }))).to.equal(text(plain));
    expect(recipientOf(box)).to.equal(key.x);
    expect(await refusal(open(box, { key: makeBoxKey(), about }))).to.be.instanceOf(NotOpened);
    expect(await refusal(open(box, { key, about: "muster.test:two" }))).to.be.instanceOf(NotOpened);
  });

  it("never looks the same, and shows nothing of what is in it", async () => {
    const { x } = makeBoxKey();
    const [one, other] = [await seal(plain, { x, about }), await seal(plain, { x, about })];
    expect(one).to.not.equal(other);
    const seen = one.split(".").map((part) => Buffer.from(part, "base64url").toString("latin1"));
    expect(seen.join()).to.not.include("nobody");
  });

  it("does not open when any part of it was changed", async () => {
    const key = makeBoxKey();
    const parts = (await seal(plain, { x: key.x, about })).split(".");
    for (const [at, part] of parts.entries()) {
      const changed = part === "" ? "AAAA" : (part.startsWith("A") ? "B" : "A") + part.slice(1);
      const box = parts.map((one, n) => (n === at ? changed : one)).join(".");
      expect(await refusal(open(box, { key, about })), `part ${at}`).to.be.instanceOf(NotOpened);
    }
    for (const box of ["", "a.b.c.d.e", "....", "no box"]) {
      expect(await refusal(open(box, { key, about }))).to.be.instanceOf(NotOpened);
      expect(recipientOf(box)).to.equal(undefined);
    }
  });

  it("is sealed to no key that is none", async () => {
    const ofBadKey = await refusal(seal(plain, { x: "AAAA", about }));
    expect(ofBadKey).to.be.instanceOf(RangeError);
    // A point of low order: what is agreed with it is known to everybody.
    const weak = await refusal(seal(plain, { x: Buffer.alloc(32).toString("base64url"), about }));
    expect(weak).to.be.instanceOf(Error);
  });

  it("has the same key for the same secret and purpose", async () => {
    const secret = Buffer.alloc(32, 7);
    const [one, again] = [deriveBoxKey(secret, "a"), deriveBoxKey(secret, "a")];
    expect(again.x).to.equal(one.x);
    expect(deriveBoxKey(secret, "b").x).to.not.equal(one.x);
    expect(deriveBoxKey(Buffer.alloc(32, 8), "a").x).to.not.equal(one.x);
    expect(text(await open(await seal(plain, { x: one.x, about }), { key: again, about }))).to.equal(
      text(plain),
    );
  });
});
