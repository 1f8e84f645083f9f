import { Writable } from "node:stream";
import { MusterError } from "@muster/contracts/errors";
import { expect } from "chai";
import fc from "fast-check";
import { runWith } from "./context.ts";
import { openLogger } from "./logger.ts";

const canary = "canary-8f2b1c";

function setup() {
  const chunks: string[] = [];
  const destination = new Writable({
    write(chunk: Buffer, _encoding, done) {
      chunks.push(chunk.toString());
      done();
    },
  });
  const logger = openLogger({ service: "test", level: "trace", destination });
  const written = () => chunks.join("");
  const last = (): unknown => JSON.parse(chunks.at(-1) ?? "{}");
  return { logger, written, last };
}

const secretKeys = [
  "authorization",
  "Authorization",
  "cookie",
  "set-cookie",
  "token",
  "access_token",
  "refreshToken",
  "claim_token",
  "claim_tokens",
  "api_key",
  "apiKey",
  "x-api-key",
  "password",
  "secret",
  "client_secret",
  "identity",
  "params",
  "body",
];

describe("the logger", () => {
  for (const key of secretKeys) {
    it(`never writes what stands under ${key}: top, nested, in lists, in bindings, in causes`, () => {
      const { logger, written } = setup();
      const holder = { [key]: canary };
      logger.info(holder, "top");
      logger.info({ [key]: { inner: [canary] } }, "an object under the key");
      logger.info({ a: { b: [{ c: holder }] } }, "nested");
      logger.child(holder).child({ more: holder }).info("bindings");
      logger.error({ err: new Error("x", { cause: holder }) }, "cause");
      logger.error(
        Object.assign(new Error("x"), holder, { config: { headers: holder } }),
        "error properties",
      );
      expect(written().split("\n")).to.have.length(7);
      expect(written()).to.not.include(canary);
    });
  }

  it("cuts secrets out of texts: URLs, bearer tokens, JWTs, query parameters", () => {
    const { logger, written } = setup();
    const jwt = `eyJhbGciOiJFUzI1NiJ9.${canary}.c2ln`;
    const texts = [
      `cannot reach amqp://user:${canary}@localhost:5672/vhost`,
      `postgres://user:p@${canary}@localhost/db`,
      `authorization: Bearer ${canary}`,
      `got ${jwt} from a client`,
      `GET /x?access_token=${canary}&a=1`,
    ];
    for (const text of texts) {
      logger.info(text);
      logger.info({ reason: text }, "field");
      logger.info({ err: new Error(text) }, "error");
    }
    expect(written()).to.not.include(canary);
    expect(written()).to.include("localhost:5672/vhost");
  });

  it("never writes a secret wherever in an object it stands", () => {
    const shape = fc.letrec((tie) => ({
      node: fc.oneof(
        { depthSize: "small" },
        fc.record({ token: fc.constant(canary), n: fc.integer() }),
        fc.array(tie("node"), { maxLength: 3 }),
        fc.dictionary(fc.constantFrom("a", "b", "params", "x_secret"), tie("node"), { maxKeys: 3 }),
      ),
    }));
    fc.assert(
      fc.property(shape.node, (value) => {
        const { logger, written } = setup();
        logger.info({ value }, "x");
        expect(written()).to.not.include(canary);
      }),
      { numRuns: 100 },
    );
  });

  it("mixes in the current work context", () => {
    const { logger, last } = setup();
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    runWith({ correlationId: "c-1", tenantId: "acme", traceparent, identity: canary }, () =>
      logger.info("in"),
    );
    expect(last()).to.include({
      service: "test",
      level: "info",
      msg: "in",
      correlation_id: "c-1",
      tenant_id: "acme",
      trace_id: "0af7651916cd43dd8448eb211c80319c",
    });
    expect(last()).to.not.have.property("identity");
  });

  it("keeps an error's code, details and causes", () => {
    const { logger, last } = setup();
    const cause = Object.assign(new Error("refused"), { code: "ECONNREFUSED" });
    logger.error(new MusterError("DEPENDENCY_UNAVAILABLE", undefined, { cause }), "x");
    expect(last()).to.have.nested.property("err.code", "DEPENDENCY_UNAVAILABLE");
    expect(last()).to.have.nested.property("err.cause.code", "ECONNREFUSED");
    expect(last()).to.have.nested.property("err.stack");
  });

  it("survives loops, depth, width and bytes", () => {
    const { logger, written } = setup();
    const loop: Record<string, unknown> = { n: 1n, bytes: Buffer.alloc(1e6), wide: new Array(1e4).fill(1) };
    loop["self"] = loop;
    logger.info(loop, "x");
    expect(written().length).to.be.lessThan(50_000);
  });
});
