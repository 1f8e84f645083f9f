import { randomUUID, sign, type KeyObject } from "node:crypto";
import { MusterError } from "@muster/contracts/errors";
import { agentResolve, resolvedSecrets, resolveProofText } from "@muster/contracts/secret-reports";
import { sealedFor } from "@muster/contracts/secrets";
import type { ResolvedSecrets } from "@muster/contracts/secret-reports";
import { fullJitterMs, pause } from "@muster/broker/waiting";
import { makeBoxKey, NotOpened, open, type BoxKey } from "@muster/sealing/box";
import type { Logger } from "@muster/telemetry/logger";
import type { Transport } from "../transport/transport.ts";

const backoff = { baseMs: 250, maxMs: 5_000 } as const;

export interface SecretsOptions {
  readonly transport: Pick<Transport, "report">;
  readonly tenantId: string;
  readonly agentId: string;
  /** By which the agent was paired (Ed25519); without it nobody gives it a secret. */
  readonly key: KeyObject | undefined;
  /** How long one command may wait for those who cannot answer now. */
  readonly waitMs: number;
}

/** An attempt that was granted to this agent, and what its params name. */
export interface Question {
  readonly commandId: string;
  readonly attempt: number;
  /** The fencing token of the grant. */
  readonly token: string;
  readonly references: readonly string[];
}

/** `untilMs`: by the monotonic clock, when the lease ends. `code`: what an answer was, for the metrics. */
export type Answer =
  | { readonly kind: "given"; readonly secrets: ResolvedSecrets; readonly untilMs: number }
  | { readonly kind: "refused"; readonly code: string; readonly error: string }
  /** Nobody could answer in time. */
  | { readonly kind: "unavailable"; readonly code: string }
  | { readonly kind: "stopped" };

/**
 * Asks for the secrets of one attempt. One question has one nonce and one key, made for it, however often it is sent: an answer that
 * was lost can be had again, and nobody else can have it.
 */
export class Secrets {
  readonly #o: SecretsOptions;

  constructor(o: SecretsOptions) {
    this.#o = o;
  }

  /** Never rejects. Waits as long as it may, `withinMs` at most, or until `signal` is aborted. */
  async resolve(
    question: Question,
    o: { readonly withinMs: number; readonly signal: AbortSignal; readonly logger: Logger },
  ): Promise<Answer> {
    const { key, waitMs } = this.#o;
    const named = question.references.join(", ");
    const refused = (code: string, why: string): Answer => ({
      ...{ kind: "refused", code, error: `${code}: ${why} Asked for: ${named}` },
    });
    if (key === undefined) {
      return refused("AGENT_KEY_UNKNOWN", "this agent has no identity key; pair it with a code.");
    }
    const boxKey = makeBoxKey();
    const payload = this.#payload(question, key, boxKey);
    const endMs = performance.now() + Math.min(waitMs, o.withinMs);
    for (let failures = 0; ;) {
      const sentAtMs = performance.now();
      let failure: MusterError;
      try {
        const timeoutMs = Math.max(1, Math.min(agentResolve.timeoutMs, endMs - sentAtMs));
        const options = { timeoutMs, signal: o.signal };
        const reply = await this.#o.transport.report(agentResolve, payload, options);
        const secrets = await this.#read(reply.sealed, question, boxKey);
        if (secrets === undefined) return refused("CONTRACT_VIOLATION", "the answer cannot be read.");
        return { kind: "given", secrets, untilMs: sentAtMs + reply.lease_ms };
      } catch (error) {
        if (o.signal.aborted) return { kind: "stopped" };
        failure =
          error instanceof MusterError ? error : new MusterError("INTERNAL", undefined, { cause: error });
      }
      if (!failure.retriable) return refused(failure.code, textOf(failure));
      const waitMs = Math.max(
        failure.retryAfterMs ?? 0,
        fullJitterMs(++failures, backoff.baseMs, backoff.maxMs),
      );
      if (performance.now() + waitMs >= endMs) return { kind: "unavailable", code: failure.code };
      o.logger.info({ code: failure.code }, "its secrets cannot be had now; they are asked for again");
      await pause(waitMs, o.signal);
      if (o.signal.aborted) return { kind: "stopped" };
    }
  }

  #payload({ commandId, attempt, token, references }: Question, key: KeyObject, { x }: BoxKey) {
    const { tenantId: tenant, agentId } = this.#o;
    const nonce = randomUUID();
    const proof = sign(
      null,
      Buffer.from(resolveProofText({ tenant, agentId, commandId, attempt, nonce, x })),
      key,
    ).toString("base64url");
    return { command_id: commandId, attempt, token, nonce, references: [...references], x, proof };
  }

  /** Undefined for what is no box for us about this attempt, or does not hold what was asked for. */
  async #read(
    sealed: string,
    { commandId, attempt, references }: Question,
    key: BoxKey,
  ): Promise<ResolvedSecrets | undefined> {
    const { tenantId: tenant, agentId } = this.#o;
    let plain: Uint8Array | undefined;
    try {
      plain = await open(sealed, {
        key,
        about: sealedFor.attempt({ tenant, agentId, commandId, attempt }),
      });
      const read = resolvedSecrets.safeParse(JSON.parse(Buffer.from(plain).toString("utf8")));
      if (!read.success || read.data.length !== references.length) return undefined;
      return read.data.every(({ reference }, at) => reference === references[at]) ? read.data : undefined;
    } catch (error) {
      // Whatever it is, its text may hold a part of what was sealed.
      if (error instanceof NotOpened || error instanceof SyntaxError) return undefined;
      throw error;
    } finally {
      plain?.fill(0);
    }
  }
}

function textOf({ message, details }: MusterError): string {
  return [message, ...details.map(({ path, message: text }) => `${path}: ${text}.`)].join(" ");
}
