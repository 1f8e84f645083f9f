import { randomUUID } from "node:crypto";
import { uuidv7 } from "@muster/contracts/ids";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { expect } from "chai";
import { after, before, describe, it } from "mocha";
import { ScriptedAgent } from "./scripted-agent.ts";
import type { Grant } from "./scripted-agent.ts";
import { codeOf, setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

const { getAttempt, cancelCommand } = vmOpsRequests;

describe("an attempt that something is to be given to", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => (s = await setup()));
  after(() => s.close());

  interface Asked {
    readonly tenant_id: string;
    readonly agent_id: string;
    readonly command_id: string;
    readonly attempt: number;
    readonly token: string;
  }
  const askedBy = (agent: ScriptedAgent, { command_id, attempt, token }: Grant): Asked => ({
    ...{ tenant_id: agent.tenantId, agent_id: agent.agentId, command_id, attempt, token },
  });
  const ask = (asked: Asked) => s.ask(getAttempt, asked);

  async function running(params: Record<string, unknown> = {}) {
    const vm = await s.vm({ labels: { tier: "web" } });
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    const id = await s.exec(vm, {
      params: { program: "true", ...params },
      project_id: "shop",
      timeout_seconds: 30,
    });
    const nonce = randomUUID();
    const grant = await agent.granted(id, { nonce });
    return { vm, agent, id, nonce, grant, asked: askedBy(agent, grant) };
  }

  it("is told of with its VM, labels, project and references, and never longer than its timeout", async () => {
    const named = { env: { A: "secret://db#password@3", B: "plain" }, stdin: "secret://in" };
    const { vm, asked } = await running({ ...named, secrets: ["secret://more", "secret://in"] });
    const { references, left_ms, ...rest } = await ask(asked);
    expect(rest).to.deep.equal({
      ...{ vm_uuid: vm, vm_labels: { tier: "web" }, project_id: "shop", requested_by: "user:acme" },
    });
    expect(references).to.have.members(["secret://more", "secret://in", "secret://db#password@3"]);
    expect(left_ms).to.be.within(1, 30_000);
    expect((await ask(asked)).references, "asked again").to.deep.equal(references);
    expect((await ask((await running()).asked)).references).to.deep.equal([]);
  });

  it("is refused alike whoever asks for what is not his, with whatever token", async () => {
    const [own, another] = [await running(), await running()];
    const waiting = await s.exec(own.vm);
    const forged = `${own.asked.token.slice(0, -8)}AAAAAAAA`;
    const guesses: Partial<Asked>[] = [
      ...[{ tenant_id: "other" }, { agent_id: another.agent.agentId }, { agent_id: randomUUID() }],
      ...[{ command_id: another.id }, { command_id: uuidv7() }, { command_id: waiting }, { attempt: 2 }],
      ...[{ token: another.asked.token }, { token: forged }, { token: "x".repeat(64) }],
    ];
    for (const guess of guesses) {
      expect(await codeOf(ask({ ...own.asked, ...guess })), JSON.stringify(guess)).to.equal(
        "ATTEMPT_NOT_RUNNING",
      );
    }
    expect(await codeOf(ask(own.asked))).to.equal("none");
  });

  const ends: Record<string, (o: Awaited<ReturnType<typeof running>>) => Promise<unknown>> = {
    "it has ended": ({ agent, grant }) => agent.result(grant),
    "it is to be cancelled": ({ id }) => s.ask(cancelCommand, { command_id: id }),
    "its time is up": ({ id }) => s.sql("UPDATE commands SET run_until = now() WHERE id = $1", [id]),
    "its lease was judged lost": async ({ id }) => {
      const late = "lease_renewed_at = now() - interval '1 h', lease_expires_at = now() - interval '1 h'";
      await s.sql(`UPDATE commands SET ${late} WHERE id = $1`, [id]);
      await s.ask(vmOpsRequests.sweepCommands, {
        ...{ rules: ["lease_lost"], running_max_ms: 60_000, dispatched_max_ms: 15_000 },
        ...{ dispatch_max_requeues: 1, limit: 500, dry_run: false },
      });
    },
    "a newer attempt was granted": async ({ agent, id, nonce, grant }) => {
      await agent.result(grant, { outcome: "abandoned", reason: "abandoned", effect: "none" });
      await agent.granted(id, { attempt: 2, nonce });
    },
    "its claim is another one than the token's": ({ id }) =>
      s.sql("UPDATE commands SET claim_nonce = gen_random_uuid() WHERE id = $1", [id]),
    "its agent was revoked": ({ agent }) =>
      s.sql("UPDATE paired_agents SET state = 'revoked' WHERE agent_id = $1", [agent.agentId]),
    "its agent is paired for the VM no more": ({ agent }) =>
      s.sql("UPDATE paired_agents SET vm_uuids = ARRAY[$2::uuid] WHERE agent_id = $1", [
        ...[agent.agentId, uuidv7()],
      ]),
    "its VM is another agent's": ({ vm }) =>
      s.sql("UPDATE vms SET agent_id = gen_random_uuid() WHERE vm_uuid = $1", [vm]),
    "its VM is retired": ({ vm }) => s.ask(vmOpsRequests.retireVm, { vm_uuid: vm }),
    "its agent is quarantined": ({ agent }) =>
      s.sql(
        "UPDATE agent_sessions SET quarantined_at = now(), quarantine_reason = 'a clone' WHERE agent_id = $1",
        [agent.agentId],
      ),
  };
  for (const [what, end] of Object.entries(ends)) {
    it(`is told of no more when ${what}`, async () => {
      const one = await running();
      expect(await codeOf(ask(one.asked))).to.equal("none");
      await end(one);
      expect(await codeOf(ask(one.asked))).to.equal("ATTEMPT_NOT_RUNNING");
    });
  }

  it("is told of while its lease is late and nobody has judged it", async () => {
    const { id, asked } = await running();
    await s.sql("UPDATE commands SET lease_expires_at = now() - interval '1 s' WHERE id = $1", [id]);
    expect(await codeOf(ask(asked))).to.equal("none");
  });

  it("is read without a lock: whoever holds it, its VM and its agent is not waited for", async () => {
    const { vm, agent, id, asked } = await running();
    await s.database.transaction("system", async (tx) => {
      await tx.query("SELECT 1 FROM paired_agents WHERE agent_id = $1 FOR UPDATE", [agent.agentId]);
      await tx.query("SELECT 1 FROM vms WHERE vm_uuid = $1 FOR UPDATE", [vm]);
      await tx.query("SELECT 1 FROM commands WHERE id = $1 FOR UPDATE", [id]);
      expect(await codeOf(ask(asked))).to.equal("none");
    });
  });
});
