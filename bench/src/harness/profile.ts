/**
 * With MUSTER_BENCH_PROFILES set to a folder, processes that are started with these settings write a CPU profile there
 * between two SIGUSR2; `bench/run read-profiles FOLDER` sums them up.
 */
export function profiled(name?: string): Record<string, string> {
  const folder = process.env.MUSTER_BENCH_PROFILES;
  if (folder === undefined) return {};
  const hook = new URL("./profile-hook.js", import.meta.url).href;
  return {
    NODE_OPTIONS: `--import=${hook}`,
    MUSTER_BENCH_PROFILES: folder,
    ...(name === undefined ? {} : { MUSTER_BENCH_PROFILE_NAME: name }),
  };
}

/** Starts or ends profiles of these processes. */
export function toggleProfiles(pids: readonly number[]): void {
  if (process.env.MUSTER_BENCH_PROFILES === undefined) return;
  for (const pid of pids) process.kill(pid, "SIGUSR2");
}
