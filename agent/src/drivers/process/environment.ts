import { userInfo } from "node:os";
import { markerName } from "./run-folder.ts";

export const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** A clean environment: who runs it, what the command gave, and the marks by which the run is found. Nothing of ours. */
export function environmentOf(
  commandId: string,
  handle: string,
  given: Readonly<Record<string, string>> | undefined,
): Record<string, string> {
  const user = userInfo();
  return {
    PATH: defaultPath,
    HOME: user.homedir,
    LANG: "C.UTF-8",
    USER: user.username,
    SHELL: user.shell ?? "/bin/sh",
    TERM: "dumb",
    ...given,
    MUSTER_COMMAND_ID: commandId,
    [markerName]: handle,
  };
}
