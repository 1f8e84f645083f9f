import type { ServiceContext } from "@muster/service/start";
import type { Settings } from "@muster/service/settings";
import { Journal } from "./journal.ts";
import { JournalCorrupt } from "./tables.ts";

/**
 * The journal, or undefined when it is corrupt: then the process stays up, not ready, claims nothing and says so, because
 * starting without knowing what was started before could start things twice.
 */
export function openJournalOrIdle(
  home: string,
  service: Pick<ServiceContext<Settings>, "own" | "logger">,
): Journal | undefined {
  try {
    return service.own("journal", Journal.open(home));
  } catch (error) {
    if (!(error instanceof JournalCorrupt)) throw error;
    service.logger.error(
      { err: error },
      "degraded(journal): corrupt; claiming nothing until it is moved away or restored",
    );
    const reason = `degraded(journal): ${error.message}`;
    service.own("journal", { close: () => Promise.resolve() }, () => ({ ok: false, reason }));
    return undefined;
  }
}
