import { liveExchange } from "@muster/contracts/topology";
import type { OutputPage } from "@muster/contracts/commands";
import { vmOpsRequests } from "@muster/contracts/vm-ops";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import { emptyResult, ScriptedAgent } from "./scripted-agent.ts";
import type { Grant } from "./scripted-agent.ts";
import { setup } from "./setup.ts";
import type { Setup } from "./setup.ts";

const KiB = 1024;
const totals = { bytes_total: 0, bytes_kept: 0, truncated: false, sha256: "0".repeat(64) };

describe("output", function () {
  this.timeout(60_000);
  let s: Setup;
  before(async () => (s = await setup()));
  after(() => s.close());

  async function running(): Promise<{ agent: ScriptedAgent; grant: Grant; id: string }> {
    const vm = await s.vm();
    const agent = new ScriptedAgent(s, [vm]);
    await agent.hello();
    const grant = await agent.granted(await s.exec(vm));
    return { agent, grant, id: grant.command_id };
  }
  const page = (id: string, cursor?: string): Promise<OutputPage> =>
    s.ask(vmOpsRequests.readOutput, { command_id: id, ...(cursor === undefined ? {} : { cursor }) });
  const textOf = (chunks: OutputPage["chunks"], stream = "stdout"): string =>
    chunks
      .filter((chunk) => chunk.stream === stream)
      .map((chunk) => Buffer.from(chunk.data_base64, "base64").toString())
      .join("");

  it("is read from any position, both streams, before and after the end", async () => {
    const { agent, grant, id } = await running();
    await agent.output(grant, [
      { offset: 0, data: "hello " },
      { offset: 6, data: "world" },
      { stream: "stderr", offset: 0, data: "oops" },
    ]);
    const first = await page(id);
    expect([textOf(first.chunks), textOf(first.chunks, "stderr")]).to.deep.equal(["hello world", "oops"]);
    expect(first).to.include({ state: "running", complete: false, cursor: "11.4" });
    expect(textOf((await page(id, "3.4")).chunks)).to.equal("lo world");
    await agent.result(grant);
    // Output may come after the end, which does not wait for it.
    expect((await page(id, "11.4")).complete).to.equal(false);
    await agent.output(grant, [
      { offset: 11, data: "!", last: true },
      { stream: "stderr", offset: 4, data: "", last: true },
    ]);
    expect(await page(id, "11.4")).to.include({ state: "succeeded", complete: true, cursor: "12.4" });
  });

  it("is complete although its last bytes were never kept, and tells so by its cursor", async () => {
    const { agent, grant, id } = await running();
    await agent.output(grant, [
      { offset: 0, data: "kept" },
      { offset: 100, data: "", last: true },
      { stream: "stderr", offset: 7, data: "", last: true },
    ]);
    await agent.result(grant);
    const whole = await page(id);
    expect(textOf(whole.chunks)).to.equal("kept");
    expect(whole).to.include({ complete: true, cursor: "100.7" });
    expect(await page(id, "100.7")).to.include({ complete: true, cursor: "100.7" });
  });

  it("takes repeated and overlapping chunks once, and a jump as what the agent has cut", async () => {
    const { agent, grant, id } = await running();
    const offsets = async (offset: number, data: string) =>
      (await agent.output(grant, [{ offset, data }])).map(({ accepted, next_offset }) => [
        accepted,
        next_offset,
      ]);
    expect(await offsets(0, "abcd")).to.deep.equal([[true, 4]]);
    expect(await offsets(0, "abcd")).to.deep.equal([[true, 4]]);
    expect(await offsets(2, "cdef")).to.deep.equal([[true, 6]]);
    expect(await offsets(100, "tail")).to.deep.equal([[true, 104]]);
    const { chunks, cursor } = await page(id);
    expect(chunks.map(({ offset }) => offset)).to.deep.equal([0, 4, 100]);
    expect([textOf(chunks), cursor]).to.deep.equal(["abcdeftail", "104.0"]);
  });

  it("stores concurrent repetitions of the same chunks once", async () => {
    const { agent, grant, id } = await running();
    const chunks = Array.from({ length: 10 }, (_, n) => ({ offset: n * 3, data: `${100 + n}` }));
    await Promise.all(Array.from({ length: 5 }, () => agent.output(grant, chunks)));
    expect(textOf((await page(id)).chunks)).to.equal("100101102103104105106107108109");
  });

  it("keeps the first and the last MiB, and tells the gap by its offsets", async () => {
    const { agent, grant, id } = await running();
    const piece = Buffer.alloc(64 * KiB, "x");
    for (let n = 0; n < 80; n += 8) {
      const chunks = Array.from({ length: 8 }, (_, i) => ({ offset: (n + i) * piece.length, data: piece }));
      await agent.output(grant, chunks);
    }
    const seen: number[] = [];
    let cursor: string | undefined;
    for (;;) {
      const next = await page(id, cursor);
      if (next.chunks.length === 0) break;
      expect(next.chunks.reduce((sum, { data_base64 }) => sum + data_base64.length, 0)).to.be.most(500 * KiB);
      seen.push(...next.chunks.map(({ offset }) => offset / piece.length));
      cursor = next.cursor;
    }
    expect(cursor).to.equal(`${80 * piece.length}.0`);
    expect(seen.slice(0, 16)).to.deep.equal(Array.from({ length: 16 }, (_, n) => n));
    expect(seen.slice(-16)).to.deep.equal(Array.from({ length: 16 }, (_, n) => 64 + n));
    expect(seen.length).to.be.within(32, 40);
  });

  it("refuses output under a token that it never gave", async () => {
    const { agent, grant, id } = await running();
    const forged = { ...grant, token: `${grant.token.slice(0, -4)}AAAA` };
    expect(await agent.output(forged, [{ offset: 7, data: "x" }])).to.deep.include({
      ...{ command_id: id, attempt: 1, stream: "stdout", accepted: false, next_offset: 7 },
    });
    expect((await page(id)).chunks).to.deep.equal([]);
  });

  it("is complete at once for what never started, and when the result announces none", async () => {
    const vm = await s.vm();
    const id = await s.exec(vm);
    await s.ask(vmOpsRequests.cancelCommand, { command_id: id });
    expect(await page(id)).to.include({ state: "cancelled", complete: true });
    const silent = await running();
    await silent.agent.result(silent.grant, {
      result: { ...emptyResult, output: { stdout: totals, stderr: totals } },
    });
    expect(await page(silent.id)).to.include({ complete: true });
    const loud = await running();
    const some = { ...totals, bytes_total: 5, bytes_kept: 5 };
    await loud.agent.result(loud.grant, {
      result: { ...emptyResult, output: { stdout: some, stderr: totals } },
    });
    expect(await page(loud.id)).to.include({ complete: false });
  });

  it("wakes who watches a command on output and on every change of its state", async () => {
    const { agent, grant, id } = await running();
    let hints = 0;
    const watch = await s.broker.watch(liveExchange, (key) => {
      if (key === id) hints += 1;
    });
    await watch.bind(id);
    await agent.output(grant, [{ offset: 0, data: "x" }]);
    await eventually(() => hints >= 1);
    const before = hints;
    await agent.result(grant);
    await eventually(() => hints > before);
    await watch.close();
  });
});
