import { createHash, generateKeyPairSync, sign } from "node:crypto";
import type { Client } from "@muster/client/client";
import { pairingAudience } from "@muster/contracts/pairing";
import { runToEnd } from "../processes.ts";

export interface Wanted {
  readonly agentId: string;
  readonly vmUuids: readonly string[];
}

export async function newPairingCode(client: Client, { agentId, vmUuids }: Wanted): Promise<string> {
  const { data } = await client.createPairingCode({ body: { agent_id: agentId, vm_uuids: [...vmUuids] } });
  if (data.code === null) throw new Error("no code was made");
  return data.code;
}

/** Pairs an agent that will log in at the broker with a password: nobody keeps its key. Answers its epoch. */
export async function pairWithoutKey(client: Client, wanted: Wanted): Promise<number> {
  const code = await newPairingCode(client, wanted);
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const { x = "" } = publicKey.export({ format: "jwk" });
  const sub = createHash("sha256").update(code).digest("hex");
  const text = [{ alg: "EdDSA" }, { aud: pairingAudience, sub, iat: Math.floor(Date.now() / 1_000) }]
    .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
    .join(".");
  const proof = `${text}.${sign(null, Buffer.from(text), privateKey).toString("base64url")}`;
  const { data } = await client.pairAgent({
    body: { code, public_key: { kty: "OKP", crv: "Ed25519", x }, proof },
  });
  return data.agent.epoch;
}

/** As an operator does it on the agent's host. Throws with what the program said where it failed. */
export async function pairByProgram(o: { gatewayUrl: string; code: string; home: string }): Promise<string> {
  return await runToEnd({
    name: "muster-agent pair",
    entry: "agent/dist/src/identity/main.js",
    args: ["--gateway", o.gatewayUrl, "--code", o.code, "--home", o.home],
    env: {},
  });
}
