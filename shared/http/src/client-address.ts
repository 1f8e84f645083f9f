import { BlockList, isIP, isIPv4, isIPv6 } from "node:net";
import type { IncomingMessage } from "node:http";

/** Proxies in front of this server whose `X-Forwarded-For` is believed. */
export type TrustedProxies = Pick<BlockList, "check">;

const blockShape = /^([0-9a-f.:]+)(?:\/([0-9]{1,3}))?$/i;

/** Addresses and CIDR blocks, of IPv4 and IPv6. Throws a RangeError that names the one that is none. */
export function trustedProxies(blocks: readonly string[]): TrustedProxies {
  const list = new BlockList();
  for (const block of blocks) {
    const [, address = "", prefix] = blockShape.exec(block) ?? [];
    const bits = isIPv4(address) ? 32 : 128;
    const length = prefix === undefined ? bits : Number(prefix);
    if (isIP(address) === 0 || length > bits) throw new RangeError(`${block} is no address or CIDR block`);
    list.addSubnet(address, length, familyOf(address));
  }
  return list;
}

/**
 * Who asks: the connection's other end, and while that is a trusted proxy, whom it names. Each proxy adds at the right end
 * whom it heard from, so what a client wrote itself stands left of what counts and is never reached.
 */
export function clientAddressOf(request: IncomingMessage, trusted: TrustedProxies): string | undefined {
  const { remoteAddress } = request.socket;
  if (remoteAddress === undefined) return undefined;
  let address = plain(remoteAddress) ?? remoteAddress;
  const forwarded = request.headers["x-forwarded-for"];
  if (forwarded === undefined) return address;
  const hops = (typeof forwarded === "string" ? forwarded : forwarded.join()).split(",");
  while (hops.length > 0 && trusted.check(address, familyOf(address))) {
    const named = plain(hops.pop()!.trim());
    if (named === undefined) break;
    address = named;
  }
  return address;
}

const familyOf = (address: string): "ipv4" | "ipv6" => (isIPv6(address) ? "ipv6" : "ipv4");

/** An address without zone, port and brackets; IPv4 as itself where IPv6 carries it. Undefined where it is none. */
function plain(text: string): string | undefined {
  const bare = /^\[(.+)\](?::[0-9]+)?$/.exec(text)?.[1] ?? /^([0-9.]+):[0-9]+$/.exec(text)?.[1] ?? text;
  const address = bare.split("%", 1)[0]!.toLowerCase();
  const mapped = /^::ffff:([0-9.]+)$/.exec(address)?.[1];
  if (mapped !== undefined && isIPv4(mapped)) return mapped;
  return isIP(address) === 0 ? undefined : address;
}
