import { constants } from "node:fs";
import { open } from "node:fs/promises";
import type { ActionParams } from "@muster/contracts/actions";
import { emptyResult, failed, type Outcome } from "../driver.ts";
import { sha256Of } from "./put-file.ts";

/** Reads a regular file of at most `max_bytes`; a larger one fails rather than being cut. */
export async function getFile(params: ActionParams<"file.get">): Promise<Outcome> {
  try {
    // Without waiting: opening a named pipe would block for ever.
    const handle = await open(params.path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const stat = await handle.stat();
      if (!stat.isFile()) return failed("start_failed", "none", `${params.path} is not a regular file`);
      // One byte more than allowed: a file that grows, and those of /proc, do not say their size.
      const buffer = Buffer.alloc(params.max_bytes + 1);
      let length = 0;
      while (length < buffer.length) {
        const { bytesRead } = await handle.read(buffer, length, buffer.length - length, null);
        if (bytesRead === 0) break;
        length += bytesRead;
      }
      if (length > params.max_bytes) {
        return failed("start_failed", "none", `${params.path} is larger than ${params.max_bytes} bytes`);
      }
      const bytes = buffer.subarray(0, length);
      const data = {
        path: params.path,
        bytes: length,
        sha256: sha256Of(bytes),
        mode: (stat.mode & 0o7777).toString(8).padStart(4, "0"),
        content_base64: bytes.toString("base64"),
      };
      return { outcome: "succeeded", reason: "completed", effect: "none", result: { ...emptyResult, data } };
    } finally {
      await handle.close();
    }
  } catch (error) {
    return failed("start_failed", "none", error instanceof Error ? error.message : String(error));
  }
}
