import { once } from "node:events";
import { Duplex } from "node:stream";
import { expect } from "chai";
import { writeTogether } from "./together.ts";

/** A socket that remembers each call of the system. */
function setup(highWaterMark = 16_384) {
  const calls: string[] = [];
  const socket = new Duplex({
    highWaterMark,
    decodeStrings: true,
    read: () => {},
    write: (chunk: Buffer, _encoding, done) => {
      calls.push(chunk.toString());
      done();
    },
    writev: (chunks, done) => {
      calls.push(chunks.map(({ chunk }) => String(chunk)).join(""));
      done();
    },
  });
  writeTogether(socket);
  return { socket, calls, turn: () => new Promise((resolve) => setImmediate(resolve)) };
}

describe("what is written in one turn", () => {
  it("leaves in one call, in its order", async () => {
    const { socket, calls, turn } = setup();
    for (const word of ["a", "b", "c"]) socket.write(word);
    expect(calls).to.deep.equal([]);
    await turn();
    socket.write("d");
    await turn();
    expect(calls).to.deep.equal(["abc", "d"]);
  });

  it("still says when the socket is full, and when it has room again", async () => {
    const { socket, calls } = setup(2);
    expect(socket.write("a")).to.equal(true);
    expect(socket.write("b")).to.equal(false);
    await once(socket, "drain");
    expect(calls).to.deep.equal(["ab"]);
  });

  it("leaves before an end that follows it", async () => {
    const { socket, calls } = setup();
    socket.write("a");
    socket.end("b");
    await once(socket, "finish");
    expect(calls.join("")).to.equal("ab");
  });
});
