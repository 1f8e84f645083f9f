import { randomUUID } from "node:crypto";
import type { Broker } from "@muster/broker/broker";
import { agentClaim, agentHello, agentOutput, agentReport } from "@muster/contracts/agents";
import type { ActionName } from "@muster/contracts/actions";
import { actionNames } from "@muster/contracts/actions";
import type { CommandResult } from "@muster/contracts/commands";
import type { PayloadInputOf, ReplyOf } from "@muster/contracts/define";
import { agentLoginName } from "@muster/contracts/senders";
import { uuidv7 } from "@muster/contracts/ids";
import type { Setup } from "./setup.ts";

type Hello = PayloadInputOf<typeof agentHello>;
type Result = Extract<PayloadInputOf<typeof agentReport>["items"][number], { type: "result" }>;
type ClaimOutcome = ReplyOf<typeof agentClaim>["outcomes"][number];
export type Grant = Extract<ClaimOutcome, { outcome: "granted" }>;

export const emptyResult: CommandResult = {
  ...{ exit_code: 0, signal: null, run_ms: 5, error: null, output: null, data: null },
};

/** An agent that does exactly what a test tells it to. */
export class ScriptedAgent {
  readonly #s: Setup;
  readonly tenantId: string;
  readonly agentId: string;
  readonly vms: string[];
  /** False: the test tells of its pairing itself. */
  pairs = true;
  #paired = false;
  session = { generation: 0, session_id: uuidv7() };
  journalId = uuidv7();
  journalSeq = 0;
  lastGeneration = 0;
  actions: ActionName[] = [...actionNames];

  constructor(s: Setup, vms: string[], o: { tenantId?: string; agentId?: string } = {}) {
    this.#s = s;
    this.vms = vms;
    this.tenantId = o.tenantId ?? "acme";
    this.agentId = o.agentId ?? uuidv7();
  }

  /** Of the pairing by which it logs in. */
  epoch = 1;

  #broker(): Promise<Broker> {
    return this.#s.peer(agentLoginName(this.agentId, { epoch: this.epoch }));
  }

  #from() {
    return { tenantId: this.tenantId, agentId: this.agentId };
  }

  /** As auth tells of it: paired for these VMs, with this epoch. */
  async pair(o: { vms?: readonly string[] } = {}): Promise<void> {
    await this.#s.sql(
      `INSERT INTO paired_agents AS p (tenant_id, agent_id, revision, state, epoch, vm_uuids)
       VALUES ($1, $2, 1, 'paired', $3, $4) ON CONFLICT (tenant_id, agent_id) DO UPDATE
       SET revision = p.revision + 1, epoch = excluded.epoch, vm_uuids = excluded.vm_uuids`,
      [this.tenantId, this.agentId, this.epoch, o.vms ?? this.vms],
    );
    this.#paired = true;
  }

  async hello(change: Partial<Hello> = {}): Promise<ReplyOf<typeof agentHello>> {
    const { vm_uuids: named = [] } = change;
    if (this.pairs && (!this.#paired || named.length > 0))
      await this.pair({ vms: [...new Set([...this.vms, ...named])] });
    const reply = await (
      await this.#broker()
    ).report(
      agentHello,
      {
        ...{ session_id: this.session.session_id, version: "1.0.0", boot_id: "boot", open: [] },
        ...{ journal_id: this.journalId, journal_seq: this.journalSeq, last_generation: this.lastGeneration },
        ...{ vm_uuids: this.vms, drivers: [{ name: "process", actions: this.actions }], ...change },
      },
      this.#from(),
      { correlationId: uuidv7() },
    );
    this.session = { generation: reply.generation, session_id: change.session_id ?? this.session.session_id };
    this.lastGeneration = reply.generation;
    this.journalSeq += 1;
    return reply;
  }

  /** As a new process of the same agent. */
  async restart(): Promise<ReplyOf<typeof agentHello>> {
    this.session = { generation: this.session.generation, session_id: uuidv7() };
    return this.hello();
  }

  async claims(
    claims: readonly { id: string; vm?: string; attempt?: number; epoch?: number; nonce?: string }[],
  ): Promise<ClaimOutcome[]> {
    const reply = await (
      await this.#broker()
    ).report(
      agentClaim,
      {
        session: this.session,
        claims: claims.map(({ id, vm, attempt = 1, epoch = 1, nonce = randomUUID() }) => ({
          ...{ command_id: id, vm_uuid: vm ?? this.vms[0] ?? "", attempt, epoch, nonce },
        })),
      },
      this.#from(),
      { correlationId: uuidv7() },
    );
    return reply.outcomes;
  }

  /** `granted`, or why not. */
  async claim(
    id: string,
    o: { vm?: string; attempt?: number; epoch?: number; nonce?: string } = {},
  ): Promise<string> {
    const [outcome] = await this.claims([{ id, ...o }]);
    return outcome?.outcome === "denied" ? outcome.reason : (outcome?.outcome ?? "no answer");
  }

  async granted(id: string, o: { vm?: string; attempt?: number; nonce?: string } = {}): Promise<Grant> {
    const [outcome] = await this.claims([{ id, ...o }]);
    if (outcome?.outcome !== "granted") throw new Error(`not granted: ${JSON.stringify(outcome)}`);
    return outcome;
  }

  async report(
    items: PayloadInputOf<typeof agentReport>["items"],
  ): Promise<ReplyOf<typeof agentReport>["items"]> {
    const payload = { session: this.session, items };
    return (
      await (await this.#broker()).report(agentReport, payload, this.#from(), { correlationId: uuidv7() })
    ).items;
  }

  /** How the result was stored, or that it was refused. */
  async result(grant: Grant, change: Partial<Result> = {}): Promise<string> {
    const { command_id, attempt, token } = grant;
    const [answer] = await this.report([
      {
        ...{ type: "result", command_id, attempt, token, outcome: "succeeded", reason: "completed" },
        ...{ effect: "applied", result: emptyResult, ...change },
      },
    ]);
    return answer?.outcome === "stored" ? answer.as : (answer?.outcome ?? "no answer");
  }

  async progress(grant: Grant): Promise<ReplyOf<typeof agentReport>["items"][number] | undefined> {
    const { command_id, attempt, token } = grant;
    return (await this.report([{ type: "progress", command_id, attempt, token }]))[0];
  }

  async output(
    grant: Grant,
    chunks: readonly {
      stream?: "stdout" | "stderr";
      offset: number;
      data: Buffer | string;
      last?: boolean;
    }[],
  ): Promise<ReplyOf<typeof agentOutput>["items"]> {
    const { command_id, attempt, token } = grant;
    const payload = {
      session: this.session,
      chunks: chunks.map(({ stream = "stdout", offset, data, last = false }) => ({
        ...{ command_id, attempt, token, stream, offset, last },
        data_base64: Buffer.from(data).toString("base64"),
      })),
    };
    return (
      await (await this.#broker()).report(agentOutput, payload, this.#from(), { correlationId: uuidv7() })
    ).items;
  }
}
