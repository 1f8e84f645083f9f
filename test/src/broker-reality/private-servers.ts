import { mkdtemp } from "node:fs/promises";
import { realpathSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { removeServerData, startServers, type Servers } from "@muster/scripts/servers/servers";

export interface PrivateServers extends Servers {
  /** Runs `rabbitmqctl` on the node. */
  control(args: readonly string[]): Promise<string>;
  /** Kills the node's machine and starts it on its data again; resolves when it answers. */
  killAndStartBroker(): Promise<void>;
  /** Brings these quorum queues into the state in which a node that was killed too early finds them. */
  makeLeaderless(vhost: string, queues: readonly string[]): Promise<void>;
  remove(): Promise<void>;
}

/** A broker and a database of one test file, which it may kill, alarm and damage. */
export async function openPrivateServers(
  o: { readonly brokerKeysUrl?: string } = {},
): Promise<PrivateServers> {
  const folder = await mkdtemp(join(realpathSync(tmpdir()), "muster-reality-"));
  const servers = await startServers({
    folder,
    durable: false,
    log: () => undefined,
    env: { PATH: process.env.PATH },
    brokerKeysUrl: o.brokerKeysUrl,
  });
  const control = (args: readonly string[]): Promise<string> => {
    if (servers.broker.control === undefined) throw new Error("the broker is not ours to control");
    return servers.broker.control(args);
  };
  return {
    ...servers,
    control,
    killAndStartBroker: async () => {
      await servers.killBroker("SIGKILL");
      await servers.restartBroker();
    },
    makeLeaderless: async (vhost, queues) => {
      for (const queue of queues) await control(["eval", leaderless(vhost, queue)]);
    },
    remove: async () => {
      await servers.stop();
      removeServerData(folder);
    },
  };
}

/**
 * The server process of the queue is gone with its log, and the node recovers the queue as it does at start: not
 * found in its directory, it is started as a new member, which nobody tells to elect itself. Nor has it statistics.
 */
const leaderless = (vhost: string, queue: string): string => `begin
  Name = rabbit_misc:r(<<"${vhost}">>, queue, <<"${queue}">>),
  {ok, Q} = rabbit_amqqueue:lookup(Name),
  ok = ra:force_delete_server(quorum_queues, amqqueue:get_pid(Q)),
  {Recovered, []} = rabbit_quorum_queue:recover(<<"${vhost}">>, [Q]),
  rabbit_core_metrics:queue_deleted(Name),
  rabbit_event:notify(queue_deleted, [{name, Name}]),
  length(Recovered)
end.`;
