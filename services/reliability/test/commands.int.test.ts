import { vmQueue } from "@muster/contracts/topology";
import { randomUUID } from "node:crypto";
import { prepareDoorbell } from "@muster/broker/prepare";
import { vmCommandDoorbell } from "@muster/contracts/agents";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { reliabilityRequests } from "@muster/contracts/reliability";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import {
  asking,
  inSystem,
  madeFrom,
  openPeer,
  setupGround,
  startReliability,
  closeAfterEachTest,
} from "./setup.ts";
import { deadLetteredEvent, openVmOpsPeer, replayedEvent } from "./vm-ops-peer.ts";

closeAfterEachTest();

const { getDeadLetter, replayDeadLetter } = reliabilityRequests;

async function setup() {
  const ground = await setupGround();
  const service = await startReliability(ground);
  const gateway = await openPeer(ground, "gateway");
  const vmOps = await openVmOpsPeer(ground);
  const about = { tenantId: "acme", commandId: uuidv7(), vmUuid: randomUUID() };
  const event = deadLetteredEvent(about);
  // The same event twice: one row.
  for (let i = 0; i < 2; i++) expect((await vmOps.broker.publish(event)).kind).to.equal("routed");
  const { id } = await eventually(
    async () => (await inSystem<{ id: string }>(service.database, "SELECT id FROM dead_letters"))[0],
  );
  return {
    ground,
    service,
    gateway,
    ...vmOps,
    about,
    id,
    me: asking(ground, "acme", "admin", "user:me"),
  };
}

describe("dead-lettered commands", () => {
  it("are written down once and put back by vm-ops in the caller's name", async () => {
    const { service, gateway, script, about, id, me } = await setup();
    script.replay = async ({ command_id }) => ({ command_id, attempt: 4, state: "queued" });
    const outcome = await gateway.request(replayDeadLetter, { dead_letter_id: id }, me);
    expect(outcome).to.include({ kind: "command", state: "replayed" });
    expect(script.replayed).to.deep.equal([
      // What is revoked of the caller's own token is revoked of what reliability says of him.
      { command_id: about.commandId, dead_letter_id: id, by: "user:me", origin: madeFrom },
    ]);
    const detail = await gateway.request(getDeadLetter, { dead_letter_id: id }, me);
    expect(detail.audit.map(({ action }) => action)).to.deep.equal([
      "recorded",
      "replay_requested",
      "replayed",
    ]);
    expect(await inSystem(service.database, "SELECT 1 FROM dead_letters")).to.have.length(1);
  });

  it("are settled by vm-ops's event when its answer is lost, and never replayed twice", async () => {
    const { service, gateway, broker, script, about, id, me } = await setup();
    script.replay = () => Promise.reject(new MusterError("DEADLINE_EXCEEDED"));
    const lost = await gateway
      .request(replayDeadLetter, { dead_letter_id: id }, me)
      .catch((error: unknown) => error);
    expect(lost).to.be.instanceOf(MusterError).and.to.include({ code: "DEADLINE_EXCEEDED" });
    script.replay = () => Promise.reject(new MusterError("NOT_REPLAYABLE"));
    const again = await gateway
      .request(replayDeadLetter, { dead_letter_id: id }, me)
      .catch((error: unknown) => error);
    expect(again).to.be.instanceOf(MusterError).and.to.include({ code: "NOT_REPLAYABLE" });
    expect(Reflect.get(again as object, "message")).to.match(/may have succeeded/);
    await broker.publish(replayedEvent({ ...about, deadLetterId: id }));
    const row = await eventually(async () => {
      const detail = await gateway.request(getDeadLetter, { dead_letter_id: id }, me);
      return detail.state === "replayed" && detail;
    });
    expect(row.settled_by).to.equal("user:me");
    await inSystem(service.database, "SELECT 1");
  });

  it("stay open when vm-ops refuses, with the refusal in the audit", async () => {
    const { gateway, script, id, me } = await setup();
    script.replay = () => Promise.reject(new MusterError("VM_RETIRED"));
    const refused = await gateway
      .request(replayDeadLetter, { dead_letter_id: id }, me)
      .catch((error: unknown) => error);
    expect(refused).to.be.instanceOf(MusterError).and.to.include({ code: "NOT_REPLAYABLE" });
    const detail = await gateway.request(getDeadLetter, { dead_letter_id: id }, me);
    expect(detail.state).to.equal("open");
    expect(detail.audit.at(-1)).to.include({ action: "replay_refused", note: "VM_RETIRED" });
  });

  it("go back once when two operators ask at the same time, and again after a mark that nobody ended", async () => {
    const { service, gateway, script, id, me } = await setup();
    const answer = { attempt: 4, state: "queued" as const };
    let answerNow: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (answerNow = resolve));
    script.replay = async ({ command_id }) => (await held, { command_id, ...answer });
    const first = gateway.request(replayDeadLetter, { dead_letter_id: id }, me);
    await eventually(() => script.replayed.length === 1);
    const second = await gateway
      .request(replayDeadLetter, { dead_letter_id: id }, me)
      .catch((error: unknown) => error);
    expect(second).to.be.instanceOf(MusterError).and.to.include({ code: "NOT_REPLAYABLE" });
    answerNow();
    expect((await first).state).to.equal("replayed");
    // As a process leaves it that dies between the mark and vm-ops's answer.
    await inSystem(
      service.database,
      `UPDATE dead_letters SET state = 'open', settled_at = NULL, settled_by = NULL, settle_reason = NULL,
         replaying_by = 'user:gone', replaying_until = now() - interval '1 second'`,
    );
    expect((await gateway.request(replayDeadLetter, { dead_letter_id: id }, me)).state).to.equal("replayed");
    expect(script.replayed).to.have.length(2);
  });

  it("have doorbells that go back by vm-ops, or are rung again when the command has gone on", async () => {
    const { gateway, broker, script, about, me } = await setup();
    const queue = vmQueue(about.tenantId, about.vmUuid);
    await broker.ensureVmQueue(queue);
    const rung: string[] = [];
    const agent = await broker.consume(queue, { prefetch: 1 }, (delivery) => {
      if (rung.push(delivery.messageId ?? "") < 2) delivery.reject(false);
      else delivery.ack();
    });
    const payload = {
      kind: "run" as const,
      command_id: about.commandId,
      vm_uuid: about.vmUuid,
      attempt: 1,
      epoch: 1,
      lane: "work" as const,
      action: "exec" as const,
      payload_sha256: "0".repeat(64),
      start_within_ms: 60_000,
      correlation_id: "c-1",
    };
    const context = { correlationId: "c-1" };
    await broker.publish(prepareDoorbell(vmCommandDoorbell, payload, { context, tenantId: "acme", queue }));
    const letter = await eventually(async () => {
      const filter = { kind: "message" as const, vm_uuid: about.vmUuid };
      const list = await gateway.request(reliabilityRequests.listDeadLetters, { filter, limit: 1 }, me);
      return list.items[0];
    });
    expect(letter.command_id).to.equal(about.commandId);
    script.replay = () => Promise.reject(new MusterError("NOT_REPLAYABLE"));
    const outcome = await gateway.request(replayDeadLetter, { dead_letter_id: letter.id }, me);
    expect(outcome).to.include({ kind: "message", replayed_to: queue });
    await eventually(() => rung.length === 2);
    expect(rung[1]).to.equal(rung[0]);
    expect(script.replayed.map((asked) => asked.dead_letter_id)).to.deep.equal([letter.id]);
    await agent.close();
  });

  it("leave their audit to nobody's hand", async () => {
    const { service } = await setup();
    for (const change of ["UPDATE dead_letter_audit SET note = ''", "DELETE FROM dead_letter_audit"]) {
      const refused = await inSystem(service.database, change).catch((error: unknown) => error);
      expect(String(refused)).to.match(/only ever added to/);
    }
  });
});
