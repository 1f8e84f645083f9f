import { expect } from "chai";
import { Batcher, inOrder } from "./batcher.ts";

function setup(o: { inFlightMax: number; bytesMax?: number }) {
  const sent: number[][] = [];
  const answers: ((error?: Error) => void)[] = [];
  const batcher = new Batcher<number, number>({
    sizeMax: 3,
    bytesMax: o.bytesMax ?? 1_000,
    inFlightMax: o.inFlightMax,
    bytesOf: (item) => item,
    send: (items) => {
      sent.push([...items]);
      return new Promise((resolve, reject) => {
        answers.push((error) =>
          error === undefined ? resolve(items.map((item) => item * 10)) : reject(error),
        );
      });
    },
  });
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  return { batcher, sent, answers, turn };
}

describe("a batcher", () => {
  it("sends what comes in one turn together, and gathers the rest while answers are slow", async () => {
    const { batcher, sent, answers, turn } = setup({ inFlightMax: 1 });
    const all = [1, 2, 3, 4].map((item) => batcher.add(item));
    await turn();
    expect(sent).to.deep.equal([[1, 2, 3]]);
    const late = batcher.add(5);
    await turn();
    expect(sent).to.have.length(1);
    answers[0]?.();
    await all[0];
    await turn();
    expect(sent[1]).to.deep.equal([4, 5]);
    answers[1]?.();
    expect(await Promise.all([...all, late])).to.deep.equal([10, 20, 30, 40, 50]);
  });

  it("keeps each message within its bytes, and sends a single larger item alone", async () => {
    const { batcher, sent, turn } = setup({ inFlightMax: 9, bytesMax: 10 });
    for (const item of [6, 6, 20, 1]) void batcher.add(item);
    await turn();
    expect(sent).to.deep.equal([[6], [6], [20], [1]]);
  });

  it("tells every item of a message that it failed, and goes on with the next", async () => {
    const { batcher, answers, turn } = setup({ inFlightMax: 1 });
    const first = batcher.add(1).catch((error: unknown) => String(error));
    await turn();
    answers[0]?.(new Error("away"));
    expect(await first).to.equal("Error: away");
    const second = batcher.add(2);
    await turn();
    answers[1]?.();
    expect(await second).to.equal(20);
  });
});

describe("answers", () => {
  it("are matched by place where two reports of one attempt share a message, and by key where the order differs", () => {
    const item = (command_id: string) => ({ command_id, attempt: 1 });
    const answer = (command_id: string, n: number) => ({ command_id, attempt: 1, n });
    const twice = inOrder([item("a"), item("a")], [answer("a", 1), answer("a", 2)]);
    expect(twice.map((one) => one?.n)).to.deep.equal([1, 2]);
    const turned = inOrder([item("a"), item("b"), item("c")], [answer("b", 2), answer("a", 1)]);
    expect(turned.map((one) => one?.n)).to.deep.equal([1, 2, undefined]);
  });
});
