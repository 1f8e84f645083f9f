import { lookup } from "node:dns";
import type { LookupAddress } from "node:dns";
import * as http from "node:http";
import * as https from "node:https";
import type { LookupFunction } from "node:net";
import { addressFault, mayFetchFrom } from "./addresses.ts";
import type { Networks } from "./addresses.ts";

/** Entra's set, with its certificates, is about 20 KiB. */
export const documentBytesMax = 256 * 1024;

/**
 * The JSON at an address that a tenant chose. It is asked for without credentials, in the time that `signal` leaves; a
 * redirect is no answer. The name is looked up once, and what is connected to is what was looked at: it cannot turn into
 * an address of ours in between. Throws for anything but 200 and JSON of at most `documentBytesMax`.
 */
export async function fetchJson(address: string, networks: Networks, signal: AbortSignal): Promise<unknown> {
  const fault = addressFault(address, networks);
  if (fault !== undefined) throw new Error(`${address} ${fault}`);
  const url = new URL(address);
  const { request } = url.protocol === "https:" ? https : http;
  const body = await new Promise<Buffer>((resolve, reject) => {
    const asked = request(url, {
      agent: false,
      lookup: lookupIn(networks, url.protocol),
      signal,
      headers: { accept: "application/json", "accept-encoding": "identity", "user-agent": "muster-auth" },
    });
    asked.once("error", reject);
    asked.once("response", (response) => {
      readBody(response)
        .then(resolve, reject)
        .finally(() => asked.destroy());
    });
    asked.end();
  });
  const text = new TextDecoder("utf-8", { fatal: true }).decode(body);
  return JSON.parse(text) as unknown;
}

async function readBody(response: http.IncomingMessage): Promise<Buffer> {
  const { statusCode = 0, headers } = response;
  if (statusCode !== 200) throw new Error(`answered with status ${statusCode}`);
  const encoding = headers["content-encoding"];
  if (encoding !== undefined && encoding !== "identity") throw new Error(`answered in ${encoding}`);
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response) {
    if (!(chunk instanceof Buffer)) continue;
    bytes += chunk.length;
    if (bytes > documentBytesMax) throw new Error(`answered with more than ${documentBytesMax} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Finds only addresses that may be fetched from. */
function lookupIn(networks: Networks, protocol: string): LookupFunction {
  return (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, found) => {
      const usable = (found ?? []).filter(({ address }) => mayFetchFrom(address, protocol, networks));
      const [first] = usable;
      if (error !== null || first === undefined) {
        return callback(error ?? refusal(hostname, found), []);
      }
      if (options.all === true) callback(null, usable);
      else callback(null, first.address, first.family);
    });
  };
}

function refusal(hostname: string, found: readonly LookupAddress[]): Error {
  const addresses = found.map(({ address }) => address).join(", ");
  return new Error(`${hostname} is at ${addresses}, which may not be asked; see MUSTER_AUTH_ISSUER_NETWORKS`);
}
