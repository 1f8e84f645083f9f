import { generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";

/** A key whose tokens the tests' broker takes, as those of auth: any test may sign them, for its own vhost. */
export interface BrokerKeys {
  /** Where the broker gets its public half. */
  readonly url: string;
  /** PKCS #8, PEM. */
  readonly privateKey: string;
  close(): void;
}

export async function serveBrokerKeys(): Promise<BrokerKeys> {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const jwk = { ...publicKey.export({ format: "jwk" }), kid: "test", alg: "EdDSA", use: "sig" };
  const body = JSON.stringify({ keys: [jwk] });
  const server = createServer((_request, response) => {
    response.writeHead(200, { "content-type": "application/json" }).end(body);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the key server has no port");
  return {
    url: `http://127.0.0.1:${address.port}/jwks.json`,
    privateKey: privateKey.export({ format: "pem", type: "pkcs8" }).toString(),
    close: () => void server.close(),
  };
}
