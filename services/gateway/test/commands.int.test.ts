import { createClient } from "@muster/client/client";
import { MusterError } from "@muster/contracts/errors";
import { uuidv7 } from "@muster/contracts/ids";
import { liveExchange } from "@muster/contracts/topology";
import { eventually } from "@muster/testing/eventually";
import { expect } from "chai";
import fc from "fast-check";
import type { FollowedEvent } from "@muster/client/follow";
import { serveVmOps } from "./peers.ts";
import type { Live } from "./peers.ts";
import { setup } from "./setup.ts";

const command = { vm_uuid: uuidv7(), action: "exec", params: { program: "true" } } as const;

async function setupVmOps(env: Record<string, string> = {}) {
  const s = await setup({ env });
  const commands = new Map<string, Live>();
  const peer = await serveVmOps(s, commands);
  const key = s.newKey("owner");
  const client = createClient({ baseUrl: s.url, token: key, attemptsMax: 1 });
  const add = (o: Partial<Live> = {}): Live => {
    const none = Buffer.alloc(0);
    const live: Live = {
      id: uuidv7(),
      attempt: 1,
      state: "running",
      stdout: none,
      stderr: none,
      complete: false,
      ...o,
    };
    commands.set(live.id, live);
    return live;
  };
  return { ...s, ...peer, key, client, add };
}

async function refusalOf(work: Promise<unknown>): Promise<MusterError> {
  const error: unknown = await work.then(
    () => undefined,
    (refusal: unknown) => refusal,
  );
  if (error instanceof MusterError) return error;
  throw new Error("was not refused", { cause: error });
}

function bytesOf(events: readonly FollowedEvent[], stream: "stdout" | "stderr"): Buffer {
  return Buffer.concat(
    events.flatMap(({ event, data }) =>
      event === "output" && data.stream === stream ? [Buffer.from(data.data_base64, "base64")] : [],
    ),
  );
}

describe("commands through the gateway", function () {
  this.timeout(60_000);
  let s: Awaited<ReturnType<typeof setupVmOps>>;
  before(async () => (s = await setupVmOps()));
  after(() => s.close());

  it("are accepted with their place, as the caller, and the same key gets the same answer, said so", async () => {
    const input = { body: command, idempotencyKey: "key-1", correlationId: "trace-me" };
    const first = await s.client.acceptCommand(input);
    expect(first).to.include({ status: 202, replayed: false, correlationId: "trace-me" });
    const again = await s.client.acceptCommand(input);
    expect(again.replayed).to.equal(true);
    expect(again.data).to.deep.equal(first.data);
    expect(s.contexts.at(-1)).to.deep.include({ correlationId: "trace-me", tenantId: "acme" });
    const raw = await fetch(`${s.url}/api/v1/vm-ops/commands`, {
      method: "POST",
      headers: { authorization: `Bearer ${s.key}`, "content-type": "application/json" },
      body: JSON.stringify(command),
    });
    const body = (await raw.json()) as { data: { command: { id: string } } };
    expect(raw.headers.get("location")).to.equal(`/api/v1/vm-ops/commands/${body.data.command.id}`);
  });

  it("are refused while vm-ops takes no more, with its time to retry", async () => {
    const refusal = await refusalOf(s.client.acceptCommand({ body: { ...command, environment: "full" } }));
    expect(refusal).to.include({ code: "BACKPRESSURE", status: 503, retryAfterMs: 7_000 });
  });

  it("stay unseen where they are not: 404 before any stream starts", async () => {
    const path = `${s.url}/api/v1/vm-ops/commands/${uuidv7()}/output`;
    const headers = { authorization: `Bearer ${s.key}`, accept: "text/event-stream" };
    const response = await fetch(path, { headers });
    expect(response.status).to.equal(404);
    expect(response.headers.get("content-type")).to.include("application/json");
  });

  it("give the same bytes however their stream is cut and resumed", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 400 }),
        fc.uint8Array({ maxLength: 200 }),
        fc.array(fc.integer({ min: 1, max: 6 }), { maxLength: 6 }),
        async (stdout, stderr, cuts) => {
          const state = "succeeded";
          const live = s.add({
            state,
            complete: true,
            stdout: Buffer.from(stdout),
            stderr: Buffer.from(stderr),
          });
          const seen: FollowedEvent[] = [];
          for (const takes of [...cuts, Infinity]) {
            if (seen.at(-1)?.event === "end") break;
            let left = takes;
            const from = seen.at(-1)?.position;
            for await (const event of s.client.follow(live.id, from === undefined ? {} : { from })) {
              seen.push(event);
              if (--left === 0) break;
            }
          }
          expect(bytesOf(seen, "stdout")).to.deep.equal(Buffer.from(stdout));
          expect(bytesOf(seen, "stderr")).to.deep.equal(Buffer.from(stderr));
          expect(seen.at(-1)).to.have.nested.property("data.exit_code", 0);
        },
      ),
      { numRuns: 15 },
    );
  });

  it("are followed live: hints wake their viewers, and the last viewer's going ends the watch", async () => {
    const live = s.add();
    const seen: FollowedEvent[] = [];
    const following = (async () => {
      for await (const event of s.client.follow(live.id)) seen.push(event);
    })();
    await eventually(() => seen.length === 1 && s.gateway.hints.size === 1);
    const startedMs = performance.now();
    for (let i = 1; i <= 5; i++) {
      live.stdout = Buffer.concat([live.stdout, Buffer.from(`line ${i}\n`)]);
      await eventually(() => {
        s.peers.vmOps.hint(liveExchange, live.id, { command_id: live.id });
        return bytesOf(seen, "stdout").equals(live.stdout);
      });
    }
    // Five polls would take five seconds: it was the hints.
    expect(performance.now() - startedMs).to.be.below(3_000);
    Object.assign(live, { state: "succeeded", complete: true });
    await following;
    expect(seen.filter(({ event }) => event === "state").map(({ data }) => data)).to.deep.equal([
      { state: "running", attempt: 1, reason: "claimed" },
      { state: "succeeded", attempt: 1, reason: "completed" },
    ]);
    await eventually(() => s.gateway.hints.size === 0);
  });

  it("answer output as a page whose cursor goes on where it ended", async () => {
    const live = s.add({ stdout: Buffer.from("x".repeat(120)), state: "succeeded", complete: true });
    let cursor: string | undefined;
    let text = "";
    for (let complete = false; !complete;) {
      const query = cursor === undefined ? {} : { cursor };
      const { data } = await s.client.readOutput({ params: { id: live.id }, query });
      for (const chunk of data.chunks) text += Buffer.from(chunk.data_base64, "base64").toString();
      ({ cursor, complete } = data);
    }
    expect(text).to.equal("x".repeat(120));
    expect(cursor).to.equal("1.120.0");
  });
});

describe("the gateway's bounds", function () {
  this.timeout(60_000);

  it("give 503 at once, with a time to retry, while the owner's queue or the broker is away; then it recovers", async () => {
    const s = await setupVmOps();
    try {
      await s.client.acceptCommand({ body: command });
      s.link.refuse();
      s.link.cut();
      await eventually(() => s.broker.state === "reconnecting");
      const startedMs = performance.now();
      const refusal = await refusalOf(s.client.acceptCommand({ body: command }));
      expect(refusal).to.include({ code: "DEPENDENCY_UNAVAILABLE", status: 503 });
      expect(refusal.retryAfterMs).to.be.at.least(1_000);
      expect(performance.now() - startedMs).to.be.below(500);
      s.link.heal();
      await eventually(async () => (await s.client.acceptCommand({ body: command })).status === 202, 20_000);
      await s.consumer.close();
      await s.vhost.deleteQueue("vm-ops.requests");
      const gone = await refusalOf(s.client.acceptCommand({ body: command }));
      expect(gone).to.include({ code: "DEPENDENCY_UNAVAILABLE", status: 503 });
    } finally {
      await s.close();
    }
  });

  it("hold for streams: one more than the limit is 503, and a place that is freed is given again", async () => {
    const s = await setupVmOps({ MUSTER_GATEWAY_STREAMS_MAX: "1" });
    try {
      const live = s.add();
      const first = s.client.follow(live.id);
      expect((await first.next()).value).to.have.property("event", "state");
      const refusal = await refusalOf(s.client.follow(live.id).next());
      expect(refusal).to.include({ code: "BACKPRESSURE", status: 503 });
      await first.return(undefined);
      await eventually(async () => {
        const next = s.client.follow(live.id);
        await next.next();
        await next.return(undefined);
        return true;
      });
    } finally {
      await s.close();
    }
  });

  it("let a stream go on drain without an end, so that its viewer comes back", async () => {
    const s = await setupVmOps();
    const live = s.add();
    const headers = { authorization: `Bearer ${s.key}`, accept: "text/event-stream" };
    const response = await fetch(`${s.url}/api/v1/vm-ops/commands/${live.id}/output`, { headers });
    let text = "";
    const read = (async () => {
      const decoder = new TextDecoder();
      for await (const bytes of response.body ?? []) text += decoder.decode(bytes, { stream: true });
    })();
    await eventually(() => text.includes("event: state"));
    await s.close();
    await read;
    expect(text)
      .to.match(/retry: \d+\n: draining/)
      .and.not.match(/event: end/);
  });
});
