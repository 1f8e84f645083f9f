import { once } from "node:events";
import { createServer } from "node:http";
import type { ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { IssuerAlgorithm } from "@muster/contracts/issuers";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import type { CryptoKey, JWK } from "jose";

/** What the server does with whoever asks for its keys. */
export type Mood =
  | "well"
  | "away"
  | "silent"
  | "failing"
  | "garbage"
  | "no-keys"
  | "huge"
  | "endless"
  | "redirecting"
  | "compressed";

export interface OutsideKey {
  readonly kid: string;
  readonly alg: IssuerAlgorithm;
  readonly privateKey: CryptoKey;
  readonly publicKey: CryptoKey;
  readonly jwk: JWK;
}

export async function outsideKey(
  kid: string,
  alg: IssuerAlgorithm,
  o: { unnamed?: boolean } = {},
): Promise<OutsideKey> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  const more = o.unnamed === true ? {} : { alg };
  return {
    kid,
    alg,
    privateKey,
    publicKey,
    jwk: { ...(await exportJWK(publicKey)), kid, use: "sig", ...more },
  };
}

const answers: Record<Exclude<Mood, "well" | "away" | "silent">, (response: ServerResponse) => void> = {
  failing: (response) => response.writeHead(500).end("{}"),
  garbage: (response) => response.end("<html>maintenance</html>"),
  "no-keys": (response) => response.end('{"keys":"none"}'),
  huge: (response) => response.end(JSON.stringify({ keys: [], more: "x".repeat(300_000) })),
  endless: (response) => {
    const more = () => {
      while (!response.destroyed && response.write("x".repeat(65_536)));
    };
    response.on("drain", more);
    more();
  },
  redirecting: (response) => response.writeHead(302, { location: "/moved" }).end(),
  compressed: (response) => response.writeHead(200, { "content-encoding": "gzip" }).end("{}"),
};

/** An issuer of tokens of another make, by HTTP on this machine: discovery and keys. */
export async function openOutside(path = "") {
  const state = {
    mood: "well" as Mood,
    keys: [] as JWK[],
    /** Of the key set. */
    fetches: 0,
    /** Of whatever a redirect or a token's header led to. */
    strays: 0,
    /** What discovery says instead. */
    discovered: {} as Record<string, unknown>,
  };
  const server = createServer((request, response) => {
    if (state.mood === "away") return void response.destroy();
    if (request.url === `${path}/.well-known/openid-configuration`) {
      return void response.end(JSON.stringify({ issuer, jwks_uri: `${issuer}/keys`, ...state.discovered }));
    }
    if (request.url !== `${path}/keys`) {
      state.strays += 1;
      return void response.end(JSON.stringify({ keys: state.keys }));
    }
    state.fetches += 1;
    if (state.mood === "silent") return;
    if (state.mood === "well") return void response.end(JSON.stringify({ keys: state.keys }));
    answers[state.mood](response);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`;
  return {
    state,
    issuer,
    /** A token by this key, whatever its claims and header. */
    sign(key: OutsideKey, claims: Record<string, unknown>, header: Record<string, unknown> = {}) {
      const protectedHeader = { alg: key.alg, kid: key.kid, typ: "JWT", ...header };
      return new SignJWT({ iss: issuer, ...claims }).setProtectedHeader(protectedHeader).sign(key.privateKey);
    },
    async publish(...keys: OutsideKey[]) {
      state.keys = keys.map(({ jwk }) => jwk);
    },
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}
export type Outside = Awaited<ReturnType<typeof openOutside>>;
