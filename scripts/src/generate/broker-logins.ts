import { meshWith } from "@muster/contracts/mesh";
import { noPermissions, servicePermissions, topologyPermissions } from "@muster/contracts/permissions";
import type { BrokerPermissions } from "@muster/contracts/permissions";
import { loginName, logins, type Login } from "@muster/contracts/senders";
import { topologyOf } from "@muster/contracts/topology";
import type { GeneratedFile } from "./mesh-documents.ts";

// How VM queues are kept has no part in who may do what.
const mesh = meshWith({ type: "quorum", deliveryLimit: 2, lengthMax: 10_000 });
const topology = topologyOf(mesh);

const tags: Partial<Record<Login, string>> = { topology: "policymaker", warden: "administrator" };

/** What a login may do at the broker, from what is declared. */
export function permissionsOf(login: Login): BrokerPermissions {
  if (login === "topology") return topologyPermissions(topology);
  return login === "warden" ? noPermissions : servicePermissions(mesh, topology, login);
}

/** Objects of RabbitMQ's messaging topology operator; JSON is YAML, and a string in it is one in both. */
function objectsOf(login: Login): object[] {
  const user = loginName(login);
  const rabbitmqClusterReference = { name: "muster" };
  const apiVersion = "rabbitmq.com/v1beta1";
  const { topics, ...permissions } = permissionsOf(login);
  const vhost = "/";
  const tag = tags[login];
  return [
    {
      ...{ apiVersion, kind: "User", metadata: { name: user } },
      spec: {
        ...(tag === undefined ? {} : { tags: [tag] }),
        ...{ rabbitmqClusterReference, importCredentialsSecret: { name: `muster-broker-${login}` } },
      },
    },
    {
      ...{ apiVersion, kind: "Permission", metadata: { name: user } },
      spec: { vhost, userReference: { name: user }, permissions, rabbitmqClusterReference },
    },
    ...topics.map(({ exchange, write, read }) => ({
      ...{ apiVersion, kind: "TopicPermission", metadata: { name: `${user}.${exchange}` } },
      spec: {
        ...{ vhost, userReference: { name: user }, permissions: { exchange, write, read } },
        rabbitmqClusterReference,
      },
    })),
  ];
}

/** k8s/base/broker-logins.yaml. */
export function brokerLogins(): GeneratedFile {
  const objects = logins.flatMap(objectsOf).map((object) => JSON.stringify(object, null, 2));
  const content = `# Made from the contracts by npm run generate.\n---\n${objects.join("\n---\n")}\n`;
  return { path: "k8s/base/broker-logins.yaml", content };
}
