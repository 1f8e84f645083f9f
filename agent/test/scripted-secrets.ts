import { generateKeyPairSync, verify, type KeyObject } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { PayloadOf, ReplyInputOf } from "@muster/contracts/define";
import { MusterError } from "@muster/contracts/errors";
import {
  resolveProofText,
  secretsAgentsQueue,
  secretsReports,
  type ResolvedSecrets,
} from "@muster/contracts/secret-reports";
import { sealedFor } from "@muster/contracts/secrets";
import { agentLoginName, loginName } from "@muster/contracts/senders";
import { openBroker } from "@muster/broker/broker";
import { seal } from "@muster/sealing/box";
import { openLogger } from "@muster/telemetry/logger";
import { createMetrics } from "@muster/telemetry/metrics";
import { writeIdentity } from "../src/identity/identity.ts";
import { agentIn, type InstalledAgent } from "./agent-process.ts";
import { memoryFolder } from "./memory.ts";
import type { ScriptedMesh } from "./scripted-mesh.ts";

type Question = PayloadOf<typeof secretsReports.resolve>;
type Answer = ReplyInputOf<typeof secretsReports.resolve>;

const epoch = 1;

/** Answers an agent's questions for secrets, by real boxes, once it has held their proof against the key that it was paired by. */
async function openSecrets(mesh: ScriptedMesh, publicKey: KeyObject) {
  const broker = await openBroker({
    ...{ url: await mesh.vhost.urlAs(loginName("secrets")), name: "scripted-secrets", service: "secrets" },
    logger: openLogger({ service: "scripted-secrets", level: "silent" }),
    metrics: createMetrics({ service: "scripted-secrets" }),
  });
  const values = new Map<string, Pick<ResolvedSecrets[number], "value" | "as">>();
  const questions: Question[] = [];
  const script = {
    answer: (_question: Question, usual: () => Promise<Answer | MusterError>) => usual(),
    leaseMs: 30_000,
  };
  async function usual(question: Question): Promise<Answer | MusterError> {
    const { command_id: commandId, attempt, nonce, x, proof, token } = question;
    const who = { tenant: mesh.tenantId, agentId: mesh.agentId, commandId, attempt };
    const said = Buffer.from(resolveProofText({ ...who, nonce, x }));
    if (!verify(null, said, publicKey, Buffer.from(proof, "base64url")))
      return new MusterError("AGENT_KEY_UNKNOWN");
    if (token !== `token-${commandId}-${attempt}`) return new MusterError("ATTEMPT_NOT_RUNNING");
    const resolved: ResolvedSecrets = [];
    for (const reference of question.references) {
      const found = values.get(reference);
      if (found === undefined) return new MusterError("SECRET_NOT_BOUND");
      resolved.push({ reference, version: 1, ...found });
    }
    const sealed = await seal(Buffer.from(JSON.stringify(resolved)), { x, about: sealedFor.attempt(who) });
    return { lease_ms: script.leaseMs, sealed };
  }
  const consumer = await broker.serveReports(secretsAgentsQueue, secretsReports, {
    resolve: (items) =>
      Promise.all(
        items.map(({ payload }) => {
          questions.push(payload);
          return script.answer(payload, () => usual(payload));
        }),
      ),
  });
  return {
    ...{ values, questions, script },
    close: async () => {
      await consumer.close();
      await broker.close();
    },
  };
}

/** A paired agent with its secrets service, its gateway for the broker's logins, and a folder in memory. */
export async function installPairedAgent(mesh: ScriptedMesh): Promise<
  InstalledAgent & {
    readonly secrets: Awaited<ReturnType<typeof openSecrets>>;
    readonly memory: string;
  }
> {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const login = agentLoginName(mesh.agentId, { epoch });
  const password = "of-the-test";
  const user = encodeURIComponent(login);
  await mesh.vhost.call("PUT", `/users/${user}`, { password, tags: "" });
  await mesh.vhost.call("PUT", `/permissions/{vhost}/${user}`, { configure: ".*", write: ".*", read: ".*" });
  const agent = { epoch, vm_uuids: mesh.vmUuids, login_token: password, broker_url: null };
  const gateway = createServer((_request, response) => {
    const data = { access_token: password, expires_in_seconds: 3_600, agent };
    response.setHeader("content-type", "application/json").end(JSON.stringify({ data }));
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => gateway.once("listening", resolve));
  const memory = memoryFolder();
  const brokerUrl = new URL(mesh.link.url);
  [brokerUrl.username, brokerUrl.password] = ["", ""];
  const installed = await agentIn({
    MUSTER_AMQP_URL: brokerUrl.href,
    MUSTER_AGENT_SECRETS_DIR: memory.path,
  });
  writeIdentity(installed.home, {
    gateway_url: `http://127.0.0.1:${(gateway.address() as AddressInfo).port}`,
    ...{ tenant_id: mesh.tenantId, agent_id: mesh.agentId, epoch, broker_url: null },
    private_key: privateKey.export({ format: "pem", type: "pkcs8" }).toString(),
  });
  const secrets = await openSecrets(mesh, publicKey);
  return {
    ...installed,
    ...{ secrets, memory: memory.path },
    remove: async () => {
      await installed.remove();
      await secrets.close();
      await new Promise((resolve) => gateway.close(resolve));
      await mesh.vhost.call("DELETE", `/users/${user}`);
      memory.remove();
    },
  };
}
