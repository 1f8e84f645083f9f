import type { KeyObject } from "node:crypto";
import { agentLoginName } from "@muster/contracts/senders";
import { SettingsError, type SettingFault, type Values } from "@muster/service/settings";
import type { Logger } from "@muster/telemetry/logger";
import type { Metrics } from "@muster/telemetry/metrics";
import type { settings } from "../settings.ts";
import { GatewayDoor } from "./gateway.ts";
import { privateKeyOf, readIdentity, type Identity } from "./identity.ts";
import { BrokerTokens } from "./tokens.ts";

type Config = Values<typeof settings>;

/** Who the agent is to the broker, and how it proves it. */
export interface Login {
  readonly tenantId: string;
  readonly agentId: string;
  /** The VMs that it may serve, as far as it knows. */
  vmUuids(): readonly string[];
  /** Asked before every connect. */
  readonly url: () => Promise<string>;
  /** What takes the login's place once it is connected: a token with every queue may be too long to log in with. */
  readonly secret?: () => string | undefined;
  /** These are absent for an agent that has a password. */
  readonly tokens?: BrokerTokens;
  /** Of its pairing (Ed25519): by this it proves who it is. */
  readonly key?: KeyObject;
}

/**
 * By a password where the settings name the agent, else by what a pairing left in the home. Throws SettingsError where neither
 * is there, IdentityDamaged.
 */
export function openLogin(
  config: Config,
  home: string,
  o: { readonly logger: Logger; readonly metrics: Metrics },
): Login {
  const { MUSTER_TENANT_ID, MUSTER_AGENT_ID, MUSTER_AGENT_VMS } = config;
  const named = [MUSTER_TENANT_ID, MUSTER_AGENT_ID, MUSTER_AGENT_VMS].some((value) => value !== undefined);
  if (named) return byPassword(config);
  const identity = readIdentity(home);
  if (identity === undefined) {
    const rule =
      "must be the home of a paired agent: run `muster-agent pair --gateway URL --code CODE` with a code of " +
      "POST /api/v1/agents/pairing-codes, or name an agent that has a password at the broker with " +
      "MUSTER_AMQP_URL, MUSTER_TENANT_ID, MUSTER_AGENT_ID and MUSTER_AGENT_VMS";
    throw new SettingsError([{ name: "MUSTER_AGENT_HOME", rule, value: home }]);
  }
  return byToken(config, identity, o);
}

function byPassword(config: Config): Login {
  const { MUSTER_AMQP_URL: url, MUSTER_TENANT_ID: tenantId, MUSTER_AGENT_ID: agentId } = config;
  const vmUuids = config.MUSTER_AGENT_VMS;
  const needed = {
    MUSTER_AMQP_URL: url,
    MUSTER_TENANT_ID: tenantId,
    MUSTER_AGENT_ID: agentId,
    MUSTER_AGENT_VMS: vmUuids,
  };
  const faults = Object.entries(needed).flatMap(([name, value]): SettingFault[] =>
    value === undefined
      ? [
          {
            name,
            rule: "must be set with the others that name the agent; none of them for a paired one",
            value: undefined,
          },
        ]
      : [],
  );
  if (url === undefined || tenantId === undefined || agentId === undefined || vmUuids === undefined) {
    throw new SettingsError(faults);
  }
  return { tenantId, agentId, vmUuids: () => vmUuids, url: () => Promise.resolve(url) };
}

function byToken(
  config: Config,
  identity: Identity,
  o: { readonly logger: Logger; readonly metrics: Metrics },
): Login {
  const { tenant_id: tenantId, agent_id: agentId } = identity;
  const door = new GatewayDoor(config.MUSTER_GATEWAY_URL ?? identity.gateway_url);
  const key = privateKeyOf(identity.private_key);
  const tokens = new BrokerTokens({ agentId, key, door, ...o });
  const addressOf = (said: string | null) => config.MUSTER_AMQP_URL ?? said ?? identity.broker_url;
  if (addressOf(null) === null) {
    const rule = "must be set: the pairing did not say where the broker is";
    throw new SettingsError([{ name: "MUSTER_AMQP_URL", rule, value: undefined }]);
  }
  return {
    ...{ tenantId, agentId, tokens, key },
    vmUuids: () => tokens.last?.agent.vm_uuids ?? [],
    async url() {
      const { agent } = await tokens.current();
      const url = new URL(addressOf(agent.broker_url) ?? "");
      url.username = agentLoginName(agentId, { epoch: agent.epoch });
      url.password = agent.login_token;
      return url.href;
    },
    secret: () => tokens.last?.access_token,
  };
}
