import { createPrivateKey, randomUUID, sign } from "node:crypto";
import { brokerAudience, brokerTokenType } from "@muster/contracts/broker-tokens";

/** Why tokens cannot be signed for the broker of these tests; undefined where they can. */
export const noBrokerKey =
  (process.env["MUSTER_TEST_BROKER_KEY"] ?? "") === ""
    ? "the broker was given by its address, and takes no tokens of ours"
    : undefined;

/** A token that the tests' broker takes, as auth would sign it: for this login, with these scopes. */
export function brokerToken(login: string, scope: readonly string[], o: { audience?: string } = {}): string {
  const now = Math.floor(Date.now() / 1_000);
  const claims = {
    aud: o.audience ?? brokerAudience,
    sub: login,
    scope,
    iat: now,
    exp: now + 600,
    jti: randomUUID(),
  };
  const text = [{ alg: "EdDSA", kid: "test", typ: brokerTokenType }, claims]
    .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
    .join(".");
  const key = createPrivateKey(process.env["MUSTER_TEST_BROKER_KEY"] ?? "");
  return `${text}.${sign(null, Buffer.from(text), key).toString("base64url")}`;
}
