import { serviceNames, type ServiceName } from "../system.ts";

type Settings = Partial<Record<ServiceName, Record<string, string>>>;

/** Thousands of requests are refused here: the lines of debugging of each would cost more than the request. */
export function quietLogs(more: Settings = {}): Settings {
  const settings: Settings = {};
  for (const name of serviceNames) settings[name] = { MUSTER_LOG_LEVEL: "warn", ...more[name] };
  return settings;
}
