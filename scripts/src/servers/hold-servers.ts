import { startServers } from "./servers.ts";

// A process of its own that holds a pair of servers until it is killed: `node hold-servers.js FOLDER`.
const folder = process.argv[2];
if (folder === undefined) throw new Error("hold-servers needs a folder");
const log = (line: string): void => void process.stderr.write(`${line}\n`);
const servers = await startServers({ folder, durable: true, log, env: process.env });
const { amqpUrl, managementUrl, databaseUrl } = servers;
const broker = servers.broker.main()?.pid;
const database = servers.database.main()?.pid;
process.stdout.write(`${JSON.stringify({ amqpUrl, managementUrl, databaseUrl, broker, database })}\n`);
process.once("SIGTERM", () => void servers.stop());
