import { agentReport, itemsPerReportMax } from "@muster/contracts/agents";
import type { PayloadOf, ReplyOf } from "@muster/contracts/define";
import { Batcher, inOrder } from "../batching/batcher.ts";
import type { Session } from "../session/session.ts";

export type ReportItem = PayloadOf<typeof agentReport>["items"][number];
export type ReportAnswer = ReplyOf<typeof agentReport>["items"][number];
type ItemOf<T extends ReportItem["type"]> = Omit<Extract<ReportItem, { type: T }>, "type">;

const messageBytesMax = 2 * 1024 * 1024;
const reportMessagesMax = 4;

/** Progress and results of many commands in one message. */
export class Reports {
  readonly #batcher: Batcher<ReportItem, ReportAnswer & { sentAtMs: number }>;

  constructor(session: Pick<Session, "report">) {
    this.#batcher = new Batcher({
      sizeMax: itemsPerReportMax,
      bytesMax: messageBytesMax,
      inFlightMax: reportMessagesMax,
      bytesOf: (item) => (item.type === "progress" ? 256 : JSON.stringify(item).length),
      send: async (items) => {
        let sentAtMs = 0;
        const reply = await session.report(agentReport, (ref) => {
          sentAtMs = performance.now();
          return { session: ref, items: [...items] };
        });
        return inOrder(items, reply.items).map((answer) =>
          answer === undefined ? undefined : { ...answer, sentAtMs },
        );
      },
    });
  }

  progress(item: ItemOf<"progress">): Promise<ReportAnswer & { sentAtMs: number }> {
    return this.#batcher.add({ type: "progress", ...item });
  }

  result(item: ItemOf<"result">): Promise<ReportAnswer & { sentAtMs: number }> {
    return this.#batcher.add({ type: "result", ...item });
  }
}
