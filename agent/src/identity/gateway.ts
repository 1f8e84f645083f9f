import { randomUUID, type KeyObject } from "node:crypto";
import { errorCode, MusterError } from "@muster/contracts/errors";
import {
  agentTokens,
  assertionAudience,
  assertionSecondsMax,
  pairedAgent,
  pairingAudience,
} from "@muster/contracts/pairing";
import { z } from "zod";
import { publicKeyOf } from "./identity.ts";
import { signed } from "./jws.ts";

const timeoutMs = 15_000;
/** Beyond this the host's clock is taken to be wrong, and the gateway's to be right. */
const clockOffMs = 20_000;

const failure = z.object({
  error: z.object({
    code: errorCode,
    message: z.string(),
    retry_after_ms: z.number().optional(),
  }),
});
const paired = z.object({ data: pairedAgent });
const issued = z.object({
  data: z.object({
    access_token: z.string(),
    expires_in_seconds: z.number().positive(),
    agent: agentTokens.pick({ epoch: true, vm_uuids: true, login_token: true, broker_url: true }),
  }),
});
export type Issued = z.output<typeof issued>["data"];

/**
 * What an agent asks of the gateway over HTTP. A host whose clock is wrong is no stranger: what it signs is dated by the
 * gateway's clock, which each answer carries. Every call throws MusterError.
 */
export class GatewayDoor {
  readonly #url: string;
  #aheadMs = 0;

  constructor(url: string) {
    this.#url = url.replace(/\/+$/, "");
  }

  /** PAIRING_CODE_INVALID, RATE_LIMITED; anything else says that it could not be asked. */
  async pair(code: string, codeSha256: string, key: KeyObject): Promise<z.output<typeof pairedAgent>> {
    const body = () => ({
      ...{ code, public_key: publicKeyOf(key) },
      proof: signed({ aud: pairingAudience, sub: codeSha256, iat: this.#now() }, key),
    });
    return (await this.#ask("/api/v1/agents/pair", body, "PAIRING_CODE_INVALID", paired)).data;
  }

  /** INVALID_GRANT: the agent was revoked, or paired anew with another key. RATE_LIMITED. */
  async tokens(agentId: string, key: KeyObject): Promise<Issued> {
    const body = () => {
      const iat = this.#now();
      const claims = { aud: assertionAudience, iss: agentId, sub: agentId, iat, jti: randomUUID() };
      return {
        grant_type: "urn:ietf:params:oauth:grant-type:jwt-bearer",
        assertion: signed({ ...claims, exp: iat + assertionSecondsMax / 2 }, key),
      };
    };
    return (await this.#ask("/api/v1/auth/token", body, "INVALID_GRANT", issued)).data;
  }

  #now(): number {
    return Math.floor((Date.now() + this.#aheadMs) / 1_000);
  }

  /** Once more where it was refused with `dated` and our clock differs from the gateway's. */
  async #ask<S extends z.ZodType>(
    path: string,
    body: () => unknown,
    dated: string,
    schema: S,
  ): Promise<z.output<S>> {
    const before = this.#aheadMs;
    try {
      return await this.#send(path, body(), schema);
    } catch (error) {
      const off = Math.abs(this.#aheadMs - before) > clockOffMs;
      if (!(error instanceof MusterError) || error.code !== dated || !off) throw error;
      return await this.#send(path, body(), schema);
    }
  }

  async #send<S extends z.ZodType>(path: string, body: unknown, schema: S): Promise<z.output<S>> {
    let response: Response;
    let answer: unknown;
    try {
      response = await fetch(`${this.#url}${path}`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
        redirect: "error",
        signal: AbortSignal.timeout(timeoutMs),
      });
      answer = await response.json();
    } catch (cause) {
      const text = `the gateway at ${this.#url} cannot be reached`;
      throw new MusterError("DEPENDENCY_UNAVAILABLE", text, { cause });
    }
    const theirs = Date.parse(response.headers.get("date") ?? "");
    if (!Number.isNaN(theirs)) this.#aheadMs = theirs - Date.now();
    const refused = failure.safeParse(answer).data?.error;
    if (refused !== undefined) {
      const { code, message, retry_after_ms: retryAfterMs } = refused;
      throw new MusterError(code, message, { retryAfterMs });
    }
    const read = schema.safeParse(answer);
    if (read.success) return read.data;
    const text = `${this.#url} does not answer as a gateway does (HTTP ${response.status})`;
    throw new MusterError("DEPENDENCY_UNAVAILABLE", text, { cause: read.error });
  }
}
