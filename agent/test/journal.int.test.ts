import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { uuidv7 } from "@muster/contracts/ids";
import { eventually } from "@muster/testing/eventually";
import { DatabaseSync } from "@photostructure/sqlite";
import { expect } from "chai";
import { HomeInUse, openHome } from "../src/journal/home.ts";
import { Journal } from "../src/journal/journal.ts";
import { JournalCorrupt } from "../src/journal/tables.ts";
import { spawnSide, temporaryHome } from "./agent-side.ts";

const bell = { vm_uuid: uuidv7(), epoch: 1, lane: "work", action: "exec", correlation_id: "c" } as const;

async function setup() {
  const { home, remove } = await temporaryHome();
  return { home, remove, key: { commandId: uuidv7(), attempt: 1 } };
}

const isId = (line: string): boolean => line.length === 36;

describe("the agent's journal", () => {
  it("holds every acknowledged record, and no gap in its numbers, however often its writer is killed", async () => {
    const { home, remove } = await setup();
    const acknowledged: string[] = [];
    let head = 0;
    for (let round = 0; round < 5; round++) {
      const writer = spawnSide("journal-writer", [home]);
      const wanted = 20 + Math.floor(Math.random() * 300);
      await eventually(() => expect(writer.lines.filter(isId).length).to.be.at.least(wanted), 15_000);
      await writer.crash();
      acknowledged.push(...writer.lines.filter(isId));
      const lock = openHome(home);
      const journal = Journal.open(home);
      expect(journal.afterCrash).to.equal(true);
      expect(journal.head).to.be.greaterThan(head);
      head = journal.head;
      for (const commandId of acknowledged)
        expect(journal.find({ commandId, attempt: 1 })?.state).to.equal("received");
      expect(journal.open()).to.have.length(head - round);
      await journal.close();
      await lock.close();
    }
    await remove();
  }).timeout(60_000);

  it("lets one agent at a time use a home, and frees it when that agent dies", async () => {
    const { home, remove } = await setup();
    const first = spawnSide("journal-writer", [home]);
    await eventually(() => expect(first.lines.length).to.be.greaterThan(0), 10_000);
    expect(() => openHome(home)).to.throw(HomeInUse, home);
    await first.crash();
    await openHome(home).close();
    await remove();
  }).timeout(20_000);

  it("says that it cannot be written when its disk is full, keeps what was acknowledged, and recovers by itself", async () => {
    const { home, remove } = await setup();
    const writer = spawnSide("journal-writer", [home], 262_144);
    await eventually(() => expect(writer.lines).to.include("unwritable"), 20_000);
    execFileSync("prlimit", [`--pid=${writer.child.pid}`, "--fsize=unlimited:unlimited"]);
    await eventually(() => expect(writer.lines).to.include("writable"), 20_000);
    const before = writer.lines.length;
    await eventually(() => expect(writer.lines.length).to.be.greaterThan(before + 40), 20_000);
    await writer.crash();
    const journal = Journal.open(home);
    for (const commandId of writer.lines.filter(isId)) {
      expect(journal.find({ commandId, attempt: 1 })?.state).to.equal("received");
    }
    await journal.close();
    await remove();
  }).timeout(60_000);

  it("takes up one of the version before: what had not started keeps its nonce, or has one now", async () => {
    const { home, remove } = await setup();
    const [claiming, received] = [uuidv7(), uuidv7()];
    const asked = uuidv7();
    const first = Journal.open(home);
    for (const commandId of [claiming, received]) {
      await first.write({ kind: "received", key: { commandId, attempt: 1 }, bell, nonce: asked });
    }
    await first.close();
    const old = new DatabaseSync(join(home, "journal.db"));
    old.prepare("UPDATE attempts SET state = 'claiming' WHERE command_id = ?").run(claiming);
    old.prepare("UPDATE attempts SET nonce = NULL WHERE command_id = ?").run(received);
    old.exec("UPDATE journal SET version = 1");
    old.close();
    await Journal.open(home).close();
    const journal = Journal.open(home);
    const rows = new Map(journal.open().map((row) => [row.command_id, row]));
    expect(rows.get(claiming)).to.include({ state: "received", nonce: asked });
    expect(rows.get(received)?.state).to.equal("received");
    const made = rows.get(received)?.nonce;
    expect(made).to.match(/^[0-9a-f-]{36}$/);
    expect(journal.find({ commandId: received, attempt: 1 })?.nonce, "it stays the same").to.equal(made);
    await journal.close();
    await remove();
  });

  it("refuses a file that is not sound", async () => {
    const { home, remove } = await setup();
    writeFileSync(join(home, "journal.db"), Buffer.alloc(8_192, "no journal "));
    expect(() => Journal.open(home)).to.throw(JournalCorrupt);
    await remove();
  });

  it("counts starts, and a second start of one attempt as a double start", async () => {
    const { home, remove, key } = await setup();
    const journal = Journal.open(home);
    await journal.write({ kind: "received", key, bell, nonce: uuidv7() });
    await journal.write({ kind: "starting", key, fields: { token: "t" } });
    expect(journal.counts).to.deep.equal({ starts: 1, doubleStarts: 0 });
    await journal.write({ kind: "starting", key });
    await journal.close();
    const again = Journal.open(home);
    expect(again.counts).to.deep.equal({ starts: 2, doubleStarts: 1 });
    expect(again.afterCrash).to.equal(false);
    expect(again.find(key)?.token).to.equal("t");
    await again.close();
    await remove();
  });

  it("keeps its id, and numbers that only grow, across sessions", async () => {
    const { home, remove } = await setup();
    const journal = Journal.open(home);
    await journal.write({ kind: "session", generation: 7 });
    const { id, head } = journal;
    await journal.close();
    const again = Journal.open(home);
    expect(again).to.include({ id, lastGeneration: 7 });
    expect(again.head).to.be.greaterThan(head);
    await again.close();
    await remove();
  });
});
