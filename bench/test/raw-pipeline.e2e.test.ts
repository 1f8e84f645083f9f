import { createServer } from "node:http";
import { setupDatabase } from "@muster/testing/database";
import { setupVhost } from "@muster/testing/vhost";
import { expect } from "chai";
import { loadHttp, readResponses } from "../src/load/http-load.ts";
import { rateOf } from "../src/peers/open-peer.ts";
import { openRawPipeline } from "../src/raw-pipeline/open.ts";

async function setup() {
  const vhost = await setupVhost();
  const database = await setupDatabase({ migrations: [] });
  const pipeline = await openRawPipeline({
    amqpUrl: vhost.amqpUrl,
    databaseUrl: database.adminUrl,
    queueType: "classic",
    payload: JSON.stringify({ text: "true" }),
    vms: 2,
  });
  const close = async (): Promise<void> => {
    await pipeline.close();
    await database.destroy();
    await vhost.destroy();
  };
  return { pipeline, close };
}

describe("the raw pipeline", () => {
  it("completes what it accepts, at a rate, at its limit and through its front", async function () {
    this.timeout(60_000);
    const { pipeline, close } = await setup();
    try {
      const asked = await pipeline.pace({ rate: 20, seconds: 0.5 });
      expect(new Set(asked.map(([id]) => id)).size).to.equal(10);
      expect((await pipeline.counts()).completed).to.equal(10);
      const { accepted } = await pipeline.saturate({ inFlight: 4, outstandingMax: 20, seconds: 0.5 });
      expect(accepted).to.be.above(0);
      const bodies = [JSON.stringify({ vm: 1, payload: { text: "true" } }), JSON.stringify({ vm: "1" })];
      const { url, token } = pipeline.front;
      const load = { url, bodies, connections: 1, seconds: 0.5 };
      const allowed = await loadHttp({ ...load, headers: { authorization: `Bearer ${token}` } });
      expect(Object.keys(allowed.byStatus).sort()).to.deep.equal(["202", "422"]);
      const refused = await loadHttp({ ...load, headers: { authorization: "Bearer another" } });
      expect(Object.keys(refused.byStatus)).to.deep.equal(["401"]);
      const counts = await pipeline.counts();
      expect(counts.completed).to.be.at.most(counts.accepted);
    } finally {
      await close();
    }
  });
});

describe("the load program", () => {
  it("reads answers however they are cut into pieces", () => {
    const seen: string[] = [];
    const read = readResponses((status) => seen.push(status));
    const text =
      "HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\nabcdHTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
    for (const character of text) read(Buffer.from(character));
    read(Buffer.from(text));
    expect(seen).to.deep.equal(["202", "503", "202", "503"]);
  });

  it("stops after its time and counts by status", async () => {
    const server = createServer((_request, response) =>
      response.writeHead(202, { "content-length": 0 }).end(),
    );
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    const port = typeof address === "object" && address !== null ? address.port : 0;
    const url = `http://127.0.0.1:${port}/`;
    const { byStatus } = await loadHttp({ url, bodies: ["{}"], headers: {}, connections: 2, seconds: 0.1 });
    await new Promise((resolve) => server.close(resolve));
    expect(Object.keys(byStatus)).to.deep.equal(["202"]);
  });

  it("gives a rate without the first and last tenth", () => {
    const moments = Array.from({ length: 100 }, (_, n) => n * 10);
    expect(rateOf([...moments, 5_000, 60_000].slice(0, 100))).to.equal(100);
  });
});
